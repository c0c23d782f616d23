"""The backward pass of FlexAttention on rows of changing lengths, beside sdpa, against float32.

FlexAttention is compiled. If each length were compiled anew, training with shared prefixes, whose
rows have all lengths, would compile in every step, and torch.compile would give up after eight.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from classifier_lib.attention import FLEX_BLOCK, choose_attention, row_inputs
from classifier_lib.batches import place_tokens
from classifier_lib.layouts import Branch, RowLayout
from scripts.bench.train_step import Shape
from scripts.gpu_day.scale import OUT_OF_MEMORY, Scale, current_scale, unless_out_of_memory

REPETITIONS = 3


class Row(NamedTuple):
    """One attention on one row: the forward and the backward pass of a layer's attention.

    Attributes:
        length: Tokens of the row, four samples with a shared prefix.
        attention: FlexAttention, or sdpa segment by segment.
        graphs: Graphs that were compiled for this row.
        first_seconds: Seconds of the first pass, which compiles.
        milliseconds: Of the fastest of three further passes.
        output_error: Distance of the output from that of float32 with a dense mask, relative to
            its norm.
        gradient_error: The same of the gradients of queries, keys and values.
        note: `out of memory`, or nothing.
    """

    length: int
    attention: str
    graphs: int | None = None
    first_seconds: float | None = None
    milliseconds: float | None = None
    output_error: float | None = None
    gradient_error: float | None = None
    note: str = ""


class Pass(NamedTuple):
    """A forward and a backward pass.

    Attributes:
        output: [1, tokens, heads, head size].
        gradients: Those of queries, keys and values, in one row.
    """

    output: torch.Tensor
    gradients: torch.Tensor


def measure(report: Callable[[Row], None]) -> None:
    """Reports a row for each length and attention."""
    scale = current_scale()
    for length in scale.rows:
        for attention in scale.attentions:
            row = unless_out_of_memory(measure_row, scale, length, attention)
            report(row or Row(length, attention, note=OUT_OF_MEMORY))


def measure_row(scale: Scale, length: int, attention: str) -> Row:
    """Measures one attention on one row."""
    layout = shared_row(length)
    states = draw_states(scale.shape, length, scale.device)
    implementation = choose_attention(attention, "shared_prefix", scale.device)
    function = ALL_ATTENTION_FUNCTIONS[implementation]
    arguments = row_inputs(layout, implementation, scale.device)
    module = nn.Identity().train()

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scaling = query.shape[-1] ** -0.5
        return function(module, query, key, value, scaling=scaling, **arguments)[0]

    graphs = counters["stats"]["unique_graphs"]
    first, found = timed(scale.device, attend, states)
    graphs = counters["stats"]["unique_graphs"] - graphs
    seconds = min(timed(scale.device, attend, states)[0] for _ in range(REPETITIONS))
    mask = layout.dense_mask().to(scale.device)
    exact = [part.detach().float().requires_grad_() for part in states]
    _, expected = timed(scale.device, lambda *parts: attend_densely(mask, *parts), exact)
    return Row(
        length,
        attention,
        graphs,
        first,
        1000 * seconds,
        distance(found.output, expected.output),
        distance(found.gradients, expected.gradients),
    )


def shared_row(length: int) -> RowLayout:
    """Returns a row of four samples: a shared roll-in of half its length, cut at four places."""
    rng = np.random.default_rng(length)
    roll_in, own = rng.integers(0, 1000, length // 2), length // 8
    cuts = [length // 2 * cut // 4 for cut in (1, 2, 3, 4)]
    branches = [Branch(roll_in[:cut], rng.integers(0, 1000, own)) for cut in cuts]
    layout = place_tokens(branches, "shared_prefix", FLEX_BLOCK).layout
    assert layout is not None  # only padded rows have none
    return layout


def draw_states(shape: Shape, length: int, device: torch.device) -> list[torch.Tensor]:
    """Returns queries, keys and values, [1, heads, tokens, head size]."""
    generator = torch.Generator(device).manual_seed(length)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = shape.hidden_size // shape.num_heads
    heads = (shape.num_heads, shape.num_key_value_heads, shape.num_key_value_heads)
    return [
        torch.randn(1, n, length, size, generator=generator, device=device)
        .to(dtype)
        .requires_grad_()
        for n in heads
    ]


def attend_densely(
    mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Returns attention by a mask [tokens, tokens], in the form of transformers' functions."""
    groups = query.shape[1] // key.shape[1]
    # Repeated here: the kernels that hold no [tokens, tokens] scores know no groups.
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def timed(
    device: torch.device, attend: Callable[..., torch.Tensor], states: list[Any]
) -> tuple[float, Pass]:
    """Returns the seconds of a forward and a backward pass, and what came out."""
    for part in states:
        part.grad = None
    synchronize(device)
    start = time.perf_counter()
    output = attend(*states)
    # Another gradient for each token, so that none of them cancel out.
    output.backward(torch.linspace(-1, 1, output.numel(), device=device).view_as(output).to(output))
    synchronize(device)
    seconds = time.perf_counter() - start
    gradients = torch.cat([part.grad.flatten() for part in states])
    return seconds, Pass(output.detach(), gradients)


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the norm of the difference, relative to that of what was expected."""
    difference = torch.linalg.vector_norm(found.float() - expected)
    return float(difference / torch.linalg.vector_norm(expected))
