"""Values as the shares of right responses that they stand for: an isotonic regression."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from run_lib.commands import InputError
from run_lib.settings import read_document
from run_lib.text import some_of


@dataclass(frozen=True)
class Calibration:
    """A non-decreasing function of values, linear between its knots and constant outside.

    Attributes:
        values: Values of the knots, increasing.
        calibrated: The function at each.
        problems: Digests of the questions that it was fitted on.
        value_model: Digest of the model whose values it takes; None if that is not known.
    """

    values: list[float]
    calibrated: list[float]
    problems: list[str]
    value_model: str | None

    def __post_init__(self) -> None:
        knots = np.array(self.values, float), np.array(self.calibrated, float)
        is_whole = all(((part >= 0) & (part <= 1)).all() for part in knots)
        if not self.values or len(self.values) != len(self.calibrated) or not is_whole:
            raise ValueError("it has no knots, or some that are no probabilities")
        if (np.diff(knots[0]) <= 0).any() or (np.diff(knots[1]) < 0).any():
            raise ValueError("its knots do not increase")

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> "Calibration":
        """Reads the content of a file that this command wrote.

        Raises:
            KeyError, TypeError, ValueError: If it is something else.
        """
        values, calibrated, problems = (
            list(document[name]) for name in ("values", "calibrated", "problems")
        )
        return cls(values, calibrated, problems, document["value_model"])

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Reads a file that this command wrote.

        Raises:
            InputError: If there is none, or it is damaged.
        """
        found = read_document(path, cls.parse)
        if found is None:
            raise InputError(
                f"--calibration {path}: there is no such file; "
                "`python -m search_lib.results.calibration` makes one"
            )
        return found

    def apply(self, values: Sequence[float]) -> list[float]:
        """Returns the calibrated values."""
        return np.interp(values, self.values, self.calibrated).tolist()

    def check(self, questions: Mapping[str, str], value_model: str | None) -> None:
        """Raises InputError unless it was fitted on other problems, on values of the same model.

        Args:
            questions: Problems that it shall be used on, by id.
            value_model: Digest of the model that gave the values; None if it is not known.
        """
        fitted = set(self.problems)
        if same := [name for name, text in questions.items() if digest_of(text) in fitted]:
            raise InputError(
                f"--calibration was fitted on {len(same)} of these {len(questions)} problems "
                f"({some_of(sorted(same))}): their right answers would decide the vote"
            )
        if value_model and self.value_model and value_model != self.value_model:
            raise InputError("--calibration is of the values of another model")


def digest_of(question: str) -> str:
    """Returns a digest of a question, by which problems of any benchmark are compared."""
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:16]


def fit_isotonic(values: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the non-decreasing function of the values with the least squared error.

    Neighbours that decrease are pooled at their mean until none does ("pool adjacent violators").
    Equal values count as one, with their mean and their number as its weight.

    Source: Ayer et al. (1955), "An empirical distribution function for sampling with incomplete
    information"; as calibration: Zadrozny and Elkan (2002).

    Args:
        values: [responses], at least one.
        targets: [responses].

    Returns:
        Its knots, increasing, and the function there: the first and the last value of each level.
    """
    knots, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=targets) / counts
    levels: list[tuple[float, float, int]] = []  # mean, weight, knots
    for mean, count in zip(means.tolist(), counts.tolist(), strict=True):
        weight, size = float(count), 1
        while levels and levels[-1][0] >= mean:
            mean_before, weight_before, size_before = levels.pop()
            mean = (mean_before * weight_before + mean * weight) / (weight_before + weight)
            weight, size = weight_before + weight, size_before + size
        levels.append((mean, weight, size))
    fitted = np.repeat([level[0] for level in levels], [level[2] for level in levels])
    is_inside = np.zeros(len(fitted), bool)
    is_inside[1:-1] = (fitted[1:-1] == fitted[:-2]) & (fitted[1:-1] == fitted[2:])
    return knots[~is_inside], fitted[~is_inside]
