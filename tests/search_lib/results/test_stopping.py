"""Early stopping against a replay step by step, and its probabilities against other ways."""

import itertools
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from search_lib.answer_rules import STRICT
from search_lib.results.graded import GradedProblem
from search_lib.results.resampling import TreeVotes, tree_orders
from search_lib.results.stopping import (
    STOPPING_RULES,
    Stopping,
    beta_confidence,
    dirichlet_confidence,
    replay,
    stopping_rule,
    value_mass,
)
from tests.support.ballots import make_problem, vote

ONE_BY_ONE = (0.55, 0.7, 0.9)


def naive_replay(problem, rule, threshold, order, most_responses):
    """(trees, accuracy): adds tree after tree, and asks after each."""
    totals = {}
    for count in range(1, len(order) + 1):
        to_come = np.array(most_responses * (len(order) - count))
        tree = order[count - 1]
        for answer, value in zip(problem.classes[tree], problem.values[tree], strict=True):
            if answer is not None:
                weight = 1 if rule.method == "MV" else value
                totals[answer] = totals.get(answer, 0) + weight
        sure = totals and rule.confidence(np.array(sorted(totals.values())), to_come) > threshold
        if sure or count == len(order):
            return count, vote(problem, rule.method, sorted(order[:count]))
    raise AssertionError


@pytest.mark.parametrize("rule", STOPPING_RULES.values(), ids=STOPPING_RULES)
def test_a_replay_equals_one_step_by_step(rule):
    stopped_early = 0
    for seed in range(30):
        per_tree = 1 + seed % 2
        problem = make_problem(seed, num_trees=8, per_tree=per_tree)
        orders = tree_orders(8, num_orders=16)
        found = replay(TreeVotes(problem), rule, ONE_BY_ONE, orders, per_tree)
        for row, threshold in enumerate(ONE_BY_ONE):
            expected = [naive_replay(problem, rule, threshold, order, per_tree) for order in orders]
            assert found.num_trees[row].tolist() == [trees for trees, _ in expected]
            assert found.accuracies[row] == pytest.approx([right for _, right in expected])
            stopped_early += sum(trees < 8 for trees, _ in expected)
    assert stopped_early


@pytest.mark.parametrize("rule", STOPPING_RULES.values(), ids=STOPPING_RULES)
def test_an_order_of_its_own_is_that_of_the_records(rule):
    problem = make_problem(5, num_trees=6)
    found = replay(TreeVotes(problem), rule, (0.7,), np.arange(6)[None], 3)
    expected = naive_replay(problem, rule, 0.7, list(range(6)), 3)
    assert (found.num_trees[0, 0], found.accuracies[0, 0]) == expected


def test_a_threshold_that_is_never_reached_takes_all_trees():
    problem = make_problem(0)
    found = replay(TreeVotes(problem), STOPPING_RULES["beta"], (1.0,), tree_orders(4), 3)
    assert (found.num_trees == 4).all()
    assert found.accuracies == pytest.approx(vote(problem, "MV", range(4)))


@pytest.mark.parametrize(("first", "second"), [(1, 0), (3, 0), (2, 2), (7, 3), (40, 25)])
def test_the_beta_probability_is_the_integral(first, second):
    x = np.linspace(0, 1, 200_001)
    density = x**first * (1 - x) ** second

    def area(heights):
        return heights.sum() - (heights[0] + heights[-1]) / 2

    expected = area(density[100_000:]) / area(density)
    # A third answer plays no part, and the order of answers none.
    counts = np.array([[second, first, 0], [0, second, first]])
    assert beta_confidence(counts) == pytest.approx([expected, expected], abs=1e-8)


