"""Attention over packed rows (see `layouts`), by the implementations that a machine may have.

`flash_attention_2` takes rows without shared prefixes as variable-length sequences;
`flex_attention` takes any row as a block mask, by the route that transformers offers; and
`segmented_sdpa`, registered with transformers here, runs torch's fused attention on one segment of
a row after the other, on a CPU or a GPU, so that no [T, T] mask is ever built and no hidden pair of
tokens is computed.
"""

import logging
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

from classifier_lib.layouts import RowLayout
from classifier_lib.modeling import ValueModel, resolve_attention

logger = logging.getLogger(__name__)

SEGMENTED_SDPA = "segmented_sdpa"
FLEX_BLOCK = 128
"""Tokens of a block of FlexAttention's masks."""


def choose_attention(name: str, packing: str, device: torch.device) -> str:
    """Returns the attention implementation to train with.

    Args:
        name: "auto", "flash_attention_2", "flex_attention" or "sdpa".
        packing: "padded", "packed" or "shared_prefix".
        device: Device of the model.

    Returns:
        A name that transformers knows. For "auto", on a GPU flash_attention_2 where it is
        installed and the packing allows it, flex_attention for shared prefixes, and sdpa else.

    Raises:
        ValueError: If the implementation can't train with this packing, or on this device; the
            message begins with its name.
    """
    if name == "auto":
        on_gpu = device.type == "cuda"
        if on_gpu and packing == "shared_prefix":
            name = "flex_attention"
        else:
            name = "flash_attention_2" if on_gpu and is_flash_attn_2_available() else "sdpa"
    if name == "flash_attention_2" and packing == "shared_prefix":
        raise ValueError(
            "flash_attention_2 has no masks for shared prefixes: use flex_attention or sdpa"
        )
    if name == "flex_attention" and device.type == "cpu":
        raise ValueError("flex_attention has no backward on a CPU: use sdpa")
    name = resolve_attention(name)
    if name == "sdpa" and packing != "padded":
        return SEGMENTED_SDPA
    return name


def leave_out_flex_dropout(model: ValueModel) -> None:
    """Turns off the dropout of attention weights, which FlexAttention doesn't have, with a warning.

    The dropout before the head stays.
    """
    if model.config._attn_implementation == "flex_attention" and model.config.attention_dropout:
        logger.warning(
            "flex_attention has no dropout of attention weights: only the head has dropout %g.",
            model.config.attention_dropout,
        )
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.0


