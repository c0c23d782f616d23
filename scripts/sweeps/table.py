"""One table and the curves of a sweep: its runs with their costs, beside a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from run_lib.text import format_table
from scripts.sweeps.plan import Cell, Sweep
from search_lib.results.curves import Curve, Point, budget_curve
from search_lib.results.run_config import check_same_problems
from search_lib.results.run_trees import RunTrees
from search_lib.results.selection import Selection
from search_lib.results.statistics import bootstrap_interval
from search_lib.voting import lack

TABLE_VOTES = ("MV", "WMV", "BoN")

TABLE_COSTS = ("tokens", "flops", "seconds")
"""Costs with a column, by name in `COSTS`."""


@dataclass(frozen=True)
class Setting:
    """The runs of all seeds of one strategy, scorer and budget.

    Attributes:
        scorer: As in `Cell`.
        strategy: As in `Cell`.
        budget: As in `Cell`.
        curves: By vote, the accuracy with 1, 2, ... trees, mean over the seeds.
    """

    scorer: str
    strategy: str
    budget: str
    curves: dict[str, Curve]

    @property
    def name(self) -> str:
        """Strategy and scorer, as the table calls them."""
        return f"{self.strategy}, {self.scorer}" if self.scorer else self.strategy


def load_settings(sweep: Sweep) -> list[Setting]:
    """Reads the runs of a sweep that has ended; those that have none of its votes are left out.

    Raises:
        InputError: If a run can't be read.
        ValueError: If the runs are of different problems, or none has any of the votes.
    """
    by_setting: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in sweep.cells:
        by_setting.setdefault((cell.scorer, cell.strategy, cell.budget), []).append(cell)
    settings, problem_sets = [], []
    for names, cells in by_setting.items():
        curves: dict[str, list[Curve]] = {}
        for cell in cells:
            run = RunTrees.load(cell.args.output_path.parent)
            problem_sets.append(run.problem_set)
            for vote in sweep.votes or TABLE_VOTES:
                if lack(vote, run.features) is None:
                    selection = Selection(", ".join(filter(None, names)), Path(), vote, False)
                    curves.setdefault(vote, []).append(budget_curve(selection, run, vote))
        means = {vote: mean_curve(of_seeds) for vote, of_seeds in curves.items()}
        if means:
            settings.append(Setting(*names, means))
    check_same_problems(problem_sets)
    if not settings:
        raise ValueError(f"no run has what its votes need: {', '.join(sweep.votes)}")
    return settings


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Returns the mean over seeds: of the accuracies of each problem, and of the costs.

    A cost that one of them lacks is left out.
    """
    points = []
    for of_seeds in zip(*(curve.points for curve in curves), strict=True):
        names = [name for name in of_seeds[0].costs if all(name in p.costs for p in of_seeds)]
        points.append(
            Point(
                of_seeds[0].trees,
                None,
                {name: float(np.mean([p.costs[name] for p in of_seeds])) for name in names},
                np.mean([point.per_problem for point in of_seeds], axis=0),
            )
        )
    first = curves[0]
    return Curve(first.label, first.run, first.method, None, points)


def plotted(settings: Sequence[Setting]) -> list[Curve]:
    """Returns the curves of a plot, in which the budgets of one strategy share a name.

    They are the votes that others are compared with, and majority votes that need no values.
    """
    curves = []
    for setting in settings:
        main = baseline_vote(setting.curves)
        curves.append(replace(main, run=setting.name))
        plain = setting.curves.get("MV", main)
        if plain is not main and plain.points[-1].costs != main.points[-1].costs:
            curves.append(replace(plain, run=setting.name))
    return curves


def baseline_vote(curves: dict[str, Curve]) -> Curve:
    """Returns the curve that others are compared with: WMV, where there are values, or else MV."""
    return curves["WMV"] if "WMV" in curves else next(iter(curves.values()))


def affordable(curves: Sequence[Curve], flops: float) -> tuple[Point, bool] | None:
    """Returns the most accurate use of a method within some FLOPs: as many trees as they pay for.

    Args:
        curves: The method at several budgets of a tree.
        flops: FLOPs a problem.

    Returns:
        The point of the most FLOPs within the limit, and whether there is a dearer one that it
        was kept from; None if even one tree is too dear, or FLOPs are not known.
    """
    points = [point for curve in curves for point in curve.points if "flops" in point.costs]
    within = [point for point in points if point.costs["flops"] <= flops * (1 + 1e-9)]
    if not within:
        return None
    best = max(within, key=lambda point: point.costs["flops"])
    return best, len(within) < len(points)


def format_settings(settings: Sequence[Setting], sweep: Sweep) -> str:
    """Returns the table: a line a vote of a setting.

    The baseline of a line is that of its scorer and budget, or of another scorer where there is
    none: its weighted vote. Behind a line's own accuracy and costs stand the difference to the
    baseline with its interval, and the same two at the baseline's FLOPs.
    """
    lines = []
    for setting in settings:
        reference = _baseline_of(setting, settings, sweep.baseline)
        for vote, curve in setting.curves.items():
            point = curve.points[-1]
            cells = [_percent(point), *(_cost(point, name) for name in TABLE_COSTS)]
            cells += _difference(point, reference, curve)
            same = [
                other.curves[vote]
                for other in settings
                if (other.scorer, other.strategy) == (setting.scorer, setting.strategy)
                and vote in other.curves
            ]
            cells += _at_equal_flops(same, None if curve is reference else reference)
            lines.append([f"{setting.name} {vote}", setting.budget, *cells])
    header = ["", "budget", "accuracy", "tokens", "FLOPs", "seconds"]
    versus = f"vs {sweep.baseline}"
    header += [versus, "95 %", "equal FLOPs", versus, "95 %"]
    return format_table(header, lines)


def _baseline_of(setting: Setting, settings: Sequence[Setting], baseline: str) -> Curve | None:
    found = [one for one in settings if (one.strategy, one.budget) == (baseline, setting.budget)]
    found.sort(key=lambda one: one.scorer != setting.scorer)  # stable
    return baseline_vote(found[0].curves) if found else None


def _percent(point: Point) -> str:
    return f"{100 * point.estimate.mean:.1f} ± {100 * (point.estimate.over_problems or 0):.1f}"


def _cost(point: Point, name: str) -> str:
    return f"{point.costs[name]:.3g}" if name in point.costs else "-"


def _difference(point: Point, reference: Curve | None, own: Curve | None = None) -> list[str]:
    """Returns the cells of a difference, paired by problem; blank ones on the baseline's line."""
    if reference is None or reference is own:
        return ["", ""]
    differences = 100 * (point.per_problem - reference.points[-1].per_problem)
    interval = bootstrap_interval(differences[:, None])
    spread = f"{interval[0]:+.1f} to {interval[1]:+.1f}" if interval else "-"
    return [f"{differences.mean():+.1f}", spread]


def _at_equal_flops(curves: Sequence[Curve], reference: Curve | None) -> list[str]:
    flops = reference.points[-1].costs.get("flops") if reference else None
    found = affordable(curves, flops) if flops is not None else None
    if found is None:
        return ["", "", ""]
    point, is_kept = found
    accuracy = f"{100 * point.estimate.mean:.1f}" + ("" if is_kept else " (all)")
    return [accuracy, *_difference(point, reference)]
