"""Log-probabilities of blocks by one direct forward pass."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from search_lib.engines.base import Block, Expansion, Sampling
from tests.support.searches import request

LIMIT = 20
"""Tokens of the longest block: more than the hf engine generates between two looks."""


def logprob_requests() -> list[tuple[Expansion, Sampling]]:
    """Requests of several lengths and ways to draw, all with log-probabilities."""
    asked = [
        request([5, 6, 7], 2, 1, max_new_tokens=LIMIT, stop=tuple(range(100, 140))),
        request([8], 2, 2, max_new_tokens=3, stop=()),
        request([9] * 5, 2, 3, temperature=0.7, top_p=0.8, max_new_tokens=LIMIT, stop=()),
        request([5, 6], 1, temperature=0.0, stop=()),
    ]
    return [(replace(expansion, logprobs=True), sampling) for expansion, sampling in asked]


def assert_logprobs_equal_a_forward_pass(
    policy: Path | str,
    requests: Sequence[tuple[Expansion, Sampling]],
    answers: Sequence[Sequence[Block]],
) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy).double()
    for (expansion, sampling), blocks in zip(requests, answers, strict=True):
        for block in blocks:
            ids = torch.tensor([expansion.prefix_ids + block.token_ids])
            with torch.no_grad():
                logits = model(ids).logits[0, len(expansion.prefix_ids) - 1 : -1]
            logprobs = (logits / (sampling.temperature or 1.0)).log_softmax(-1)
            expected = logprobs.gather(1, ids[0, len(expansion.prefix_ids) :, None])[:, 0]
            assert block.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
