"""Intervals against formulas written out, and against their own promise."""

import math

import numpy as np
import pytest

from search_lib.results.statistics import estimate_difference, estimate_mean


def test_intervals_equal_the_formulas_written_out():
    scores = [[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]]
    means = [0.75, 0.25, 1.0]
    mean = sum(means) / 3
    spread = math.sqrt(sum((m - mean) ** 2 for m in means) / 2)
    within = [sum((s - m) ** 2 for s in row) / 3 for row, m in zip(scores, means, strict=True)]
    estimate = estimate_mean(np.array(scores, dtype=float))
    assert estimate.mean == pytest.approx(mean)
    assert estimate.over_problems == pytest.approx(1.96 * spread / math.sqrt(3), rel=1e-4)
    assert estimate.over_searches == pytest.approx(1.96 * math.sqrt(sum(within) / 4) / 3, rel=1e-4)
    assert (estimate.num_problems, estimate.num_repetitions) == (3, 4)


def test_intervals_cover_the_truth_at_their_rate():
    random = np.random.default_rng(0)
    hits_problems = hits_searches = 0
    for _ in range(1000):
        difficulty = random.random(60)
        estimate = estimate_mean((random.random((60, 8)) < difficulty[:, None]).astype(float))
        hits_problems += abs(estimate.mean - 0.5) <= estimate.over_problems
        hits_searches += abs(estimate.mean - difficulty.mean()) <= estimate.over_searches
    assert 930 <= hits_problems <= 970
    assert 930 <= hits_searches <= 970


def test_an_interval_that_has_no_data_is_none():
    assert estimate_mean(np.array([[1.0, 0.0]])).over_problems is None
    assert estimate_mean(np.array([[1.0], [0.0]])).over_searches is None


def test_a_paired_difference_drops_what_both_sides_share():
    difficulty = np.linspace(0, 0.9, 50)[:, None]
    difference = estimate_difference(difficulty + 0.1, difficulty)
    assert difference.mean == pytest.approx(0.1)
    assert difference.over_problems == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="cannot be paired"):
        estimate_difference(difficulty, difficulty[:-1])


def test_no_scores_are_refused():
    with pytest.raises(ValueError, match="problems, repetitions"):
        estimate_mean(np.zeros((0, 4)))
