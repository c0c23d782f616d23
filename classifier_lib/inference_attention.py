"""Attention of models that compute new tokens behind the states of earlier ones."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from classifier_lib.loading import has_sliding_window

GROUPED_SDPA = "grouped_sdpa"
"""torch's fused attention for inference, see `grouped_sdpa_forward`."""


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Lets a model that infers with sdpa do so without copies of its keys and values."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(GROUPED_SDPA)


def takes_whole_masks(model: PreTrainedModel) -> bool:
    """Returns whether all layers of a model use the one mask that the model is given."""
    implementation = model.config._attn_implementation
    return implementation in ("sdpa", GROUPED_SDPA) and not has_sliding_window(model.config)


def whole_mask(
    model: PreTrainedModel, seen: torch.Tensor, num_heads: int | None, dtype: torch.dtype
) -> torch.Tensor:
    """Returns a mask as the layers of a model need it, so that none of them has to make it anew.

    Args:
        model: One that `takes_whole_masks`.
        seen: What each new token attends to, bool [B, 1, T, S].
        num_heads: Heads of keys and values; None if they differ between layers.
        dtype: Data type of these.

    Returns:
        The mask, [B, 1, T, S] or what `grouped_sdpa_forward` takes; on a CPU what is added to the
        products.
    """
    mask = seen
    if seen.device.type == "cpu":
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
    if seen.shape[2] > 1 and num_heads and model.config._attn_implementation == GROUPED_SDPA:
        config = model.config.get_text_config(decoder=True)
        mask = mask.repeat(1, 1, config.num_attention_heads // num_heads, 1)
    return mask


def grouped_sdpa_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attends as transformers' sdpa does, where query heads share the heads of keys and values.

    Under a mask transformers repeats keys and values for each query head, which takes most of the
    time of a decoding step. Here the query heads of a group are more queries of its one head.

    Args:
        module: The attention layer.
        query: [B, query heads, T, head size].
        key: [B, heads, S, head size].
        value: As `key`.
        attention_mask: bool or float [B, 1, T, S], or what this repeats for the query heads of a
            group, [B, 1, groups x T, S]. None: causal, as transformers has it.
        scaling: Of the products.
        **kwargs: Passed on.

    Returns:
        [B, T, query heads, head size], and no weights.
    """
    num_heads, num_queries = key.shape[1], query.shape[2]
    groups = query.shape[1] // num_heads
    if attention_mask is None or groups == 1 or module.training:
        mask = None if attention_mask is None else attention_mask[:, :, :num_queries]
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
    if attention_mask.shape[2] not in (1, groups * num_queries):
        # Not repeated yet, or for layers with other groups.
        attention_mask = attention_mask[:, :, :num_queries].repeat(1, 1, groups, 1)
    output = F.scaled_dot_product_attention(
        query.reshape(len(query), num_heads, groups * num_queries, -1),
        key,
        value,
        attn_mask=attention_mask,
        scale=scaling,
    )
    output = output.reshape(len(query), num_heads * groups, num_queries, -1)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED_SDPA, grouped_sdpa_forward)
AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)
