"""When the trees of a problem are enough: rules for a run (`--stop`), and for its replay.

The trees of a problem are counted one after the other. As soon as a rule is sure enough of the
answer that leads, the others are not searched. `replay` tells from the records of a run that did
not stop what that would have saved; `Stopping` asks the same rules while a run goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from search_lib.results.resampling import TreeVotes


def beta_confidence(counts: np.ndarray) -> np.ndarray:
    """Returns the probability that the leading answer stays ahead of the second one.

    With v1 and v2 responses of the two, and a uniform prior: P(X > 1/2), X ~ Beta(v1 + 1, v2 + 1).
    For integers that is P(Y <= v1) with v1 + v2 + 1 fair coins Y.

    Source: Aggarwal et al. (2023), "Let's Sample Step by Step: Adaptive-Consistency for Efficient
    Reasoning and Coding with LLMs", the Beta criterion.

    Args:
        counts: [..., classes], responses of each class.
    """
    first, second = _two_largest(counts).astype(int)
    coins = first + second + 1
    # Equal states are computed once, those of so many coins one after the other.
    base = int(coins.max(initial=0)) + 1
    states, place = np.unique(coins * base + first, return_inverse=True)
    found = [_fair_coins(state // base)[state % base] for state in states.tolist()]
    return np.array(found)[place].reshape(first.shape)


def dirichlet_confidence(counts: np.ndarray) -> np.ndarray:
    """Returns the probability that the leading answer is the most likely one of all seen so far.

    Under a uniform prior the likelihoods are Dirichlet(v1 + 1, v2 + 1, ...), which are independent
    Gamma variables over their sum: the integral of the leader's density times the distribution
    functions of the others, here by the trapezoid rule. With one answer, a second one without a
    response stands against it; with two it is `beta_confidence`.

    Source: Aggarwal et al. (2023), the Dirichlet criterion.

    Args:
        counts: [..., classes], responses of each class.
    """
    two_at_least = np.concatenate([counts, np.zeros((*counts.shape[:-1], 2))], axis=-1)
    ordered = -np.sort(-two_at_least, axis=-1).reshape(-1, two_at_least.shape[-1]).astype(int)
    # Equal states are integrated once. Different ones rarely share a key, as with any 64-bit hash.
    keys = ordered @ np.random.default_rng(0).integers(2**63, size=ordered.shape[1])
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    states = ordered[first]
    most = int(states.max(initial=0))
    # In the fourth root of x, densities are about as wide as each other, and vanish at 0.
    step = 1 / (6 * max(most, 1) ** 0.25)
    roots = np.arange(step, (most + 10 * most**0.5 + 40) ** 0.25, step)
    log_x = 4 * np.log(roots)
    sizes = np.arange(most + 1)[:, None]
    log_factorials = np.concatenate([[0.0], np.log(np.arange(1, most + 1)).cumsum()])[:, None]
    densities = np.exp(sizes * log_x - roots**4 - log_factorials)
    below = 1 - densities.cumsum(0)
    integrand = densities[states[:, 0]] * below[states[:, 1]] * 4 * roots**3
    for column in states.T[2:]:
        seen = np.flatnonzero(column)
        integrand[seen] *= below[column[seen]]
    return (integrand.sum(1) * step)[place].reshape(counts.shape[:-1])


def value_mass(totals: np.ndarray) -> np.ndarray:
    """Returns the leading answer's share of the summed values, `(W1 + 1) / (W + 2)`.

    The share alone would be 1 after one response. As in Laplace's rule of succession, values count
    as responses beside one for the leader and one against it.

    Args:
        totals: [..., classes], summed value of each class.
    """
    return (_two_largest(totals)[0] + 1) / (totals.sum(-1) + 2)


def secured_share(totals: np.ndarray, to_come: np.ndarray) -> np.ndarray:
    """Returns the leading answer's share of all the weight that there can be.

    Above one half the vote is decided, whatever comes. A lead over the second answer is not enough:
    an answer to come may equal two that differ so far, and join their classes.

    Args:
        totals: [..., classes], summed weight of each class.
        to_come: [...], the most that the responses to come can weigh together.
    """
    # Sums of the same weights in another order differ by rounding: that is a tie.
    return _two_largest(totals)[0] / np.maximum(totals.sum(-1) + to_come, 1.0) - 1e-9


class StoppingRule(NamedTuple):
    """When to stop, and how the trees until then vote.

    Attributes:
        method: MV or WMV.
        confidence: ([..., classes] summed weights by that method, [...] most weight to come) ->
            [...] confidence in the leader.
        thresholds: Confidences to try.
        usual: That of a run which names none.
    """

    method: str
    confidence: Callable[[np.ndarray, np.ndarray], np.ndarray]
    thresholds: tuple[float, ...]
    usual: float


_PROBABILITIES = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)

STOPPING_RULES = {
    "decided": StoppingRule("WMV", secured_share, (0.5,), 0.5),
    "beta": StoppingRule("MV", lambda totals, _: beta_confidence(totals), _PROBABILITIES, 0.95),
    "dirichlet": StoppingRule(
        "MV", lambda totals, _: dirichlet_confidence(totals), _PROBABILITIES, 0.95
    ),
    "value": StoppingRule(
        "WMV", lambda totals, _: value_mass(totals), (0.4, 0.5, 0.6, 0.7, 0.8, 0.9), 0.8
    ),
}
"""Rules by name; `decided` protects MV where there are no values (`stopping_rule`)."""


def stopping_rule(name: str, has_values: bool) -> StoppingRule:
    """Returns a rule for a run.

    Args:
        name: Key of `STOPPING_RULES`.
        has_values: Whether responses have values.
    """
    rule = STOPPING_RULES[name]
    return rule if name != "decided" or has_values else rule._replace(method="MV")


@dataclass(frozen=True)
class Stopping:
    """A rule as a run asks it, with the trees of a problem that are there so far.

    Attributes:
        rule: The rule.
        threshold: It stops above this confidence.
        num_trees: Most trees of a problem.
        most_responses: Most responses of a tree.
    """

    rule: StoppingRule
    threshold: float
    num_trees: int
    most_responses: int

    def is_sure(self, votes: TreeVotes) -> bool:
        """Returns whether these trees are enough."""
        to_come = np.array(self.most_responses * (self.num_trees - votes.num_trees))
        return bool(self.rule.confidence(self._totals(votes), to_come) > self.threshold)

    def earliest(self, votes: TreeVotes | None = None) -> int:
        """Returns the fewest trees that can be enough, if these are not.

        At best every response to come has the leading answer, with the value 1.

        Args:
            votes: The trees so far; None before the first.
        """
        num_so_far = votes.num_trees if votes else 0
        so_far = np.append(self._totals(votes), 0.0) if votes else np.zeros(1)
        further = np.arange(1, self.num_trees - num_so_far)
        totals = np.tile(so_far, (len(further), 1))
        totals[:, so_far.argmax()] += self.most_responses * further
        to_come = self.most_responses * (self.num_trees - num_so_far - further)
        # Rounding may be on the other side when the responses are there.
        is_sure = self.rule.confidence(totals, to_come) > self.threshold - 1e-9
        return num_so_far + int(further[is_sure][0]) if is_sure.any() else self.num_trees

    def _totals(self, votes: TreeVotes) -> np.ndarray:
        """Returns [classes], the summed weights after all of these trees."""
        order = np.arange(votes.num_trees)[None]
        return next(votes.votes(self.rule.method, order)).totals[0, -1]


@dataclass(frozen=True)
class Replay:
    """A problem with early stopping, along several orders of its trees.

    Attributes:
        num_trees: [thresholds, orders], trees until it stopped.
        accuracies: [thresholds, orders], of their vote.
    """

    num_trees: np.ndarray
    accuracies: np.ndarray


def replay(
    problem: TreeVotes,
    rule: StoppingRule,
    thresholds: tuple[float, ...],
    orders: np.ndarray,
    most_responses: int,
) -> Replay:
    """Stops at the first tree after which the confidence is above the threshold, or at the last.

    Args:
        problem: The problem.
        rule: When to stop.
        thresholds: Confidences to try.
        orders: [orders, trees]. One order 0, 1, 2, ... is that of the records.
        most_responses: Most responses of a tree.
    """
    parts = []
    to_come = most_responses * np.arange(problem.num_trees)[::-1]
    for votes in problem.votes(rule.method, orders):
        confidence = rule.confidence(votes.totals, to_come)  # [orders, trees]
        above = confidence > np.array(thresholds)[:, None, None]
        above[:, :, -1] = True
        last = above.argmax(2)
        parts.append((last + 1, np.take_along_axis(votes.accuracies, last.T, axis=1).T))
    num_trees, accuracies = zip(*parts, strict=True)
    return Replay(np.concatenate(num_trees, axis=1), np.concatenate(accuracies, axis=1))


def _two_largest(totals: np.ndarray) -> np.ndarray:
    """Returns [2, ...], the largest totals; 0 where there is none."""
    padded = np.concatenate([totals, np.zeros((*totals.shape[:-1], 2))], axis=-1)
    return np.moveaxis(np.partition(padded, -2, axis=-1)[..., :-3:-1], -1, 0)


@lru_cache(maxsize=1024)
def _fair_coins(coins: int) -> np.ndarray:
    """Returns [coins + 1], the probability of at most 0, 1, ... heads of so many coins."""
    log_factorials = np.concatenate([[0.0], np.log(np.arange(1, coins + 1)).cumsum()])
    log_ways = log_factorials[-1] - log_factorials - log_factorials[::-1]
    exactly = np.exp(log_ways - coins * np.log(2))
    # The rest is taken from 1, so that rounding makes none of them larger than that.
    more = np.append(exactly[:0:-1].cumsum()[::-1], 0.0)
    return np.asarray(1 - more)