def row_inputs(layout: RowLayout, implementation: str, device: torch.device) -> dict[str, Any]:
    """Returns the keyword arguments of the model that give a packed row its attention.

    Args:
        layout: The row.
        implementation: "segmented_sdpa", "flex_attention", or "flash_attention_2" for a row
            without shared prefixes.
        device: Device of the model.
    """
    # Decoders of transformers take a 4-D mask for a finished one, and hand it to the attention of
    # every layer as it is, together with the arguments that they don't know.
    if implementation == SEGMENTED_SDPA:
        # The empty mask is in place of one that they would make: none ever looks at it.
        return {"attention_mask": torch.empty(0, 0, 0, 0, device=device), "row_layout": layout}
    if implementation == "flex_attention":
        return {"attention_mask": flex_block_mask(layout, device)}
    if implementation != "flash_attention_2" or not layout.is_flat:
        raise ValueError(f"{implementation} can't attend within rows of this layout")
    starts = [segment.start for segment in layout.segments]
    bounds = torch.tensor([*starts, layout.length], dtype=torch.int32, device=device)
    longest = max(len(segment.tokens) for segment in layout.segments)
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def flex_block_mask(layout: RowLayout, device: torch.device) -> BlockMask:
    """Returns the block mask of a row: blocks computed whole, with a mask, or not at all.

    Found from the bounds of each block, so that no [T, T] mask is built. A block that the bounds
    can't rule out is computed with the mask, which is always right.
    """
    num_blocks = -(-layout.length // FLEX_BLOCK)
    starts = np.arange(num_blocks) * FLEX_BLOCK
    stops = np.minimum(starts + FLEX_BLOCK, layout.length)
    ends = layout.subtree_end
    latest_end = np.maximum.reduceat(ends, starts)
    earliest_end = np.minimum.reduceat(ends, starts)
    # Rows are blocks of queries, columns blocks of keys.
    some = (starts[None, :] < stops[:, None]) & (starts[:, None] < latest_end[None, :])
    whole = (stops[None, :] - 1 <= starts[:, None]) & (stops[:, None] <= earliest_end[None, :])
    if layout.length % FLEX_BLOCK:
        whole[-1, :] = whole[:, -1] = False  # the mask hides the end of the block, behind the row
    partial = some & ~whole
    end_of = torch.from_numpy(np.pad(ends, (0, num_blocks * FLEX_BLOCK - layout.length))).to(device)

    def mask_mod(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return (key <= query) & (query < end_of[key])

    def listed(blocks: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns how many blocks each row lists, and the list, the blocks of the row first."""
        order = np.argsort(~blocks, axis=1, kind="stable")
        return (
            torch.tensor(blocks.sum(axis=1), dtype=torch.int32, device=device)[None, None],
            torch.tensor(order, dtype=torch.int32, device=device)[None, None],
        )

    return BlockMask.from_kv_blocks(
        *listed(partial),
        *listed(whole),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(layout.length, layout.length),
    )


class _SegmentedRow:
    """A layout prepared for segmented attention, once a batch for all layers."""

    def __init__(self, layout: RowLayout, device: torch.device, dtype: torch.dtype):
        self.query_lengths = [len(segment.tokens) for segment in layout.segments]
        self.key_lengths = [s.position + len(s.tokens) for s in layout.segments]
        self.key_index = None
        if not layout.is_flat:
            spans = [
                np.arange(start, stop)
                for segment in layout.segments
                for start, stop in (*segment.path, (segment.start, segment.stop))
            ]
            self.key_index = torch.from_numpy(np.concatenate(spans)).to(device)
        self.masks = [
            _continuation_mask(len(s.tokens), s.position, device, dtype) if s.path else None
            for s in layout.segments
        ]


def _continuation_mask(
    num_queries: int, num_before: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Returns the additive mask [queries, before + queries]: all tokens before, then causal."""
    mask = torch.full((num_queries, num_before + num_queries), float("-inf"), device=device)
    return mask.triu_(num_before + 1).to(dtype)


def _without_autocast_leftovers(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns queries and keys in the dtype of the values.

    Under autocast rotary embeddings make float32 of them: twice as much to gather and copy, and
    FlexAttention wants one dtype.
    """
    return query.to(value.dtype), key.to(value.dtype)


def flex_attention_forward_one_dtype(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Computes transformers' FlexAttention, also of the mixed dtypes of autocast."""
    query, key = _without_autocast_leftovers(query, key, value)
    return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)


@torch.compiler.disable
def segmented_sdpa_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    row_layout: RowLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Computes attention of a packed row, segment by segment; of a padded batch as sdpa does.

    Args:
        module: Attention layer.
        query: [1, heads, T, head_dim].
        key: [1, key heads, T, head_dim].
        value: [1, key heads, T, head_dim].
        attention_mask: Of a padded batch, a mask for transformers' sdpa.
        dropout: Probability of dropping an attention weight.
        scaling: Factor of the scores.
        row_layout: Layout of a packed row.
        **kwargs: For sdpa.

    Returns:
        [1, T, heads, head_dim], and None for the attention weights.
    """
    if row_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    query, key = _without_autocast_leftovers(query, key, value)
    key_of_cache = (query.device, query.dtype)
    row = row_layout.prepared.get(key_of_cache)
    if row is None:
        row = _SegmentedRow(row_layout, query.device, query.dtype)
        row_layout.prepared[key_of_cache] = row
    groups = query.shape[1] // key.shape[1]

    def by_segment(states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns, for each segment, the keys or values of its whole sequence so far."""
        if row.key_index is not None:
            # One gather: slices would each fill a gradient of the whole row in the backward pass.
            tokens_first = states.transpose(1, 2).flatten(2)
            gathered = tokens_first.index_select(1, row.key_index)
            states = gathered.unflatten(2, (states.shape[1], -1)).transpose(1, 2)
        return repeat_kv(states, groups).split(row.key_lengths, dim=2)

    outputs = [
        F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
        )
        for queries, keys, values, mask in zip(
            query.split(row.query_lengths, dim=2),
            by_segment(key),
            by_segment(value),
            row.masks,
            strict=True,
        )
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register("flex_attention", flex_attention_forward_one_dtype)
AttentionInterface.register(SEGMENTED_SDPA, segmented_sdpa_forward)
AttentionMaskInterface.register(SEGMENTED_SDPA, sdpa_mask)
