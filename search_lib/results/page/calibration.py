"""How well the values of a run told right responses from wrong ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_BINS = 10
"""Bins of values, and of positions."""

_LEAST = 1e-9


@dataclass
class ValueSamples:
    """The values along the paths of responses, and whether each ended right.

    Attributes:
        values: P(correct) at the end of each block of each path.
        depths: Where in its response each stands: the share of its tokens up to there.
        outcomes: Whether that response is right.
        is_last: Whether it is the response's last value.
    """

    values: list[float]
    depths: list[float]
    outcomes: list[bool]
    is_last: list[bool]

    @classmethod
    def empty(cls) -> "ValueSamples":
        """Returns none."""
        return cls([], [], [], [])

    def add_path(
        self, values: Sequence[float | None], lengths: Sequence[int], is_right: bool
    ) -> None:
        """Adds the blocks on the path of one response.

        Args:
            values: Value at the end of each block; None where nothing scored it.
            lengths: Tokens of each block.
            is_right: Whether the response is right.
        """
        total, before = max(1, sum(lengths)), 0
        for place, (value, length) in enumerate(zip(values, lengths, strict=True), start=1):
            before += length
            if value is not None:
                self.values.append(value)
                self.depths.append(before / total)
                self.outcomes.append(is_right)
                self.is_last.append(place == len(values))


def auroc(values: np.ndarray, outcomes: np.ndarray) -> float | None:
    """Returns the probability that a right response has a higher value than a wrong one.

    Ties count half. None where all are right, or none is.

    Source: Hanley and McNeil (1982): the area is the statistic of Mann and Whitney.

    Args:
        values: [samples].
        outcomes: [samples], whether each is right.
    """
    num_right = int(outcomes.sum())
    num_wrong = len(outcomes) - num_right
    if not num_right or not num_wrong:
        return None
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[places]  # from 1; equal values share theirs
    rank_sum = ranks[outcomes].sum()
    return float((rank_sum - num_right * (num_right + 1) / 2) / (num_right * num_wrong))


def reliability(values: np.ndarray, outcomes: np.ndarray) -> list[dict[str, float]]:
    """Returns the mean value and the share of right responses of each bin that has samples.

    Bins are of equal width; 1 belongs to the last.

    Args:
        values: [samples].
        outcomes: [samples], whether each is right.
    """
    bins = np.minimum((values * NUM_BINS).astype(int), NUM_BINS - 1)
    rows = []
    for number in range(NUM_BINS):
        here = bins == number
        if here.any():
            rows.append(
                {
                    "value": float(values[here].mean()),
                    "right": float(outcomes[here].mean()),
                    "count": int(here.sum()),
                }
            )
    return rows


def summarize(samples: ValueSamples) -> dict[str, Any] | None:
    """Returns what the page shows of a run's values, as JSON types; None if there are none.

    `final` is of the last value of each response; its calibration error is the mean distance
    between value and share of right ones over bins, weighed by their counts. `by_depth` is of all
    blocks on the paths of responses, by their place in the response.
    """
    if not samples.values:
        return None
    values, depths = np.array(samples.values), np.array(samples.depths)
    outcomes, is_last = np.array(samples.outcomes), np.array(samples.is_last)
    final = reliability(values[is_last], outcomes[is_last])
    count = int(is_last.sum())
    distances = [row["count"] * abs(row["value"] - row["right"]) for row in final]
    bins = np.clip(np.ceil(depths * NUM_BINS - _LEAST).astype(int) - 1, 0, NUM_BINS - 1)
    by_depth = []
    for number in range(NUM_BINS):
        here = bins == number
        if here.any():
            right, wrong = values[here & outcomes], values[here & ~outcomes]
            by_depth.append(
                {
                    "depth": (number + 1) / NUM_BINS,
                    "count": int(here.sum()),
                    "auroc": auroc(values[here], outcomes[here]),
                    "right": float(right.mean()) if right.size else None,
                    "wrong": float(wrong.mean()) if wrong.size else None,
                }
            )
    return {
        "count": count,
        "reliability": final,
        "auroc": auroc(values[is_last], outcomes[is_last]),
        "brier": float(((values - outcomes)[is_last] ** 2).mean()) if count else None,
        "calibration_error": float(sum(distances) / count) if count else None,
        "by_depth": by_depth,
    }
