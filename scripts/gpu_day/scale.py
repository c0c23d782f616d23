"""Sizes of a GPU day, published ones on a GPU and tiny ones on a CPU; and the memory in use."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch

from classifier_lib.batches import PackingName
from scripts.bench.train_step import SHAPES, Shape

Result = TypeVar("Result")

OUT_OF_MEMORY = "out of memory"


class SearchSize(NamedTuple):
    """Sizes of the searches.

    Attributes:
        searches: Searches, all of them in flight.
        prompt: Tokens of a prompt.
        blocks: Blocks in flight in a search.
        block: Tokens of a block.
        response: Tokens of a response.
    """

    searches: int
    prompt: int
    blocks: int
    block: int
    response: int


@dataclass(frozen=True)
class Scale:
    """Sizes of all steps.

    Attributes:
        device: Device that computes.
        shape: Both models' shape, with the longest sample and response.
        samples: Samples of a training step.
        micro_batch_size: Samples of a padded micro batch; packed ones have about as many tokens.
        smaller_micro_batches: Further ones, whose memory is measured.
        ways: Layouts and attentions to train with.
        attentions: Attentions whose backward pass is measured.
        rows: Lengths of the rows that they get, one after the other, in multiples of 128.
        cached_tokens: Tokens that fill the scorer's cache.
        search: Sizes of the searches.
    """

    device: torch.device
    shape: Shape
    samples: int
    micro_batch_size: int
    smaller_micro_batches: tuple[int, ...]
    ways: tuple[tuple[PackingName, str], ...]
    attentions: tuple[str, ...]
    rows: tuple[int, ...]
    cached_tokens: int
    search: SearchSize


SDPA_WAYS: tuple[tuple[PackingName, str], ...] = (
    ("padded", "sdpa"),
    ("packed", "sdpa"),
    ("shared_prefix", "sdpa"),
)


def current_scale() -> Scale:
    """Returns the sizes for this machine."""
    if torch.cuda.is_available():
        return Scale(
            device=torch.device("cuda"),
            shape=SHAPES["1.5b"],
            samples=8,
            micro_batch_size=8,
            smaller_micro_batches=(2, 4),
            # FlexAttention last: what it compiles may take longer than there is.
            ways=(
                *SDPA_WAYS,
                ("shared_prefix", "flex_attention"),
                ("packed", "flex_attention"),
            ),
            attentions=("flex_attention", "sdpa"),
            # More lengths than torch.compile keeps graphs of a function (8), and one once more.
            rows=(4096, 8192, 6144, 12_288, 2048, 16_384, 5120, 10_240, 3072, 14_336, 4096),
            cached_tokens=262_144,
            search=SearchSize(searches=64, prompt=512, blocks=4, block=128, response=512),
        )
    torch.set_num_threads(1)
    return Scale(
        device=torch.device("cpu"),
        shape=Shape(512, 64, 160, 2, 2, 1, 128, True),
        samples=8,
        micro_batch_size=4,
        smaller_micro_batches=(2,),
        ways=SDPA_WAYS,
        attentions=("sdpa",),  # FlexAttention has no backward there
        rows=(256, 512, 256),
        cached_tokens=2048,
        search=SearchSize(searches=4, prompt=8, blocks=4, block=8, response=16),
    )


def forget_peak(device: torch.device) -> None:
    """Starts to measure the largest memory anew, on a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float | None:
    """Returns the largest memory of tensors since `forget_peak`, in GB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def held_gb(device: torch.device) -> float | None:
    """Returns the memory of the tensors that there are, in GB; None on a CPU."""
    return torch.cuda.memory_allocated(device) / 1e9 if device.type == "cuda" else None


def unless_out_of_memory(work: Callable[..., Result], *arguments: Any) -> Result | None:
    """Returns the result of a function; None if the GPU's memory is too small for it."""
    try:
        return work(*arguments)
    except torch.OutOfMemoryError:
        pass
    # Only here is the error gone, whose frames hold tensors.
    gc.collect()
    torch.cuda.empty_cache()
    return None
