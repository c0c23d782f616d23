"""What the tests of value servers share: questions to them, and values to compare with."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import torch

from classifier_lib.modeling import ValueModel
from search_lib.engines.base import Block
from search_lib.engines.http_service import HttpService
from search_lib.scorers.sglang_server import SglangServerScorer

VOCAB_SIZE = 291
"""Of the tests' value models."""

GOOD = [0.25, 0.5, 0.25]
"""Probabilities of the classes, in a reply."""

TOLERANCE = 1e-5
"""Of values in float32, between SGLang and transformers."""


def ask(url: str, payload: Any) -> Any:
    """POSTs JSON; the JSON that comes back, whatever the status."""
    request = urllib.request.Request(
        url, json.dumps(payload).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        return json.load(error)


@torch.inference_mode()
def class_probabilities(model: ValueModel, ids: list[int]) -> list[float]:
    """Of the three classes after the last token, by transformers."""
    return model(torch.tensor([ids])).logits[0, -1].softmax(-1).tolist()


class Tree:
    """A random tree of blocks, in which no two paths have an unnecessary token in common.

    Attributes:
        prompt: token ids.
        expansions: (prefix, its blocks), each prefix a prompt or a path of an earlier expansion.
        num_tokens: of the prompt and all blocks.
    """

    def __init__(self, seed: int, vocab_size: int, rounds: int = 3, width: int = 2):
        generator = torch.Generator().manual_seed(seed)

        def draw(count: int) -> list[int]:
            return torch.randint(vocab_size, (count,), generator=generator).tolist()

        self.prompt = [seed, *draw(39)]
        self.expansions: list[tuple[list[int], list[Block]]] = []
        prefixes = [self.prompt]
        self.num_tokens = len(self.prompt)
        for _ in range(rounds):
            longer = []
            for prefix in prefixes:
                lengths = torch.randint(1, 12, (width,), generator=generator).tolist()
                # Siblings begin with a token of their own.
                ids = [[index, *draw(length)] for index, length in enumerate(lengths)]
                self.expansions.append((prefix, [Block(block, "length") for block in ids]))
                self.num_tokens += sum(map(len, ids))
                longer += [prefix + block for block in ids]
            prefixes = longer[-2:]


def with_scorer(urls, body, **options):
    """Runs `await body(scorer)` with a scorer over these URLs."""

    async def run():
        scorer = SglangServerScorer(HttpService(urls, **options), VOCAB_SIZE)
        try:
            return await body(scorer)
        finally:
            await scorer.close()

    return asyncio.run(run())


def rows(*embeddings):
    """The reply of a server to as many paths."""
    return {"data": [{"index": i, "embedding": row} for i, row in enumerate(embeddings)]}
