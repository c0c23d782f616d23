"""Weights of paths from their values, for strategies that draw the survivors."""

from collections.abc import Iterable

import numpy as np

from search_lib.strategies.rounds import Candidate

EDGE = 1e-7
"""Values are kept this far from 0 and 1, whose logits are infinite; as in its_hub."""


def log_weights(candidates: Iterable[Candidate], temperature: float) -> np.ndarray:
    """Returns logit(value) / T of each candidate, to a constant the logarithm of its weight."""
    values = np.array([candidate.score for candidate in candidates])
    values = values.clip(EDGE, 1 - EDGE)
    weights: np.ndarray = (np.log(values) - np.log1p(-values)) / temperature
    return weights


def normalized(log_weights: np.ndarray) -> np.ndarray:
    """Returns weights that add up to 1: the softmax."""
    weights = np.exp(log_weights - log_weights.max())
    probabilities: np.ndarray = weights / weights.sum()
    return probabilities
