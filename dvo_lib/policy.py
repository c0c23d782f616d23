"""A language model that gives the log-probabilities of chosen tokens, and how it is loaded."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from classifier_lib.loading import (
    MODEL_FILES,
    check_positions,
    check_safetensors,
    has_sliding_window,
)
from run_lib.checksums import check_intact
from run_lib.hub import check_weights, load_config, loading

FAMILIES = ("llama", "mistral", "olmo2", "qwen2", "qwen3", "smollm3")
"""Model types whose layers hand the layout of a row to their attention, whose logits are those of
the head alone, and whose only dropout is that of attention: `tests/dvo_lib/test_batches.py`."""

CHUNK_TOKENS = 4096
"""Tokens whose logits are in memory at a time: 2.5 GB in float32 for a vocabulary of 150,000."""


class TokenLogprobs(nn.Module):
    """A policy whose forward pass returns log-probabilities instead of logits.

    The logits of a whole micro batch do not fit in memory for a large vocabulary. They are computed
    for the trained tokens alone, some at a time, and all but the last of them again in the
    backward pass.

    Args:
        model: A causal language model of transformers.

    Attributes:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        predictors: torch.Tensor,
        token_ids: torch.Tensor,
        occurrences: torch.Tensor,
        **inputs: Any,
    ) -> torch.Tensor:
        """Returns the log-probabilities, [N] in float32.

        Args:
            predictors: LongTensor [U], places of the states that predict, among the R * T tokens.
            token_ids: LongTensor [U], the tokens.
            occurrences: LongTensor [N], which of the U each log-probability is of.
            **inputs: Arguments of the decoder, for [R, T] tokens.
        """
        states = self.model.base_model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        chosen = states.index_select(0, predictors)
        head = self.model.get_output_embeddings()
        *chunks, last = zip(chosen.split(CHUNK_TOKENS), token_ids.split(CHUNK_TOKENS), strict=True)
        parts = [checkpoint(_logprobs, head, *chunk, use_reentrant=False) for chunk in chunks]
        # The backward pass begins with the last chunk, so its logits may stay.
        parts.append(_logprobs(head, *last))
        return torch.cat(parts).index_select(0, occurrences)


def _logprobs(head: nn.Module, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    return -F.cross_entropy(head(states).float(), token_ids, reduction="none")


def load_policy_config(source: str) -> PretrainedConfig:
    """Loads the config of a policy to train, or that was the reference.

    Args:
        source: Hub id or folder of a causal language model.

    Raises:
        ValueError: If there is none, its attention can't see rows of several paths as `FAMILIES`
            can, or its weights are not safetensors; one line that begins with the source.
    """
    config: PretrainedConfig = load_config(source)
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"{source} holds a {config.model_type} model; DVO trains {', '.join(FAMILIES)}"
        )
    if has_sliding_window(config):
        raise ValueError(
            f"{source} has sliding-window attention, which rows of several paths don't have"
        )
    check_positions(source, config)
    return config


def load_policy(
    source: str, implementation: str, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Loads a policy with every one of its weights, and without dropout.

    Args:
        source: See `load_policy_config`.
        implementation: Attention implementation of transformers.
        dtype: Of the parameters.

    Raises:
        ValueError: If there is none, it is of another family, or its weights are incomplete,
            damaged or of another shape; one line that begins with the source.
    """
    config = load_policy_config(source)
    config.attention_dropout = 0.0
    return load_causal_lm(source, implementation, dtype, config)


def load_causal_lm(
    source: str,
    implementation: str,
    dtype: torch.dtype = torch.float32,
    config: PretrainedConfig | None = None,
) -> PreTrainedModel:
    """Loads a policy of any family with every one of its weights.

    Args:
        source: Hub id or folder of a causal language model.
        implementation: Attention implementation of transformers.
        dtype: Of the parameters.
        config: Its config; by default its own.

    Raises:
        ValueError: If there is none, or its weights are incomplete, damaged or of another shape;
            one line that begins with the source.
    """
    check_intact(source, *MODEL_FILES)
    check_safetensors(source)
    with loading(source):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            attn_implementation=implementation,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    model: PreTrainedModel
    model, info = loaded
    check_weights(source, info, "is no whole policy")
    return model
