"""What accuracy costs: budget, FLOPs, tokens and time of every method of some runs.

    python -m scripts.frontier outputs/quickstart/bon outputs/quickstart/beam2 \
        --output frontier.png --early_stopping

Each is a run of inference_eval.py, `folder`, or one of its aggregations, `folder:method`, with
`label=` in front of it to call it otherwise. Votes are those of random subsets of the trees of each
problem, at every number of trees; nothing is generated or graded. Points that nothing cheaper
reaches are marked.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import tyro
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from run_lib.commands import naming, parse_command_line, run_command
from run_lib.text import format_table
from scripts.plots import check_plot_path, save_plot
from search_lib.answer_rules import ANSWER_RULES, RulesName
from search_lib.plugins import PluginFlag
from search_lib.results.curves import Curve, Point, budget_curve, pareto_optimal, stopping_curve
from search_lib.results.run_config import check_same_problems
from search_lib.results.run_trees import COSTS, RunTrees
from search_lib.results.selection import Selection, check_curve_names, parse_selections
from search_lib.results.stopping import STOPPING_RULES, stopping_rule
from search_lib.voting import lack

PROGRAM = "scripts.frontier"


@dataclass(frozen=True)
class Args:
    """The accuracy-cost frontier of runs on the same problems."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """folder (its MV, WMV and BoN), folder:method, label=folder or label=folder:method."""
    output: Path
    """The plot, a .png, .pdf or .svg file."""
    early_stopping: bool = False
    """Also replay what stopping early would have saved (docs/statistics.md), of runs that did not
    stop themselves."""
    answers: RulesName = "strict"
    """Rules by which answers were counted (docs/search.md)."""
    seed: int = 0
    """Seed of the subsets of trees."""
    title: str = ""
    """Above the plot."""
    plugin_flag: PluginFlag = PluginFlag()


Optimal = dict[str, set[tuple[str, int]]]
"""By cost, the (label of the curve, number of the point) that nothing cheaper reaches."""


def make_curves(selection: Selection, run: RunTrees, args: Args) -> Iterator[Curve]:
    """Yields the curves of a run.

    Raises:
        ValueError: If it has no such method; begins with its label.
    """
    methods = [selection.method] if selection.method else ["MV", "WMV", "BoN"]
    if selection.method and (lacking := lack(selection.method, run.features)):
        raise ValueError(f"{selection.label}: {lacking}")
    for method in methods:
        if selection.method or method in run.methods:
            yield budget_curve(selection, run, method, args.seed)
    is_replayed = args.early_stopping and not run.config.is_stopped
    for name in STOPPING_RULES if is_replayed else ():
        method = stopping_rule(name, run.has_values).method
        if method in run.methods and method in methods:
            yield stopping_curve(selection, run, name, args.seed)


def find_optimal(curves: Sequence[Curve]) -> Optimal:
    """Returns the points that no other reaches for less, by cost; pass@k is out of competition."""
    optimal: Optimal = {}
    for cost in COSTS:
        names, points = [], []
        for curve in curves:
            for number, point in enumerate(curve.points):
                if curve.method != "pass@k" and cost in point.costs:
                    names.append((curve.label, number))
                    points.append((point.costs[cost], float(point.per_problem.mean())))
        chosen = zip(names, pareto_optimal(points), strict=True)
        optimal[cost] = {name for name, is_optimal in chosen if is_optimal}
    return optimal


def is_shown(curve: Curve, point: Point) -> bool:
    """Whether a point has a line: powers of two of trees, all trees, and all thresholds."""
    trees = int(point.trees)
    return curve.rule is not None or trees & (trees - 1) == 0 or point is curve.points[-1]


def format_curves(curves: Sequence[Curve], optimal: Optimal) -> str:
    """Returns a table: a line a point, with its costs, its accuracy and where it is optimal."""
    lines = []
    for curve in curves:
        for number, point in enumerate(curve.points):
            if not is_shown(curve, point):
                continue
            best_in = [cost for cost in COSTS if (curve.label, number) in optimal[cost]]
            threshold = "" if point.threshold is None else f" > {point.threshold:g}"
            half_width = point.estimate.over_problems
            lines.append(
                [
                    f"{curve.label}{threshold}",
                    f"{point.trees:.3g}",
                    *(f"{point.costs[cost]:.3g}" if cost in point.costs else "-" for cost in COSTS),
                    f"{100 * point.per_problem.mean():.1f}",
                    "-" if half_width is None else f"± {100 * half_width:.1f}",
                    "all" if len(best_in) == len(COSTS) else ", ".join(best_in),
                ]
            )
    header = ["", "trees", *COSTS, "accuracy", "95 %", "optimal in"]
    return format_table(header, lines)


Colour = tuple[float, float, float, float]
"""Red, green, blue, opacity."""

_MARKERS = {"MV": "o", "WMV": "s", "BoN": "^", "pass@1": "v", "pass@k": "D"}
_MORE_MARKERS = "PX*dphH8"  # of other votes, as they come
_DASHES = {
    "decided": (10, 1.5),
    "beta": (4, 1.5),
    "dirichlet": (1.5, 1.5),
    "value": (7, 1.5, 1.5, 1.5),
}


def plot(curves: Sequence[Curve], optimal: Optimal, title: str, output: Path) -> None:
    """Plots accuracy against each cost. A colour is a run, a marker a method, dashes stop early."""
    figure, panels = plt.subplots(2, 2, figsize=(9, 7.2), sharey=True, layout="constrained")
    runs = list(dict.fromkeys(curve.run for curve in curves))
    cycle = plt.get_cmap("tab10" if len(runs) <= 10 else "tab20")
    colours = {run: cycle(number % cycle.N) for number, run in enumerate(runs)}
    markers = choose_markers(dict.fromkeys(curve.method for curve in curves))
    for axes, cost in zip(panels.flat, COSTS, strict=True):
        for curve in curves:
            _draw(axes, curve, cost, colours[curve.run], markers[curve.method])
        _draw_frontier(axes, curves, optimal[cost], cost)
        if any(point.costs.get(cost) for curve in curves for point in curve.points):
            _scale(axes, cost)
        else:
            axes.set_xticks([])
            axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center")
        axes.set_xlabel(COSTS[cost])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy (%)")
    figure.suptitle(title)
    handles = [
        Line2D([], [], color=colour, linewidth=3, label=run) for run, colour in colours.items()
    ]
    methods = {(curve.run, curve.method) for curve in curves}
    if len(methods) > len(runs):  # else a colour says which method
        handles += [
            Line2D([], [], color="0.35", marker=marker, markersize=5, label=method)
            for method, marker in markers.items()
        ]
    handles += [
        Line2D([], [], color="0.35", dashes=dashes, label=f"stopped early: {rule}")
        for rule, dashes in _DASHES.items()
        if any(curve.rule == rule for curve in curves)
    ]
    handles.append(_frontier_line([], [], label="nothing cheaper is as accurate"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    save_plot(figure, output)


def _scale(axes: Axes, cost: str) -> None:
    """Makes the axis of a cost logarithmic, with ticks that read as numbers."""
    if cost == "budget":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter("s" if cost == "seconds" else ""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def choose_markers(methods: Iterable[str]) -> dict[str, str]:
    """Returns the marker of each method; those of the default votes are always the same."""
    others = itertools.cycle(_MORE_MARKERS)
    return {method: _MARKERS.get(method) or next(others) for method in methods}


def _draw(axes: Axes, curve: Curve, cost: str, colour: Colour, marker: str) -> None:
    points = [point for point in curve.points if cost in point.costs]
    costs = [point.costs[cost] for point in points]
    accuracies = [100 * point.per_problem.mean() for point in points]
    marked = [number for number, point in enumerate(points) if is_shown(curve, point)]
    line = Line2D(costs, accuracies, color=colour, linewidth=1.4, marker=marker)
    line.set(markersize=4.5, markevery=marked)
    if curve.rule is not None:
        line.set_dashes(_DASHES[curve.rule])
        line.set(linewidth=1.1, markersize=3.5, markerfacecolor="white")
    axes.add_line(line)
    axes.autoscale_view()


def _draw_frontier(
    axes: Axes, curves: Sequence[Curve], optimal: set[tuple[str, int]], cost: str
) -> None:
    points = sorted(
        {
            (point.costs[cost], 100 * float(point.per_problem.mean()))
            for curve in curves
            for number, point in enumerate(curve.points)
            if (curve.label, number) in optimal
        }
    )
    costs, accuracies = [cost for cost, _ in points], [accuracy for _, accuracy in points]
    axes.add_line(_frontier_line(costs, accuracies))


def _frontier_line(costs: Sequence[float], accuracies: Sequence[float], label: str = "") -> Line2D:
    line = Line2D(costs, accuracies, label=label, color="black", alpha=0.35, linewidth=1, zorder=1)
    line.set(drawstyle="steps-post", marker="o", markersize=9, fillstyle="none")
    return line


def main(args: Args) -> None:
    """Prints the table and writes the plot.

    Raises:
        InputError: If a run can't be read, or the runs are of different problems.
    """
    args.plugin_flag.load()
    check_plot_path(args.output)
    rules = ANSWER_RULES[args.answers]
    loaded: dict[Path, RunTrees] = {}
    with naming("RUNS"):
        selections = parse_selections(args.runs)
        for selection in selections:
            if selection.path not in loaded:
                loaded[selection.path] = RunTrees.load(selection.path, rules)
        check_same_problems([run.problem_set for run in loaded.values()])
        curves = [
            curve
            for selection in selections
            for curve in make_curves(selection, loaded[selection.path], args)
        ]
        check_curve_names(curve.label for curve in curves)
    optimal = find_optimal(curves)
    print(format_curves(curves, optimal))
    print(
        f"accuracy in % ± 95 % interval over {len(next(iter(loaded.values())).graded)} "
        "problems; costs a problem, FLOPs with the value model where it takes part, seconds at the "
        "run's throughput\noptimal in: costs at which no other point of the plot is as cheap and "
        "as accurate"
    )
    plot(curves, optimal, args.title, args.output)
    print(f"\nplot: {args.output}")


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: main(args))


if __name__ == "__main__":
    run()
