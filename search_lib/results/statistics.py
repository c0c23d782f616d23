"""Means with 95 % intervals, paired comparisons on the same problems, and pass@k."""

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
    num_repetitions = scores.shape[1]
    variances = scores.var(axis=1, ddof=1) if num_repetitions > 1 else np.empty(0)
    return estimate_of_problems(scores.mean(1), variances, num_repetitions)


def estimate_of_problems(
    means: np.ndarray, variances: np.ndarray, num_repetitions: int
) -> Estimate:
    """Returns the mean score of a benchmark as `estimate_mean` does, from its problems' own.

    Args:
        means: [problems], at least one, the mean of each over its repetitions.
        variances: [problems], the sample variance of each; not read with one repetition.
        num_repetitions: Repetitions of each.
    """
    num_problems = len(means)
    over_problems = over_searches = None
    if num_problems > 1:
        over_problems = float(NORMAL_95 * means.std(ddof=1) / num_problems**0.5)
    if num_repetitions > 1:
        within = np.sqrt(variances.sum() / num_repetitions)
        over_searches = float(NORMAL_95 * within / num_problems)
    return Estimate(
        float(means.mean()), over_problems, over_searches, num_problems, num_repetitions
    )


def bootstrap_interval(
    scores: np.ndarray, num_samples: int = 10_000, seed: int = 0
) -> tuple[float, float] | None:
    """Returns the 95 % percentile interval of the mean, bootstrapped by problem.

    A sample draws whole problems with replacement, each with all its repetitions: problems are
    independent of each other, and the responses to one are not. It assumes no shape of the
    distribution, and its two sides may differ.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.

    Args:
        scores: [problems, repetitions].
        num_samples: Bootstrap samples.
        seed: Seed of the draws.

    Returns:
        (low, high); None for a single problem.

    Raises:
        ValueError: If there are none.
    """
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"need scores of shape [problems, repetitions], got {scores.shape}")
    num_problems = len(scores)
    if num_problems == 1:
        return None
    of_problem = scores.mean(1)
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            of_problem[random.integers(num_problems, size=(size, num_problems))].mean(1)
            for size in _portions(num_samples, num_problems)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def permutation_p_value(
    scores: np.ndarray, baseline: np.ndarray, num_samples: int = 20_000, seed: int = 0
) -> float:
    """Returns the two-sided p-value of a paired permutation test on the mean difference.

    If two runs are equally good, either could have had either result on a problem: each problem's
    difference could as well have the other sign. The p-value is the share of signs whose mean is at
    least as far from 0 as the observed one: of all of them where `num_samples` suffices, else of
    random ones, the observed one among them, so that it is never too small.

    Source: Fisher's randomization test; Phipson and Smyth (2010) for the random signs.

    Args:
        scores: [problems, repetitions].
        baseline: [problems, other repetitions], the same problems in the same order.
        num_samples: Most signs that are tried.
        seed: Seed of the draws.

    Raises:
        ValueError: If the numbers of problems differ.
    """
    if len(scores) != len(baseline):
        raise ValueError(f"{len(scores)} problems cannot be paired with {len(baseline)}")
    differences = scores.mean(1) - baseline.mean(1)
    differences = differences[np.abs(differences) > _SAME]  # 0 has no sign
    observed = abs(differences.sum()) - _SAME * len(differences)
    if 2 ** len(differences) <= num_samples:
        # The digits of 0, 1, 2, ... to base 2 are all signs.
        digits = np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences)) & 1
        return float(np.mean(np.abs((2 * digits - 1) @ differences) >= observed))
    random = np.random.default_rng(seed)
    as_far = 0
    for size in _portions(num_samples, len(differences)):
        signs = random.integers(2, size=(size, len(differences)), dtype=np.int8) * 2 - 1
        as_far += int(np.sum(np.abs(signs @ differences) >= observed))
    return (as_far + 1) / (num_samples + 1)


_SAME = 1e-12
"""Means of the same scores, summed in another order, differ by less."""


def _portions(num_samples: int, size: int) -> list[int]:
    """Returns sizes that add up to `num_samples`, of samples that fit into a few megabytes."""
    most = max(1, 1_000_000 // size)
    return [min(most, num_samples - start) for start in range(0, num_samples, most)]


def pass_at_k(num_correct: np.ndarray, num_samples: int, k: int) -> np.ndarray:
    """Returns the probability that one of `k` samples, drawn from `num_samples`, is right.

    `1 - C(n - c, k) / C(n, k)` with n samples, of which c are right: unbiased, as the mean over all
    subsets of k, where `1 - (1 - c / n)^k` is too small.

    Source: Chen et al. (2021), "Evaluating Large Language Models Trained on Code", eq. 1.

    Args:
        num_correct: Right samples of each problem, of any shape.
        num_samples: Samples a problem.
        k: Samples that are drawn.

    Raises:
        ValueError: If there are fewer samples than `k`.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k} of {num_samples} samples")
    drawn = np.arange(k)
    right = np.asarray(num_correct)[..., None]
    wrong = np.maximum(num_samples - right - drawn, 0) / (num_samples - drawn)
    return 1.0 - wrong.prod(-1)
