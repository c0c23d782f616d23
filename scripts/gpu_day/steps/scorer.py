"""The scorer in bfloat16 against float32, on the search of `scripts.bench.scoring`."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scripts.bench.scoring import MIDDLE, OURS, PARTS, PUBLISHED, Bench, Search, Work
from scripts.bench.train_step import build_model
from scripts.gpu_day.scale import current_scale, forget_peak, peak_gb


class Row(NamedTuple):
    """One way to score the blocks of one search.

    Attributes:
        dtype: Of the model.
        way: `prefix cache`, ours, or `published`: each path alone with its whole prefix.
        passes: Forward passes.
        tokens: Tokens that went through the model.
        seconds: Seconds of scoring.
        tokens_per_second: Rate.
        largest_difference: Of a value to that of float32 with the prefix cache.
        mean_difference: Mean of these differences.
        spread: Standard deviation of the values in float32, to compare the differences with.
        peak_gb: Largest memory; None on a CPU.
    """

    dtype: str
    way: str
    passes: int
    tokens: int
    seconds: float
    tokens_per_second: float
    largest_difference: float
    mean_difference: float
    spread: float
    peak_gb: float | None


def measure(report: Callable[[Row], None]) -> None:
    """Reports three rows: both ways in bfloat16, and ours in float32."""
    scale = current_scale()
    device = scale.device
    model = build_model(scale.shape, device, seed=0).eval()
    model.gradient_checkpointing_disable()  # it would forbid the cache

    def row(way: str, search: Search, work: Work) -> Row:
        return Row(
            str(model.dtype).removeprefix("torch."),
            way,
            work.passes,
            work.tokens,
            work.seconds,
            work.tokens / work.seconds,
            work.difference,
            work.mean_difference,
            float(np.std(search.block_values)),
            peak_gb(device),
        )

    def warmed_up() -> Bench:
        short = Bench(model, max(PARTS), seed=0)
        short.score_alone(short.search(MIDDLE)[0])
        forget_peak(device)
        return Bench(model, scale.shape.max_length, seed=0)

    search, work = warmed_up().search(MIDDLE)
    report(row(OURS, search, work))
    model.bfloat16()
    rounded = warmed_up()
    report(row(OURS, search, rounded.score_again(search)))
    forget_peak(device)
    report(row(PUBLISHED, search, rounded.score_alone(search)))
