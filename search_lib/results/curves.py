"""Accuracy against what it costs: with every number of trees, and with early stopping."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_lib.results.resampling import resample, tree_orders
from search_lib.results.run_trees import RunTrees
from search_lib.results.selection import Selection
from search_lib.results.statistics import Estimate, estimate_mean
from search_lib.results.stopping import replay, stopping_rule
from search_lib.strategies import traits_of


@dataclass(frozen=True)
class Point:
    """One way to answer the problems of a run.

    Attributes:
        trees: Mean number of trees; the most, of a run that stops problems.
        threshold: Confidence at which the search stops; None if it doesn't stop early.
        costs: Mean over problems by name in `COSTS`; those that are known.
        per_problem: [problems], mean accuracy of each.
    """

    trees: float
    threshold: float | None
    costs: dict[str, float]
    per_problem: np.ndarray

    @property
    def estimate(self) -> Estimate:
        """The mean accuracy, with its interval over problems."""
        return estimate_mean(self.per_problem[:, None])


@dataclass(frozen=True)
class Curve:
    """The points of one method on one run, in order of cost.

    Attributes:
        label: The run, and the method.
        run: Label of the run.
        method: Name of a vote.
        rule: Key of `STOPPING_RULES`; None for a curve without early stopping.
        points: The points.
    """

    label: str
    run: str
    method: str
    rule: str | None
    points: list[Point]


Optimal = dict[str, set[tuple[str, int]]]
"""By cost, the (label of the curve, number of the point) that nothing cheaper reaches."""


def budget_curve(selection: Selection, run: RunTrees, method: str, seed: int = 0) -> Curve:
    """Returns the accuracy of an aggregation with 1, 2, ... of a run's trees.

    Costs are those of a mean tree, times their number. A run that stops problems has its own order
    of the trees only, and their costs along it.
    """
    num_trees = run.tokens.shape[1]
    if run.config.is_stopped:
        orders = np.arange(num_trees)[None]
        costs = {name: of.mean(0).cumsum() for name, of in run.costs(method).items()}
    else:
        orders = tree_orders(num_trees, seed)
        numbers = np.arange(1, num_trees + 1)
        costs = {name: of.mean() * numbers for name, of in run.costs(method).items()}
    accuracies = resample(run.votes, method, orders)
    points = [
        Point(
            trees,
            None,
            {name: float(cost[trees - 1]) for name, cost in costs.items()},
            accuracies[:, trees - 1],
        )
        for trees in range(1, num_trees + 1)
    ]
    return Curve(selection.label_of(method), selection.label, method, None, points)


def stopping_curve(selection: Selection, run: RunTrees, rule: str, seed: int = 0) -> Curve:
    """Returns the accuracy with early stopping at several confidences.

    Each problem is replayed along many orders of its trees, those of `budget_curve`. Costs are
    those of the trees until it stopped.
    """
    asked = stopping_rule(rule, run.has_values)
    orders = tree_orders(run.tokens.shape[1], seed)
    method, thresholds = asked.method, asked.thresholds
    most = traits_of(run.config.flags).most_responses
    of_tree = run.costs(method)
    num_trees = np.zeros(len(thresholds))
    costs = {name: np.zeros(len(thresholds)) for name in of_tree}
    accuracies = []
    for number, problem in enumerate(run.votes):
        stopped = replay(problem, asked, thresholds, orders, most)
        num_trees += stopped.num_trees.mean(1)
        accuracies.append(stopped.accuracies.mean(1))
        for name, values in of_tree.items():
            spent = values[number][orders].cumsum(1)  # [orders, trees]
            costs[name] += np.take_along_axis(spent, stopped.num_trees.T - 1, axis=1).mean(0)
    points = [
        Point(
            float(num_trees[index] / len(run.votes)),
            threshold,
            {name: float(sums[index] / len(run.votes)) for name, sums in costs.items()},
            np.array([of_problem[index] for of_problem in accuracies]),
        )
        for index, threshold in enumerate(thresholds)
    ]
    return Curve(f"{selection.label_of(method)}, {rule}", selection.label, method, rule, points)


def is_shown(curve: Curve, point: Point) -> bool:
    """Whether a point has a line: powers of two of trees, all trees, and all thresholds."""
    trees = int(point.trees)
    return curve.rule is not None or trees & (trees - 1) == 0 or point is curve.points[-1]


def pareto_optimal(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Returns for each (cost, accuracy) whether no other is at least as cheap and as accurate.

    Of equal points, each is. Equal are accuracies that agree to 9 decimals, and costs that agree to
    9 significant digits: sums of the same trees in another order differ by rounding.
    """
    rounded = [(float(f"{cost:.9g}"), round(accuracy, 9)) for cost, accuracy in points]
    best_below: float = -1.0
    optimal = set()
    for cost, accuracy in sorted(set(rounded), key=lambda point: (point[0], -point[1])):
        if accuracy > best_below:
            optimal.add((cost, accuracy))
            best_below = accuracy
    return [point in optimal for point in rounded]
