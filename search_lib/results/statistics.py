"""Means with 95 % intervals, and paired comparisons on the same problems."""

from dataclasses import dataclass

import numpy as np

NORMAL_95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A mean and the half-widths of its two 95 % intervals.

    Attributes:
        mean: Mean over problems and repetitions.
        over_problems: Half-width for other problems of the same kind, searched anew. None for a
            single problem.
        over_searches: Half-width for these same problems, searched anew: from the within-problem
            variance over repetitions, as the VGS paper reports. None with one repetition.
        num_problems: Problems.
        num_repetitions: Independent repetitions a problem.
    """

    mean: float
    over_problems: float | None
    over_searches: float | None
    num_problems: int
    num_repetitions: int


def estimate_mean(scores: np.ndarray) -> Estimate:
    """Returns the mean score of a benchmark with its intervals.

    With m_p the mean and s_p^2 the sample variance of problem p over R repetitions, P problems:

    - over problems: 1.96 * std(m_p) / sqrt(P)
    - over searches: 1.96 * sqrt(sum_p s_p^2 / R) / P

    Args:
        scores: [problems, repetitions].

    Raises:
        ValueError: If there are none.
    """
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"need scores of shape [problems, repetitions], got {scores.shape}")
    num_problems, num_repetitions = scores.shape
    over_problems = over_searches = None
    if num_problems > 1:
        over_problems = NORMAL_95 * scores.mean(1).std(ddof=1) / num_problems**0.5
    if num_repetitions > 1:
        within = scores.var(axis=1, ddof=1)
        over_searches = NORMAL_95 * np.sqrt(within.sum() / num_repetitions) / num_problems
    return Estimate(
        float(scores.mean()),
        None if over_problems is None else float(over_problems),
        None if over_searches is None else float(over_searches),
        num_problems,
        num_repetitions,
    )


def estimate_difference(scores: np.ndarray, baseline: np.ndarray) -> Estimate:
    """Returns the mean of `scores - baseline`, paired by problem.

    The difficulty of a problem falls out of the difference, so that the interval is narrower than
    those of the two means. Repetitions of the two sides are independent and are averaged first.

    Args:
        scores: [problems, repetitions].
        baseline: [problems, other repetitions], the same problems in the same order.

    Raises:
        ValueError: If the numbers of problems differ.
    """
    if len(scores) != len(baseline):
        raise ValueError(f"{len(scores)} problems cannot be paired with {len(baseline)}")
    return estimate_mean(scores.mean(1, keepdims=True) - baseline.mean(1, keepdims=True))
