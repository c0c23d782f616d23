"""Statistics against formulas written out, slow direct computation, and their own promise."""

import itertools
import math

import numpy as np
import pytest

from search_lib.results import statistics
from search_lib.results.statistics import (
    bootstrap_interval,
    estimate_mean,
    pass_at_k,
    permutation_p_value,
)


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


def test_no_scores_are_refused():
    with pytest.raises(ValueError, match="problems, repetitions"):
        estimate_mean(np.zeros((0, 4)))


def test_the_bootstrap_draws_whole_problems():
    # Two problems, whose repetitions agree: a sample's mean is 0, 1/2 or 1, the ends 1/4 each.
    scores = np.array([[0.0] * 50, [1.0] * 50])
    assert bootstrap_interval(scores, seed=1) == (0.0, 1.0)
    # Repetitions count as their mean, however many there are.
    one_each = scores.mean(1, keepdims=True)
    assert bootstrap_interval(one_each, seed=1) == bootstrap_interval(scores, seed=1)


def test_the_bootstrap_equals_its_definition_sample_by_sample():
    scores = np.random.default_rng(0).random((7, 3))
    random = np.random.default_rng(5)
    means = []
    for _ in range(400):
        drawn = [scores[problem] for problem in random.integers(7, size=7)]
        means.append(sum(sum(row) / 3 for row in drawn) / 7)
    expected = np.quantile(means, 0.025), np.quantile(means, 0.975)
    assert bootstrap_interval(scores, 400, seed=5) == pytest.approx(expected)


def test_the_bootstrap_of_many_problems_does_not_depend_on_its_portions(monkeypatch):
    scores = np.random.default_rng(0).random((50, 2))
    whole = bootstrap_interval(scores, 200)
    monkeypatch.setattr(statistics, "_portions", lambda num_samples, size: [60, 60, 80])
    assert bootstrap_interval(scores, 200) == whole


def test_the_bootstrap_covers_the_truth_at_its_rate():
    random = np.random.default_rng(1)
    hits = 0
    for seed in range(1000):
        difficulty = random.beta(0.5, 1.5, size=60)  # skewed: most problems are hard
        low, high = bootstrap_interval(
            (random.random((60, 4)) < difficulty[:, None]).astype(float), 400, seed
        )
        hits += low <= 0.25 <= high
    assert 930 <= hits <= 970


def test_one_problem_has_no_bootstrap_interval():
    assert bootstrap_interval(np.array([[1.0, 0.0]])) is None
    with pytest.raises(ValueError, match="problems, repetitions"):
        bootstrap_interval(np.zeros((0, 1)))


def column(*values):
    return np.array(values, dtype=float)[:, None]


def test_the_permutation_test_equals_all_signs_tried_one_by_one():
    ours, theirs = column(0.9, 0.4, 1.0, 0.5, 0.2, 0.7), column(0.5, 0.5, 0.3, 0.5, 0.1, 0.1)
    differences = (ours - theirs)[:, 0]
    sums = [abs(sum(s * differences)) for s in itertools.product([-1, 1], repeat=6)]
    expected = sum(total >= abs(sum(differences)) - 1e-12 for total in sums) / 64
    assert permutation_p_value(ours, theirs) == pytest.approx(expected)
    assert permutation_p_value(theirs, ours) == pytest.approx(expected)


@pytest.mark.parametrize(("num_better", "error"), [(9, 1e-12), (22, 0.002)])
def test_the_permutation_test_of_right_and_wrong_is_the_sign_test(num_better, error):
    """All signs are tried if few problems differ, whatever the ties; else random ones."""
    num_worse = 3
    scores = column(*[1.0] * num_better, *[0.0] * num_worse, *[1.0] * 40)  # the rest are ties
    baseline = 1.0 - scores
    baseline[-40:] = 1.0
    n = num_better + num_worse
    expected = 2 * sum(math.comb(n, i) for i in range(num_worse + 1)) / 2**n
    assert permutation_p_value(scores, baseline) == pytest.approx(expected, abs=error)


def test_a_p_value_is_never_0():
    assert permutation_p_value(column(*[1.0] * 50), column(*[0.0] * 50), 999) == 1 / 1000


def test_equal_runs_have_a_p_value_of_1():
    assert permutation_p_value(column(0.1, 0.7), column(0.1, 0.7)) == 1.0


def test_p_values_of_equally_good_runs_are_uniform():
    random = np.random.default_rng(2)
    p_values = np.sort(
        [
            permutation_p_value(random.random((20, 2)), random.random((20, 3)), 200, seed)
            for seed in range(1000)
        ]
    )
    # Kolmogorov's distance to the uniform distribution: above 1.63 / sqrt(1000) once in a hundred.
    assert np.abs(p_values - np.arange(1, 1001) / 1000).max() < 1.63 / math.sqrt(1000)


def test_a_permutation_test_needs_the_same_problems():
    with pytest.raises(ValueError, match="2 problems cannot be paired with 1"):
        permutation_p_value(column(0.1, 0.7), column(0.1))


def test_pass_at_k_is_the_mean_over_all_subsets():
    for num_samples, num_correct in itertools.product(range(1, 7), range(7)):
        right = [index < num_correct for index in range(num_samples)]
        for k in range(1, num_samples + 1):
            subsets = list(itertools.combinations(right, k))
            expected = sum(map(any, subsets)) / len(subsets)
            found = pass_at_k(np.array([min(num_correct, num_samples)]), num_samples, k)
            assert found == pytest.approx([expected], abs=1e-12)


def test_pass_at_k_of_many_samples_is_exact():
    exact = 1 - math.comb(2048 - 3, 1000) / math.comb(2048, 1000)
    assert float(pass_at_k(np.array(3), 2048, 1000)) == pytest.approx(exact, rel=1e-12)


def test_pass_at_k_needs_k_samples():
    with pytest.raises(ValueError, match="k is 5 of 4 samples"):
        pass_at_k(np.array([1]), 4, 5)
