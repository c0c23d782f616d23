"""Accuracy at every number of trees, from random subsets of the trees of each problem.

`metrics.json` splits the trees into disjoint groups, at powers of two. Here every subset counts,
drawn without replacement: more of what the trees tell, and budgets in between.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from search_lib.results.graded import GradedProblem
from search_lib.results.statistics import pass_at_k
from search_lib.voting import Ballots, Vote, find_vote

NUM_ORDERS = 256
"""Orders of the trees from which subsets are taken."""

_MOST_ENTRIES = 500_000
"""Orders x trees x classes that are counted at once: a few megabytes."""


def tree_orders(num_trees: int, seed: int = 0, num_orders: int = NUM_ORDERS) -> np.ndarray:
    """Returns orders of the trees, whose first t are a subset of t.

    All of them where `num_orders` suffices. Else random ones with their rotations, in which each
    tree comes first, second, ... equally often: one tree and all trees are exact without sampling.

    Args:
        num_trees: Trees a problem.
        seed: Seed of the draws.
        num_orders: Most orders; at least the rotations of one.

    Returns:
        [orders, trees], indices of trees.
    """
    if math.factorial(num_trees) <= num_orders:
        return np.array(list(itertools.permutations(range(num_trees))))
    random = np.random.default_rng(seed)
    places = np.arange(num_trees)
    rotations = (places[:, None] + places) % num_trees
    starts = [random.permutation(num_trees) for _ in range(max(1, num_orders // num_trees))]
    return np.concatenate([start[rotations] for start in starts])


@dataclass(frozen=True)
class Votes:
    """The votes of the first t trees of each order, for every t.

    Attributes:
        totals: [orders, trees, classes], summed weight of each class; 0 before it has a response.
        accuracies: [orders, trees], of the class with the largest; ties broken at random.
    """

    totals: np.ndarray
    accuracies: np.ndarray


class TreeVotes:
    """The responses to one problem, counted by tree.

    Args:
        problem: The problem, its answers in classes.
    """

    def __init__(self, problem: GradedProblem):
        self._problem = problem
        self.num_trees = len(problem.classes)
        responses = [
            (tree, answer_class, is_right)
            for tree, (classes, correct) in enumerate(
                zip(problem.classes, problem.correct, strict=True)
            )
            for answer_class, is_right in zip(classes, correct, strict=True)
        ]
        self._takes_part = np.array([answer_class is not None for _, answer_class, _ in responses])
        voting = [response for response in responses if response[1] is not None]
        self._trees = np.array([tree for tree, _, _ in voting], dtype=int)
        self._right = np.array([is_right for _, _, is_right in voting], dtype=float)
        names, self._classes = np.unique(
            np.array([answer_class for _, answer_class, _ in voting], dtype=int),
            return_inverse=True,
        )
        self._num_classes = len(names)

    @cached_property
    def _counts(self) -> np.ndarray:
        """[trees, classes], responses of each class."""
        return self._sum_by_class(np.ones(len(self._trees)))

    @cached_property
    def _values(self) -> np.ndarray:
        """Values of the responses that take part in votes."""
        values = np.array(list(chain.from_iterable(self._problem.values)), dtype=float)
        return values[self._takes_part]

    def _sum_by_class(self, weights: np.ndarray) -> np.ndarray:
        sums = np.zeros((self.num_trees, self._num_classes))
        np.add.at(sums, (self._trees, self._classes), weights)
        return sums

    def votes(self, method: str, orders: np.ndarray) -> Iterator[Votes]:
        """Yields the votes along some of the orders after the other.

        Args:
            method: Name of a vote in which each response has its own weight, whatever the others.
            orders: [orders, trees], see `tree_orders`.

        Raises:
            ValueError: If it is another vote; begins with it.
        """
        weigh = find_vote(method).weights
        if weigh is None:
            raise ValueError(f"{method} is no sum over responses")
        own = np.array(weigh(self._problem.ballots(slice(None))), dtype=float)
        weights = self._sum_by_class(own[self._takes_part])
        right = self._sum_by_class(self._right)
        # A class is right or wrong as a whole, unless the rules grade responses apart.
        whole = right.sum(0) / self._counts.sum(0)
        is_graded_whole = bool(np.isin(whole, (0.0, 1.0)).all())
        entries = orders.size * max(1, self._num_classes)
        for part in np.array_split(orders, min(len(orders), -(-entries // _MOST_ENTRIES))):
            counts = self._counts[part].cumsum(1)
            totals = weights[part].cumsum(1)
            # A class without a response doesn't run, also where no value is above 0.
            runs = counts > 0
            largest = np.where(runs, totals, -1.0).max(2, initial=-1.0, keepdims=True)
            winning = runs & self._problem.rules.is_tie(largest, totals)
            if is_graded_whole:
                credit = winning @ whole
            else:
                shares = right[part].cumsum(1) / np.maximum(counts, 1)
                credit = (shares * winning).sum(2)
            yield Votes(totals, credit / np.maximum(winning.sum(2), 1))

    def best_of_n(self, orders: np.ndarray) -> np.ndarray:
        """Returns [orders, trees], the accuracy of the highest-valued response of the first t.

        Equal values share it, or the first tree has it, as the rules say.
        """
        values = np.full(self.num_trees, -1.0)
        np.maximum.at(values, self._trees, self._values)
        is_top = self._values == values[self._trees]
        if self._problem.rules.best_is_first:
            # The first tree of equal ones ranks highest, and in it its first response.
            by_rank = np.lexsort((-np.arange(self.num_trees), values))
            ranks = np.empty(self.num_trees)
            ranks[by_rank] = np.arange(self.num_trees)
            ranks[values < 0] = -1.0
            first = np.zeros(len(is_top), dtype=bool)
            tops = np.flatnonzero(is_top)
            first[tops[np.unique(self._trees[tops], return_index=True)[1]]] = True
            values, is_top = ranks, first
        counts = np.bincount(self._trees[is_top], minlength=self.num_trees).astype(float)
        right = np.bincount(
            self._trees[is_top], self._right[is_top], minlength=self.num_trees
        ).astype(float)
        along = values[orders]
        best = np.maximum.accumulate(along, axis=1)
        # What counts is the trees of the best value, since the first of them came.
        places = np.arange(self.num_trees)
        rises = np.diff(best, axis=1, prepend=-2.0) > 0
        since = np.maximum.accumulate(np.where(rises, places, 0), axis=1)

        def sum_since(of_tree: np.ndarray) -> np.ndarray:
            sums = np.where(along == best, of_tree[orders], 0.0).cumsum(1)
            sums = np.concatenate([np.zeros((len(orders), 1)), sums], axis=1)
            return sums[:, 1:] - np.take_along_axis(sums, since, axis=1)

        return sum_since(right) / np.maximum(sum_since(counts), 1.0)

    def accuracies(self, method: str, orders: np.ndarray) -> np.ndarray:
        """Returns [trees], the mean accuracy of an aggregation over subsets of 1, 2, ... trees.

        pass@k is exact, over all subsets of trees; the others are means over `orders`. Votes in
        which the weight of a response depends on the others are counted subset by subset, which is
        some hundred times slower. One order alone is that of a run which stops problems: then only
        its own subsets are there.
        """
        correct = self._problem.correct
        if method == "pass@1":
            right, responses = np.array([(sum(tree), len(tree)) for tree in correct]).T
            return (right[orders].cumsum(1) / responses[orders].cumsum(1)).mean(0)
        if method == "pass@k":
            if len(orders) == 1:
                return np.maximum.accumulate(np.array(list(map(any, correct)), float)[orders[0]])
            solving = np.array(sum(map(any, correct)))
            sizes = range(1, self.num_trees + 1)
            return np.array([pass_at_k(solving, self.num_trees, size) for size in sizes])
        if method == "BoN":
            return self.best_of_n(orders).mean(0)
        vote = find_vote(method)
        if vote.weights is None:
            return self._one_by_one(vote, orders)
        parts = [votes.accuracies for votes in self.votes(method, orders)]
        return np.concatenate(parts).mean(0)

    def _one_by_one(self, vote: Vote, orders: np.ndarray) -> np.ndarray:
        """Returns [trees], the mean accuracy of a vote on the first t trees of each order."""
        trees = [self._problem.ballots(slice(tree, tree + 1)) for tree in range(self.num_trees)]
        known: dict[tuple[int, ...], float] = {}
        sums = np.zeros(self.num_trees)
        for order in orders.tolist():
            for size in range(1, self.num_trees + 1):
                subset = tuple(sorted(order[:size]))
                if subset not in known:
                    parts = zip(*(trees[tree] for tree in subset), strict=True)
                    ballots = Ballots(*(list(chain.from_iterable(part)) for part in parts))
                    known[subset] = vote(ballots, self._problem.rules)
                sums[size - 1] += known[subset]
        return sums / len(orders)


def resample(problems: list[TreeVotes], method: str, orders: np.ndarray) -> np.ndarray:
    """Returns [problems, trees], the accuracy of an aggregation with 1, 2, ... trees."""
    return np.array([problem.accuracies(method, orders) for problem in problems])
