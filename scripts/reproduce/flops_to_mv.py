"""Figure of the VGS paper: the FLOPs that VGS needs to be as accurate as majority voting.

    python -m scripts.reproduce.flops_to_mv --toy

From the runs of the main table. A majority vote of n samples has an accuracy and a cost; VGS is as
accurate with some number of trees, the first at which its mean over the problem sets is not below.
Both are means over random subsets of samples or trees (docs/statistics.md). FLOPs are those that
the runs took, value model included.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from run_lib.commands import parse_command_line, run_command
from run_lib.text import format_table
from scripts.plots import save_plot
from scripts.reproduce.plan import carry_out
from scripts.reproduce.searches import (
    PAPER,
    SAMPLES,
    Policy,
    SearchPlanArgs,
    SearchRun,
    check_flags,
    format_missing,
    runs_of,
    scale_of,
)
from search_lib.answer_rules import ANSWER_RULES
from search_lib.results.curves import budget_curve
from search_lib.results.run_trees import RunTrees
from search_lib.results.selection import Selection

PROGRAM = "scripts.reproduce.flops_to_mv"

PUBLISHED = "25-50 %"
"""Generations of VGS, in those of MV, at equal accuracy: 50-75 % fewer."""


class Curve(NamedTuple):
    """Means over problem sets with every number of trees.

    Attributes:
        budgets: [trees], blocks in flight x trees, or samples.
        flops: [trees], a problem; NaN where they are not known.
        accuracies: [trees].
    """

    budgets: np.ndarray
    flops: np.ndarray
    accuracies: np.ndarray

    def reach(self, accuracy: float) -> int | None:
        """Returns the place of the first point that is as accurate; None if none is."""
        as_good = self.accuracies >= accuracy - 1e-9
        return int(as_good.argmax()) if as_good.any() else None


def mean_curve(runs: Sequence[SearchRun], method: str) -> Curve | None:
    """Returns the curve of runs on several problem sets; None if one of them is missing."""
    if any(run.curves is None for run in runs):
        return None
    rows = []
    for run in runs:
        trees = RunTrees.load(run.folder, ANSWER_RULES[run.args.answers])
        points = budget_curve(Selection(run.name, run.folder, method, True), trees, method).points
        rows.append(
            [
                (p.costs["budget"], p.costs.get("flops", np.nan), p.per_problem.mean())
                for p in points[: run.trees]
            ]
        )
    return Curve(*np.mean(rows, axis=0).T)


def format_savings(policy: Policy, curves: tuple[Curve, Curve] | None) -> list[list[str]]:
    """Returns a line for every power of two of samples: its accuracy, and what VGS needs for it.

    The last one, of the policy's budget, has the published figure beside it.
    """
    published = PUBLISHED if policy in PAPER.policies else "-"
    if curves is None:
        return [[f"{policy.name}, MV of {policy.budget}", *["-"] * 6, published]]
    mv, vgs = curves
    lines = []
    for place in [n - 1 for n in (2**power for power in range(20)) if n <= len(mv.budgets)]:
        samples, accuracy, flops = mv.budgets[place], mv.accuracies[place], mv.flops[place]
        line = [f"{policy.name}, MV of {samples:.0f}", f"{100 * accuracy:.1f}", _number(flops)]
        reached = vgs.reach(accuracy)
        if reached is None:
            line += ["never", "-", "-", "-"]
        else:
            needed = vgs.budgets[reached], vgs.flops[reached]
            line += [f"{needed[0]:.0f}", _number(needed[1]), _share(needed[1] / flops)]
            line.append(_share(needed[0] / samples))
        lines.append([*line, published if samples == policy.budget else "-"])
    return lines


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2g}"


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.0f} %"


def plot(curves: dict[str, tuple[Curve, Curve]], output: Path) -> None:
    """Plots accuracy against FLOPs; a dotted line is what the majority vote ends at."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, panels = plt.subplots(
        1, len(curves), figsize=(4.4 * len(curves) + 1, 4), squeeze=False, layout="constrained"
    )
    for axes, (name, (mv, vgs)) in zip(panels[0], curves.items(), strict=True):
        axes.axhline(100 * mv.accuracies[-1], color="0.5", linewidth=1, linestyle=":")
        for label, curve in (("MV", mv), ("VGS", vgs)):
            axes.plot(curve.flops, 100 * curve.accuracies, label=label, linewidth=1.8)
        reached = vgs.reach(mv.accuracies[-1])
        if reached is not None:
            axes.plot(vgs.flops[reached], 100 * vgs.accuracies[reached], "ko", fillstyle="none")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.set_title(name)
        axes.set_xlabel("FLOPs a problem, value model included")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    panels[0, 0].set_ylabel("accuracy (%), mean of the sets")
    save_plot(figure, output)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(SearchPlanArgs, PROGRAM, __doc__, argv)
    scale = scale_of(args)
    runs = {
        policy.name: (runs_of(args, policy, SAMPLES), runs_of(args, policy, scale.vgs))
        for policy in scale.policies
    }
    everything = [run for pair in runs.values() for both in pair for run in both]

    def report(draw: bool) -> str:
        curves = {}
        for name, (baseline, guided) in runs.items():
            mv, vgs = mean_curve(baseline, "MV"), mean_curve(guided, "WMV")
            if mv is not None and vgs is not None:
                curves[name] = mv, vgs
        lines = [
            line
            for policy in scale.policies
            for line in format_savings(policy, curves.get(policy.name))
        ]
        header = ["", "accuracy", "FLOPs", "VGS of", "FLOPs", "of MV's", "N of MV's", "published"]
        text = (
            f"{format_table(header, lines)}\n"
            "accuracy in %, mean of the sets; VGS of the smallest N at which it is as accurate; "
            "FLOPs a problem\npublished: 50-75 % fewer generations; the material that this project "
            f"is built from has no figure of FLOPs\n{format_missing(everything)}"
        ).rstrip()
        if draw and curves:
            output = args.out / f"flops_to_mv{'-toy' if args.toy else ''}.png"
            plot(curves, output)
            text += f"\nplot: {output}"
        return text

    def work() -> int:
        check_flags(args)
        return carry_out(PROGRAM, args, [run.command for run in everything], report)

    run_command(PROGRAM, work)


if __name__ == "__main__":
    main()
