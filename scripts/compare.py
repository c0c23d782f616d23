"""Compares finished evaluations on the same problems: a table, paired differences, and a plot.

    python -m scripts.compare outputs/quickstart/bon outputs/quickstart/beam2
    python -m scripts.compare "MV=outputs/quickstart/bon:MV" "VGS=outputs/quickstart/beam2:WMV" \
        --output scaling.png

Each is a run of inference_eval.py, `folder`, or one of its aggregations, `folder:method`, with
`label=` in front of it to call it otherwise in the table. The others are compared with the first.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.text import format_table
from scripts.plots import check_plot_path, save_plot
from search_lib.plugins import PluginFlag
from search_lib.results.metrics import MetricRow, read_metrics
from search_lib.results.run_config import ProblemSet, RunConfig, check_same_problems
from search_lib.results.selection import Selection, check_curve_names, parse_selections
from search_lib.results.statistics import bootstrap_interval, permutation_p_value

PROGRAM = "scripts.compare"


@dataclass(frozen=True)
class Args:
    """Compare runs on the same problems."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """folder, folder:method, label=folder or label=folder:method; the first is what the others are
    compared with. In place of a folder may stand its file of records, or of other metrics, such as
    metrics.published.json."""
    output: Path | None = None
    """A plot of accuracy against budget, a .png, .pdf or .svg file."""
    title: str = ""
    """Above the plot."""
    plugin_flag: PluginFlag = PluginFlag()


Curve = dict[int, MetricRow]
"""Accuracies of one method by budget."""


class LoadedRun(NamedTuple):
    """A run of which curves are compared.

    Attributes:
        selection: The run, as the user named it.
        curves: Its curves by method.
        problems: Its problems.
    """

    selection: Selection
    curves: dict[str, Curve]
    problems: ProblemSet


def load_run(selection: Selection) -> LoadedRun:
    """Reads the curves of a run.

    Raises:
        ValueError: If the run or the method is not there; begins with its label.
        InputError: If its metrics are damaged, or no problem has a reference.
    """
    path = selection.path
    folder = path.parent if path.suffix == ".jsonl" else path  # of its file of records
    metrics_path = path if path.suffix == ".json" else folder / "metrics.json"
    found = read_metrics(metrics_path)
    if found is None:
        raise ValueError(f"{selection.label}: there is no {metrics_path}; has the run ended?")
    curves: dict[str, Curve] = {}
    for row in found.rows:
        curves.setdefault(row.method, {})[row.budget] = row
    if not curves:
        raise ValueError(f"{selection.label}: {metrics_path} has no complete problem")
    if selection.method is not None:
        if selection.method not in curves:
            raise ValueError(
                f"{selection.label}: {metrics_path} has no method {selection.method!r}; it has "
                f"{', '.join(curves)}; `python -m search_lib.results.summary {folder} --vote "
                f"{selection.method}` counts it"
            )
        curves = {selection.method: curves[selection.method]}
    config = RunConfig.load(metrics_path.parent)
    digest = config.fingerprints.get("benchmark") if config else None
    return LoadedRun(selection, curves, ProblemSet(selection.label, found.problem_ids, digest))


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


def format_point(point: MetricRow | None) -> str:
    """Returns the cell of a point; an empty one where a curve has no such budget."""
    if point is None:
        return ""
    return f"{100 * point.estimate.mean:.1f} ± {100 * (point.estimate.over_problems or 0):.1f}"


def format_differences(runs: Sequence[LoadedRun]) -> str:
    """Returns a table of the runs minus the first one, paired by problem.

    A line is a method at a budget that both have. Where the first run is one method, all are
    compared with it; else each with the same method of the first.
    """
    baseline, *others = runs
    lines = []
    for run in others:
        for method, curve in run.curves.items():
            of_baseline = baseline.selection.method or method
            other = baseline.curves.get(of_baseline, {})
            names = run.selection.label_of(method), baseline.selection.label_of(of_baseline)
            lines += [
                [" - ".join(names), str(budget), *compare(curve[budget], other[budget])]
                for budget in sorted(curve.keys() & other.keys())
            ]
    header = ["", "budget", "difference", "95 % interval", "p", "n", "better", "worse"]
    return format_table(header, lines)


def compare(point: MetricRow, baseline: MetricRow) -> list[str]:
    """Returns the cells of a difference: points, interval, p-value, problems, better and worse."""
    ours, theirs = (np.array(row.per_problem)[:, None] for row in (point, baseline))
    differences = (ours - theirs)[:, 0]
    interval = bootstrap_interval(ours - theirs)
    p_value = permutation_p_value(ours, theirs)
    return [
        f"{100 * differences.mean():+.1f}",
        f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}" if interval else "-",
        f"{p_value:.4f}" if p_value >= 0.0001 else "< 0.0001",
        str(len(differences)),
        str(np.sum(differences > 1e-9)),
        str(np.sum(differences < -1e-9)),
    ]


def plot(curves: dict[str, Curve], title: str, output: Path) -> None:
    """Plots accuracy against budget on a logarithmic axis, with 95 % intervals over problems."""
    import matplotlib.pyplot as plt

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
    save_plot(figure, output)


def main(args: Args) -> None:
    """Prints the table and the differences, and writes the plot.

    Raises:
        InputError: If a run can't be read, or the runs are of different problems.
    """
    args.plugin_flag.load()
    if len(args.runs) < 2:
        raise InputError("RUNS needs at least two, to compare one with another")
    if args.output is not None:
        check_plot_path(args.output)
    with naming("RUNS"):
        runs = [load_run(selection) for selection in parse_selections(args.runs)]
        check_same_problems([run.problems for run in runs])
        named = [
            (run.selection.label_of(method), curve)
            for run in runs
            for method, curve in run.curves.items()
        ]
        check_curve_names(name for name, _ in named)
    curves = dict(named)
    num_problems = len(runs[0].problems.ids)
    print(format_curves(curves))
    print(f"accuracy in % ± 95 % interval over {num_problems} problems\n")
    print(format_differences(runs))
    print(
        "points, paired by problem; interval: bootstrap over problems; p: two-sided permutation "
        "test;\nbetter, worse: problems, of n"
    )
    if args.output is not None:
        plot(curves, args.title, args.output)
        print(f"\nplot: {args.output}")


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: main(args))


if __name__ == "__main__":
    run()
