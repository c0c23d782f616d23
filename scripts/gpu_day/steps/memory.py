"""Memory of smaller micro batches in each layout, and of a scorer whose cache is full."""

import gc
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from classifier_lib.scoring import ScoringRequest, ValueScorer
from scripts.bench.train_step import Bench, build_model
from scripts.gpu_day.scale import (
    OUT_OF_MEMORY,
    SDPA_WAYS,
    Scale,
    current_scale,
    forget_peak,
    held_gb,
    peak_gb,
    unless_out_of_memory,
)

BLOCKS, BLOCK_SHARE = 8, 8
"""Blocks that continue a prefix, and prefix tokens to one of a block."""


class Row(NamedTuple):
    """One use of memory.

    Attributes:
        what: Training in a layout, or the scorer.
        tokens: Tokens of a micro batch on average, or in the cache.
        held_gb: Memory that stays: weights and states of the optimizer, or weights and cache; None
            on a CPU.
        peak_gb: Largest memory; None on a CPU.
        note: `out of memory`, or nothing.
    """

    what: str
    tokens: int | None = None
    held_gb: float | None = None
    peak_gb: float | None = None
    note: str = ""


def measure(report: Callable[[Row], None]) -> None:
    """Reports the scorer's row, and one for each layout and size of a micro batch."""
    scale = current_scale()
    scorer = "scorer, bfloat16, full cache"
    full = unless_out_of_memory(fill_cache, scale, scorer)
    report(full or Row(scorer, note=OUT_OF_MEMORY))
    gc.collect()  # what is left of it would count below
    smallest = min(scale.smaller_micro_batches)
    bench = Bench(scale.shape, scale.samples // 2, smallest, scale.device, seed=0)
    bench.step("shared_prefix", "sdpa")  # makes the states of the optimizer
    for size in scale.smaller_micro_batches:
        bench.micro_batch_size = size
        for way, attention in SDPA_WAYS:
            what = f"training, {way}, {attention}, micro batches of {size}"
            timing = unless_out_of_memory(bench.step, way, attention)
            if timing is None:
                bench.model.zero_grad()
                report(Row(what, note=OUT_OF_MEMORY))
                continue
            tokens = timing.result.counts.all // timing.num_micro_batches
            report(Row(what, tokens, held_gb(scale.device), peak_gb(scale.device)))


def fill_cache(scale: Scale, what: str) -> Row:
    """Scores blocks until the cache has had to drop some."""
    model = build_model(scale.shape, scale.device, seed=0).eval().to(torch.bfloat16)
    model.gradient_checkpointing_disable()  # it would forbid the cache
    scorer = ValueScorer(model, max_cached_tokens=scale.cached_tokens)
    rng = np.random.default_rng(0)

    def draw(count: int) -> list[int]:
        return rng.integers(0, scale.shape.vocab_size, count).tolist()

    prefix = scale.shape.max_length // 2
    block = prefix // BLOCK_SHARE
    requests = [
        ScoringRequest(draw(prefix), [draw(block) for _ in range(BLOCKS)])
        for _ in range(scale.cached_tokens // (prefix + BLOCKS * block) + 1)
    ]
    forget_peak(scale.device)
    scorer.score(requests)
    return Row(what, scorer.cache.num_tokens, held_gb(scale.device), peak_gb(scale.device))
