"""Confidence of a response, against the papers' definitions written out."""

import math
import random

import numpy as np
import pytest

from search_lib.confidence import Confidence, is_below, self_certainty_of_top, window_means


@pytest.mark.parametrize(("length", "window"), [(1, 4), (3, 4), (4, 4), (5, 4), (60, 4), (60, 1)])
def test_windows_are_those_written_out(length, window):
    draw = random.Random(length)
    confidences = [draw.uniform(1, 20) for _ in range(length)]
    certainties = [draw.uniform(1, 20) for _ in range(length)]
    found = Confidence.of(confidences, certainties, window)
    groups = [confidences[i : i + window] for i in range(max(1, length - window + 1))]
    means = sorted(sum(group) / len(group) for group in groups)
    assert sorted(window_means(confidences, window)) == pytest.approx(means)
    lowest_tenth = means[: max(1, len(means) // 10)]
    last = confidences[max(0, length - window) :]
    expected = Confidence(
        mean=sum(confidences) / length,
        lowest=means[0],
        bottom=sum(lowest_tenth) / len(lowest_tenth),
        tail=sum(last) / len(last),
        self_certainty=sum(certainties) / length,
    )
    assert vars(found) == pytest.approx(vars(expected))


def test_self_certainty_of_the_likeliest_tokens_is_a_lower_bound():
    random_state = np.random.default_rng(0)
    for _ in range(50):
        logprobs = np.sort(np.log(random_state.dirichlet(np.full(30, 0.3)) + 1e-12))[::-1]
        logprobs -= np.log(np.exp(logprobs).sum())
        exact = -np.mean(logprobs) - math.log(30)
        bounds = [self_certainty_of_top(logprobs[:k].tolist(), 30) for k in range(1, 31)]
        assert all(bound <= exact + 1e-4 for bound in bounds)
        assert bounds[-1] == pytest.approx(exact)


def test_self_certainty_is_0_for_a_uniform_distribution():
    assert self_certainty_of_top([math.log(1 / 50)] * 20, 50) == pytest.approx(0)


def test_a_token_whose_rest_is_lost_in_rounding_has_a_finite_certainty():
    sure = self_certainty_of_top([0.0, -90.0], 1000)
    assert math.isfinite(sure)
    assert sure > self_certainty_of_top([math.log(0.9), math.log(0.05)], 1000)


@pytest.mark.parametrize(
    ("confidence", "bar", "expected"),
    [
        (9.0, 10.0, True),
        (10.0, 9.0, False),
        (10.0 * (1 - 3e-7), 10.0, False),
        (10.0 * (1 - 2e-5), 10.0, True),
        (-10.0 * (1 + 3e-7), -10.0, False),
        (-10.0 * (1 + 2e-5), -10.0, True),
        (-3e-7, 0.0, False),
        (-1e-5, 0.0, True),
        (1.0, np.inf, True),
    ],
)
def test_a_confidence_is_below_a_bar_by_more_than_rounding(confidence, bar, expected):
    assert is_below(confidence, bar) == expected
