"""Calibration of values, against slow direct computations."""

import numpy as np
import pytest

from search_lib.results.page.calibration import ValueSamples, auroc, reliability, summarize


def test_auroc_is_the_share_of_pairs_that_stand_right():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.integers(6, size=30) / 5  # with ties
        outcomes = rng.random(30) < 0.4
        pairs = [
            (right > wrong) + 0.5 * (right == wrong)
            for right in values[outcomes]
            for wrong in values[~outcomes]
        ]
        assert auroc(values, outcomes) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("outcome", [True, False])
def test_auroc_of_one_kind_alone_is_none(outcome):
    assert auroc(np.array([0.1, 0.9]), np.array([outcome] * 2)) is None


def test_reliability_has_a_row_for_each_bin_that_has_samples():
    rows = reliability(np.array([0.0, 0.04, 0.31, 0.99, 1.0]), np.array([0, 1, 1, 1, 0], bool))
    assert rows == [
        {"value": pytest.approx(0.02), "right": 0.5, "count": 2},
        {"value": pytest.approx(0.31), "right": 1.0, "count": 1},
        {"value": pytest.approx(0.995), "right": 0.5, "count": 2},
    ]


def test_only_last_values_are_final_and_all_have_a_place():
    samples = ValueSamples.empty()
    samples.add_path([0.2, None, 0.8], [10, 5, 5], True)
    samples.add_path([0.6], [7], False)
    summary = summarize(samples)
    assert summary["count"] == 2
    assert summary["auroc"] == 1.0
    assert summary["brier"] == pytest.approx((0.2**2 + 0.6**2) / 2)
    assert summary["calibration_error"] == pytest.approx((0.2 + 0.6) / 2)
    # 10 of 20 tokens, and the ends.
    assert [(row["depth"], row["count"]) for row in summary["by_depth"]] == [(0.5, 1), (1.0, 2)]
    assert summary["by_depth"][0] == {
        "depth": 0.5, "count": 1, "auroc": None, "right": 0.2, "wrong": None
    }  # fmt: skip


def test_without_values_there_is_no_summary():
    samples = ValueSamples.empty()
    samples.add_path([None, None], [1, 1], True)
    assert summarize(samples) is None