def test_thousands_of_responses_take_little_memory():
    tracemalloc.start()
    found = beta_confidence(np.array([[2100, 2100], [2001, 0], [2150, 2050]]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # At most 2150 heads of 4201 coins: 50 above their mean, with half a head for continuity.
    normal = 0.5 * (1 + math.erf(50 / math.sqrt(4201 / 2)))
    assert found == pytest.approx([0.5, 1.0, normal], abs=1e-4)
    assert found.max() <= 1
    assert peak < 4_000_000


def test_one_answer_alone_is_sure_by_powers_of_two():
    counts = np.array([[0], [1], [2], [5]])
    expected = [0.5, 0.75, 0.875, 1 - 0.5**6]
    assert beta_confidence(counts) == pytest.approx(expected)
    assert dirichlet_confidence(counts) == pytest.approx(expected, abs=1e-4)


def test_dirichlet_of_two_answers_is_beta():
    counts = np.array([[first, second] for first in range(30) for second in range(first + 1)])
    assert dirichlet_confidence(counts) == pytest.approx(beta_confidence(counts), abs=1e-4)


@pytest.mark.parametrize("counts", [(4, 3, 3), (2, 1, 1, 1), (6, 5, 1, 0)])
def test_dirichlet_of_more_answers_is_the_share_of_draws(counts):
    seen = np.array([count for count in counts if count])
    draws = np.random.default_rng(0).dirichlet(seen + 1, size=100_000)
    share = np.mean(draws.argmax(1) == 0)
    sampling = 4 * math.sqrt(share * (1 - share) / 100_000)
    found = dirichlet_confidence(np.array([counts, counts[::-1]]))
    assert found == pytest.approx([share, share], abs=sampling + 1e-4)


def test_the_value_mass_is_the_share_beside_one_response_for_and_one_against():
    assert value_mass(np.array([[0.5, 2.0, 0.5], [0, 0, 0]])) == pytest.approx([3 / 5, 1 / 2])


def sequences(length, classes, values):
    """Every order of so many responses: [orders, length] classes, -1 for none, and values."""
    kinds = [(-1, 0.0), *itertools.product(range(classes), values)]
    chosen = np.array(list(itertools.product(range(len(kinds)), repeat=length)))
    of_kind, of_value = map(np.array, zip(*kinds, strict=True))
    return of_kind[chosen], of_value[chosen]


def summed(answers, weights, classes):
    """[orders, length, classes], what each class has after each response."""
    return (weights[:, :, None] * (answers[:, :, None] == np.arange(classes))).cumsum(1)


@pytest.mark.parametrize(
    ("length", "classes", "values"),
    [
        *((length, 3, (1.0,)) for length in range(1, 7)),
        (6, 2, (0.1, 0.3, 1.0)),  # 0.1 + 0.1 + 0.1 is more than 0.3 in floating point
        (5, 3, (0.0, 0.5, 1.0)),
    ],
)
def test_a_decided_vote_never_changes_its_winner(length, classes, values):
    answers, weights = sequences(length, classes, values)
    totals = summed(answers, weights, classes)
    to_come = np.arange(length)[::-1]
    decided = STOPPING_RULES["decided"].confidence(totals, to_come) > 0.5
    runs = summed(answers, np.ones(weights.shape), classes) > 0
    largest = np.where(runs, totals, -1.0).max(2, keepdims=True)
    winning = runs & STRICT.is_tie(largest, totals)
    assert (winning[decided].sum(-1) == 1).all()
    last = np.broadcast_to(winning[:, -1:], winning.shape)
    assert (winning[decided] == last[decided]).all()
    # Nor does it if an answer to come makes one class of all the others.
    own = np.take_along_axis(totals[:, -1:], winning.argmax(2)[:, :, None], 2)[..., 0]
    assert (2 * own > totals[:, -1].sum(-1, keepdims=True) + 1e-8)[decided].all()
    assert decided[:, :-1].any() == (length > 2)


def test_equal_answers_are_decided_with_more_than_half_of_all():
    stopping = Stopping(stopping_rule("decided", has_values=False), 0.5, 6, 1)
    problem = GradedProblem("1", [], [[0]] * 6, [[True]] * 6, [[]] * 6, STRICT)
    found = [
        stopping.is_sure(TreeVotes(replace(problem, **first(problem, count))))
        for count in range(1, 7)
    ]
    assert found == [False, False, False, True, True, True]
    assert stopping.earliest() == 4


def first(problem, count):
    names = ("answers", "classes", "correct", "values")
    return {name: getattr(problem, name)[:count] for name in names}


@pytest.mark.parametrize(
    ("name", "has_values"),
    [
        (name, has_values)
        for name in STOPPING_RULES
        for has_values in (True, False)
        if has_values or stopping_rule(name, has_values).method != "WMV"
    ],
)
def test_a_rule_that_is_asked_as_trees_end_stops_where_its_replay_does(name, has_values):
    rule = stopping_rule(name, has_values)
    ends = []
    for seed in range(40):
        per_tree = 1 + seed % 2
        problem = make_problem(seed, num_trees=8, per_tree=per_tree)
        for threshold in rule.thresholds:
            stopping = Stopping(rule, threshold, 8, per_tree)
            count = stopping.earliest()
            while count < 8:
                votes = TreeVotes(replace(problem, **first(problem, count)))
                if stopping.is_sure(votes):
                    break
                assert stopping.earliest(votes) > count
                count = stopping.earliest(votes)
            order = np.arange(8)[None]
            found = replay(TreeVotes(problem), rule, (threshold,), order, per_tree)
            assert count == found.num_trees[0, 0]
            ends.append(count)
    assert min(ends) < 8
