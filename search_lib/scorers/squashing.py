"""How scores that are no probabilities become values in [0, 1]."""

import math
from typing import Any

LARGEST = 1e300
"""JSON may have integers that no float holds."""


def is_number(value: Any) -> bool:
    """Returns whether a value of a reply is a finite number, and no truth value."""
    return type(value) in (int, float) and abs(value) < LARGEST  # refuses NaN, too


def sigmoid(logit: float) -> float:
    """Returns 1 / (1 + exp(-logit)): of a reward, the Bradley-Terry odds against a reward of 0."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))


def softmax(logits: list[float]) -> list[float]:
    """Returns the probabilities of labels."""
    largest = max(logits)
    weights = [math.exp(logit - largest) for logit in logits]
    return [weight / sum(weights) for weight in weights]
