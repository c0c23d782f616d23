"""Votes over subsets of trees, equal to those of `voting` on every subset one by one."""

import itertools

import numpy as np
import pytest

from search_lib.answer_rules import ANSWER_RULES, STRICT
from search_lib.confidence import Confidence
from search_lib.results import resampling
from search_lib.results.graded import GradedProblem
from search_lib.results.resampling import TreeVotes, resample, tree_orders
from search_lib.voting import VOTES
from tests.support.ballots import make_problem, vote


@pytest.mark.parametrize("rules", ANSWER_RULES.values(), ids=ANSWER_RULES)
@pytest.mark.parametrize("method", VOTES)
def test_every_budget_is_the_mean_over_all_subsets(method, rules):
    orders = tree_orders(4)
    for seed in range(60):
        problem = make_problem(seed, rules)
        expected = [
            np.mean([vote(problem, method, some) for some in itertools.combinations(range(4), t)])
            for t in range(1, 5)
        ]
        assert TreeVotes(problem).accuracies(method, orders) == pytest.approx(expected), seed


@pytest.mark.parametrize("method", VOTES)
def test_random_orders_come_near_all_subsets(method):
    problems = [make_problem(seed, num_trees=8) for seed in range(10)]
    found = resample([*map(TreeVotes, problems)], method, tree_orders(8))
    expected = [
        [np.mean([vote(p, method, some) for some in itertools.combinations(range(8), t)])]
        for p in problems
        for t in (3,)
    ]
    assert np.abs(found[:, [2]] - expected).mean() < 0.03


@pytest.mark.parametrize("method", VOTES)
def test_one_tree_and_all_trees_are_exact(method):
    problem = make_problem(3, num_trees=16)
    found = TreeVotes(problem).accuracies(method, tree_orders(16))
    assert found[0] == pytest.approx(np.mean([vote(problem, method, [t]) for t in range(16)]))
    assert found[-1] == pytest.approx(vote(problem, method, range(16)))


def test_subsets_in_portions_are_the_same(monkeypatch):
    problem = TreeVotes(make_problem(1, num_trees=8))
    whole = problem.accuracies("WMV", tree_orders(8))
    monkeypatch.setattr(resampling, "_MOST_ENTRIES", 50)
    assert problem.accuracies("WMV", tree_orders(8)).tolist() == whole.tolist()


@pytest.mark.parametrize("method", VOTES)
def test_a_problem_without_answers_is_never_right(method):
    nothing = [[None], [None]]
    problem = GradedProblem("9", nothing, nothing, [[False], [False]], [[0.5], [0.5]], STRICT)
    problem.confidences, problem.calibrated = [[Confidence(*range(5))]] * 2, [[0.5], [0.5]]
    assert TreeVotes(problem).accuracies(method, tree_orders(2)).tolist() == [0.0, 0.0]


def test_each_order_has_each_tree_once_and_each_place_each_tree_equally_often():
    for num_trees in (1, 3, 16, 300):
        orders = tree_orders(num_trees, seed=2)
        assert (np.sort(orders, axis=1) == np.arange(num_trees)).all()
        places = np.sort(orders, axis=0).reshape(num_trees, -1, num_trees)
        assert (places == np.arange(num_trees)[:, None, None]).all()
    assert tree_orders(16, seed=2).tolist() != tree_orders(16, seed=3).tolist()
