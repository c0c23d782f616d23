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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from run_lib.commands import naming, parse_command_line, run_command
from run_lib.text import format_table
from scripts.plots import check_plot_path
from search_lib.answer_rules import ANSWER_RULES, RulesName
from search_lib.plugins import PluginFlag
from search_lib.results.curves import (
    Curve,
    Optimal,
    budget_curve,
    is_shown,
    pareto_optimal,
    stopping_curve,
)
from search_lib.results.metrics import NO_REFERENCE
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
                loaded[selection.path] = run = RunTrees.load(selection.path, rules)
                if not run.has_references:
                    raise ValueError(f"{selection.label}: {NO_REFERENCE}")
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
    from scripts.frontier_plot import plot

    plot(curves, optimal, args.title, args.output)
    print(f"\nplot: {args.output}")


def run(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(Args, PROGRAM, __doc__, argv)
    run_command(PROGRAM, lambda: main(args))


if __name__ == "__main__":
    run()
