"""How the next token of each row of a batch is drawn from the model's logits."""

import math
from typing import NamedTuple

import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from search_lib.engines.base import Expansion, Sampling


class Recipe(NamedTuple):
    """What is drawn, and how: the rows of one recipe share the computation.

    Attributes:
        sampling: Temperature and top-p.
        logprobs: Whether log-probabilities are wanted.
        confidence_top_k: Most likely tokens of a confidence; 0 if none is wanted.
    """

    sampling: Sampling
    logprobs: bool
    confidence_top_k: int

    @classmethod
    def of(cls, expansion: Expansion, sampling: Sampling) -> "Recipe":
        """Returns the recipe of a request."""
        return cls(sampling, expansion.logprobs, expansion.confidence_top_k)


class Draws(NamedTuple):
    """The next token of each row, and what is told about it; all of them [rows].

    Attributes:
        token_ids: The tokens.
        are_finite: Whether the row's logits were numbers. No draw from others makes sense, and the
            index of a greedy one may be any.
        numbers: Numbers of the token, by the field of a block.
    """

    token_ids: torch.Tensor
    are_finite: torch.Tensor
    numbers: dict[str, torch.Tensor]


def draw_tokens(logits: torch.Tensor, recipe: Recipe, uniforms: torch.Tensor) -> Draws:
    """Draws the next token of each row with that row's own random number.

    The library samples a whole batch from one global random state, so that a row's tokens depend on
    its neighbours. Here a row takes the token at the quantile `uniforms` of its distribution,
    behind the library's temperature and top-p. Temperature 0 takes the most likely token.

    Args:
        logits: [rows, vocabulary].
        recipe: Of all these rows.
        uniforms: [rows], float64 in [0, 1).
    """
    scores = logits.float()
    are_finite = scores.amax(-1).isfinite()  # the largest of a row is NaN where one is
    numbers: dict[str, torch.Tensor] = {}
    if recipe.confidence_top_k:
        # Of the model's own distribution, as in the papers that `search_lib.confidence` names.
        own = scores.log_softmax(-1)
        vocab_size = own.shape[-1]
        top = own.topk(min(recipe.confidence_top_k, vocab_size), sorted=False).values
        numbers["confidences"] = -top.mean(-1)
        numbers["certainties"] = -own.mean(-1) - math.log(vocab_size)
    temperature, top_p = recipe.sampling.temperature, recipe.sampling.top_p
    # Both warpers look at the scores alone, not at the tokens before.
    before = torch.empty(0)
    if temperature not in (0.0, 1.0):
        scores = TemperatureLogitsWarper(temperature)(before, scores)
    logprobs = scores.log_softmax(-1) if recipe.logprobs else None
    if temperature == 0:
        chosen = scores.argmax(-1, keepdim=True)
    else:
        if top_p < 1.0:
            scores = TopPLogitsWarper(top_p)(before, scores)
        cumulative = scores.softmax(-1, dtype=torch.float64).cumsum(-1)
        quantiles = uniforms[:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, quantiles, right=True)
        # Beyond the last one for a row of NaN only.
        chosen.clamp_(max=scores.shape[-1] - 1)
    if logprobs is not None:
        numbers["logprobs"] = logprobs.gather(1, chosen).squeeze(1)
    return Draws(chosen.squeeze(1), are_finite, numbers)
