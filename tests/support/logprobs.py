"""Log-probabilities and confidences of blocks by one direct forward pass."""

import math
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


CONFIDENCE_TOP_K = 5


def confidence_requests(*temperatures: float) -> list[tuple[Expansion, Sampling]]:
    """The same requests at these temperatures, with confidences and no log-probabilities."""
    return [
        (replace(expansion, logprobs=False, confidence_top_k=CONFIDENCE_TOP_K), sampling)
        for expansion, sampling in logprob_requests()
        if sampling.temperature in temperatures
    ]


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


def assert_confidences_equal_a_forward_pass(
    policy: Path | str,
    requests: Sequence[tuple[Expansion, Sampling]],
    answers: Sequence[Sequence[Block]],
    is_exact: bool,
) -> None:
    """`is_exact`: the self-certainties know the whole distribution; else only the likeliest tokens,
    the others being equally likely."""
    model = AutoModelForCausalLM.from_pretrained(policy).double()
    for (expansion, _), blocks in zip(requests, answers, strict=True):
        for block in blocks:
            ids = torch.tensor([expansion.prefix_ids + block.token_ids])
            with torch.no_grad():
                logits = model(ids).logits[0, len(expansion.prefix_ids) - 1 : -1]
            confidences, certainties = [], []
            for probabilities in logits.softmax(-1).tolist():  # of temperature 1
                vocab_size = len(probabilities)
                likeliest = sorted(probabilities, reverse=True)
                top = likeliest[:CONFIDENCE_TOP_K]
                confidences.append(-sum(map(math.log, top)) / len(top))
                if not is_exact:
                    others = vocab_size - len(top)
                    likeliest = top + [(1 - sum(top)) / others] * others
                certainties.append(-sum(math.log(vocab_size * p) for p in likeliest) / vocab_size)
            assert block.confidences == pytest.approx(confidences, abs=1e-4)
            assert block.certainties == pytest.approx(certainties, abs=1e-4)
