"""Compares finished evaluations on the same problems: one table, one plot.

    python -m scripts.compare_runs --output scaling.png --baseline "MV" \
        --curves "MV=outputs/quickstart/bon:MV" "VGS=outputs/quickstart/beam2:WMV"

A curve is `label=folder:method`: a run of inference_eval.py and one of its aggregations.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.files import read_json
from run_lib.text import format_table
from search_lib.results.statistics import Estimate, estimate_difference

PROGRAM = "scripts.compare_runs"


@dataclass(frozen=True)
class Args:
    """Accuracy against budget of several runs."""

    curves: tuple[str, ...]
    """label=folder:method each; the folder holds a metrics.json. A file in its place may be another
    one, such as metrics.published.json."""
    output: Path
    """The plot, a .png, .pdf or .svg file."""
    baseline: str
    """Label of the curve that the last one is compared with, problem by problem."""
    title: str = ""
    """Above the plot."""


@dataclass(frozen=True)
class Point:
    """Accuracy at one budget."""

    estimate: Estimate
    per_problem: np.ndarray


Curve = dict[int, Point]
"""Points by budget."""


def load_curve(specification: str) -> tuple[str, Curve, list[str]]:
    """Returns the label, the points and the problem ids of `label=folder:method`.

    Raises:
        ValueError: If it is not of that form, or the run or method is not there; begins with it
            or its label.
    """
    label, _, source = specification.partition("=")
    folder, _, method = source.rpartition(":")
    if not (label and folder and method):
        raise ValueError(f"{specification!r} is not of the form label=folder:method")
    path = Path(folder) if folder.endswith(".json") else Path(folder) / "metrics.json"
    document = read_json(path)
    if document is None:
        raise ValueError(f"{label}: there is no {path}; has the run ended?")
    rows: list[dict[str, Any]] = document["metrics"]
    curve = {
        row["budget"]: Point(Estimate(**row["estimate"]), np.array(row["per_problem"]))
        for row in rows
        if row["method"] == method
    }
    if not curve:
        known = sorted({row["method"] for row in rows})
        raise ValueError(f"{label}: {path} has no method {method!r}; it has {known}")
    return label, curve, document["problem_ids"]


def format_curves(curves: dict[str, Curve]) -> str:
    """Returns a table of accuracies in per cent with 95 % intervals over problems.

    A curve is a line, and a budget a column.
    """
    budgets = sorted({budget for curve in curves.values() for budget in curve})
    lines = [
        [label, *(format_point(curve.get(budget)) for budget in budgets)]
        for label, curve in curves.items()
    ]
    return format_table(["budget", *map(str, budgets)], lines)


def format_point(point: Point | None) -> str:
    """Returns the cell of a point; an empty one where a curve has no such budget."""
    if point is None:
        return ""
    return f"{100 * point.estimate.mean:.1f} ± {100 * (point.estimate.over_problems or 0):.1f}"


def format_differences(curves: dict[str, Curve], baseline: str) -> str:
    """Returns the last curve minus the baseline, paired by problem, at every budget of both."""
    label = list(curves)[-1]
    lines = []
    for budget in sorted(curves[label].keys() & curves[baseline].keys()):
        difference = estimate_difference(
            curves[label][budget].per_problem[:, None],
            curves[baseline][budget].per_problem[:, None],
        )
        lines.append(
            f"budget {budget:>4}: {100 * difference.mean:+.1f} ± "
            f"{100 * (difference.over_problems or 0):.1f}"
        )
    return f"{label} minus {baseline}, paired by problem:\n" + "\n".join(lines)


def plot(curves: dict[str, Curve], title: str, output: Path) -> None:
    """Plots accuracy against budget on a logarithmic axis, with 95 % intervals over problems."""
    figure, axes = plt.subplots(figsize=(7, 4.6), layout="constrained")
    markers = "os^Dvp*X"
    budgets = sorted({budget for curve in curves.values() for budget in curve})
    last = len(curves) - 1
    for index, (label, curve) in enumerate(curves.items()):
        # Curves share budgets: shifted a little sideways, their intervals stay readable.
        shift = 2 ** (0.07 * (index - last / 2))
        axes.errorbar(
            [budget * shift for budget in curve],
            [100 * point.estimate.mean for point in curve.values()],
            [100 * (point.estimate.over_problems or 0) for point in curve.values()],
            label=label,
            marker=markers[index % len(markers)],
            markersize=5,
            capsize=2.5,
            elinewidth=1,
            linewidth=2.4 if index == last else 1.3,
            zorder=3 if index == last else 2,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.set_xlabel("budget (blocks in flight × trees, or samples)")
    axes.set_ylabel("accuracy (%), 95 % interval over problems")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title)
    axes.legend(frameon=False, ncols=2)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
    plt.close(figure)


def main(args: Args) -> None:
    """Prints the table and the differences, and writes the plot.

    Raises:
        InputError: If a curve can't be loaded, or the runs are of different problems.
    """
    with naming("--curves"):
        loaded = [load_curve(specification) for specification in args.curves]
    curves = {label: curve for label, curve, _ in loaded}
    if args.baseline not in curves:
        raise InputError(f"--baseline {args.baseline!r} is none of the curves {list(curves)}")
    problem_ids = loaded[0][2]
    for label, _, ids in loaded:
        if ids != problem_ids:
            raise InputError(
                f"--curves: {label} has {len(ids)} problems, {loaded[0][0]} has "
                f"{len(problem_ids)}, {len(set(ids) & set(problem_ids))} in common: only the same "
                "can be compared"
            )
    print(format_curves(curves))
    print(f"accuracy in % ± 95 % interval over {len(problem_ids)} problems\n")
    print(format_differences(curves, args.baseline))
    plot(curves, args.title, args.output)
    print(f"\nplot: {args.output}")


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: main(args))


if __name__ == "__main__":
    run()
