"""The plot of `scripts.frontier`, of its own: only what draws imports matplotlib."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from scripts.plots import save_plot
from search_lib.results.curves import Curve, Optimal, is_shown
from search_lib.results.run_trees import COSTS

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
