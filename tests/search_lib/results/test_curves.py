"""Points of accuracy against cost: their means, and which of them nothing cheaper reaches."""

import random

import numpy as np
import pytest

from search_lib.results.curves import budget_curve, pareto_optimal, stopping_curve
from search_lib.results.resampling import resample, tree_orders
from search_lib.results.run_trees import RunTrees
from search_lib.results.selection import Selection
from search_lib.results.stopping import STOPPING_RULES, replay
from tests.support.runs import write_run

SELECTION = Selection("run", "unused", None, False)


@pytest.fixture
def run(tmp_path):
    draw = random.Random(0)
    searches = {
        name: ("1", [[(draw.choice("112"), draw.random())] for _ in range(6)]) for name in "abcd"
    }
    write_run(tmp_path / "run", searches, num_blocks=1)
    return RunTrees.load(tmp_path / "run")


def test_a_curve_has_every_number_of_trees_at_its_mean_cost(run):
    curve = budget_curve(SELECTION, run, "WMV", seed=3)
    assert (curve.label, curve.run, curve.rule) == ("run WMV", "run", None)
    assert [point.trees for point in curve.points] == [1, 2, 3, 4, 5, 6]
    # Trees of 10, 20, ... 60 tokens: 35 on average.
    assert [point.costs["tokens"] for point in curve.points] == [35 * t for t in range(1, 7)]
    assert [point.costs["budget"] for point in curve.points] == [1, 2, 3, 4, 5, 6]
    accuracies = resample(run.votes, "WMV", tree_orders(6, seed=3))
    found = np.array([point.per_problem for point in curve.points]).T
    assert found == pytest.approx(accuracies)
    assert curve.points[2].estimate.mean == pytest.approx(accuracies[:, 2].mean())


@pytest.mark.parametrize("name", STOPPING_RULES)
def test_a_search_that_stops_pays_for_its_trees_alone(run, name):
    curve = stopping_curve(SELECTION, run, name)
    rule, orders = STOPPING_RULES[name], tree_orders(6)
    replays = [replay(votes, rule, rule.thresholds, orders, 1) for votes in run.votes]
    for index, point in enumerate(curve.points):
        tokens = [
            sum(10 * (tree + 1) for tree in order[:stop])
            for stopped in replays
            for order, stop in zip(orders, stopped.num_trees[index], strict=True)
        ]
        assert point.threshold == rule.thresholds[index]
        assert point.costs["tokens"] == pytest.approx(np.mean(tokens))
        stops = [stopped.num_trees[index].mean() for stopped in replays]
        assert point.trees == point.costs["budget"] == pytest.approx(np.mean(stops))
        right = [stopped.accuracies[index].mean() for stopped in replays]
        assert point.per_problem == pytest.approx(right)
    assert curve.points[0].trees < 6


def test_a_run_that_stops_problems_pays_for_the_trees_that_it_has(tmp_path):
    searches = {
        "a": ("1", [[("2", 0.5)], [("1", 0.7)]]),
        "b": ("1", [[("1", 0.5)], [("3", 0.7)], [("3", 0.1)], [("1", 0.9)]]),
    }
    flags = {"num_blocks": 1, "num_repetitions": 4, "stop": "value", "stop_confidence": 0.5}
    write_run(tmp_path / "stopped", searches, **flags)
    run = RunTrees.load(tmp_path / "stopped")
    assert run.has_values

    def points(method):
        return budget_curve(SELECTION, run, method).points

    # Trees of 10, 20, 30 and 40 tokens; a has two of them.
    assert [point.costs["tokens"] for point in points("MV")] == [10, 30, 45, 65]
    assert [point.costs["budget"] for point in points("MV")] == [1, 2, 2.5, 3]
    assert [point.trees for point in points("MV")] == [1, 2, 3, 4]
    found = {
        method: [point.per_problem.tolist() for point in points(method)]
        for method in ("MV", "WMV", "BoN", "pass@1", "pass@k")
    }
    assert found == {
        "MV": [[0, 1], [0.5, 0.5], [0.5, 0], [0.5, 0.5]],
        "WMV": [[0, 1], [1, 0], [1, 0], [1, 1]],
        "BoN": [[0, 1], [1, 0], [1, 0], [1, 1]],
        "pass@1": [[0, 1], [0.5, 0.5], [0.5, pytest.approx(1 / 3)], [0.5, 0.5]],
        "pass@k": [[0, 1], [1, 1], [1, 1], [1, 1]],
    }


def test_points_are_optimal_unless_another_is_as_cheap_and_as_good_and_better_in_one():
    draw = random.Random(1)
    for _ in range(200):
        points = [(draw.randrange(5), draw.randrange(5) / 4) for _ in range(draw.randrange(8))]
        expected = [
            not any(
                other[0] <= point[0] and other[1] >= point[1] and other != point for other in points
            )
            for point in points
        ]
        assert pareto_optimal(points) == expected


def test_costs_and_accuracies_that_differ_by_rounding_are_equal():
    tokens = 0.1 + 0.2  # more than 0.3 in floating point
    assert pareto_optimal([(0.3, 0.5), (tokens, 0.5)]) == [True, True]
    assert pareto_optimal([(3e20, 0.5), (tokens * 1e21, 0.6)]) == [False, True]
    assert pareto_optimal([(0.5, 0.3), (0.5, tokens)]) == [True, True]
