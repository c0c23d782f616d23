"""Searches over an engine and a scorer that are random numbers."""

import random
from collections.abc import Callable
from dataclasses import replace

from search_lib.engines.base import Block, Expansion
from search_lib.strategies import Limits, Response, Strategy, Value

STOP = 9
LIMITS = Limits(max_length=12, block_size=4, stop_token_ids=(STOP,))
PROMPT = [1, 2, 3]

Answer = Callable[[Expansion], tuple[list[Block], list[float]]]
"""An expansion -> its blocks and their values."""


def sample_blocks(expansion: Expansion) -> tuple[list[Block], list[float]]:
    """A fake engine and scorer whose answers depend on the expansion's seed alone."""
    rng = random.Random(expansion.seed)
    sure = random.Random(expansion.seed + 1)
    blocks, values = [], []
    for _ in range(expansion.n):
        tokens = [rng.randrange(STOP) for _ in range(expansion.max_new_tokens)]
        if rng.random() < 0.25:
            tokens = [*tokens[: rng.randrange(len(tokens))], STOP]
        confidences = [float(sure.randrange(8, 14)) for _ in tokens]  # ties occur
        blocks.append(replace(block_of(tokens), confidences=confidences))
        values.append(rng.choice([0.1, 0.3, 0.3, 0.5, 0.9]))  # ties occur
    return blocks, values


def sample_without_ties(expansion: Expansion) -> tuple[list[Block], list[float]]:
    """The blocks of `sample_blocks`, with values of which no two are equal."""
    rng = random.Random(-expansion.seed)
    return sample_blocks(expansion)[0], [0.1 + 0.8 * rng.random() for _ in range(expansion.n)]


def block_of(token_ids: list[int]) -> Block:
    return Block(token_ids, "stop" if token_ids[-1] == STOP else "length")


def run(
    strategy: Strategy, pick: Callable[[int], int] = lambda n: 0, answer: Answer = sample_blocks
) -> list[Response]:
    """Runs a search; `pick` chooses which of the open requests is answered next."""
    waiting: list[Expansion] = []
    while not strategy.done:
        waiting += strategy.ask()
        expansion = waiting.pop(pick(len(waiting)))
        strategy.tell(expansion.path_id, *answer(expansion))
    assert not waiting
    return strategy.result()


def tell_round(
    search: Strategy, answers: list[tuple[list[list[int]], list[Value]]]
) -> list[Expansion]:
    """Answers all that a search asks for now, and returns it."""
    expansions = search.ask()
    assert len(expansions) == len(answers)
    for expansion, (token_lists, values) in zip(expansions, answers, strict=True):
        search.tell(expansion.path_id, [block_of(ids) for ids in token_lists], values)
    return expansions
