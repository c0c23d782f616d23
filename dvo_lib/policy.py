"""A language model that gives the log-probabilities of chosen tokens."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

CHUNK_TOKENS = 4096
"""Tokens whose logits are in memory at a time: 2.5 GB in float32 for a vocabulary of 150,000."""


class TokenLogprobs(nn.Module):
    """A policy whose forward pass returns log-probabilities instead of logits.

    The logits of a whole micro batch do not fit in memory for a large vocabulary. They are computed
    for the trained tokens alone, some at a time, and again in the backward pass.

    Args:
        model: A causal language model of transformers.

    Attributes:
        model: The model.
    """

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self, predictors: torch.Tensor, token_ids: torch.Tensor, **inputs: Any
    ) -> torch.Tensor:
        """Returns the log-probabilities, [N] in float32.

        Args:
            predictors: LongTensor [N], places of the states that predict, among the R * T tokens.
            token_ids: LongTensor [N], the tokens.
            **inputs: Arguments of the decoder, for [R, T] tokens.
        """
        states = self.model.base_model(**inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        chosen = states.index_select(0, predictors)
        head = self.model.get_output_embeddings()
        parts = [
            checkpoint(_logprobs, head, states, tokens, use_reentrant=False)
            for states, tokens in zip(
                chosen.split(CHUNK_TOKENS), token_ids.split(CHUNK_TOKENS), strict=True
            )
        ]
        return torch.cat(parts)


def _logprobs(head: nn.Module, states: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    logits = head(states).float()
    return logits.gather(1, token_ids[:, None]).squeeze(1) - logits.logsumexp(-1)
