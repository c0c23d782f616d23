"""Search strategies, by the name that ``--search_type`` gives them."""

import re
from collections.abc import Callable

from run_lib.commands import InputError
from search_lib.strategies.base import Expansion, Limits, Node, Response, Strategy
from search_lib.strategies.beam import BeamSearch
from search_lib.strategies.best_of_n import BestOfN

__all__ = [
    "BeamSearch",
    "BestOfN",
    "Expansion",
    "Limits",
    "Node",
    "Response",
    "Strategy",
    "StrategyFactory",
    "strategy_factory",
]

StrategyFactory = Callable[[list[int], int], Strategy]
"""(prompt ids, seed) -> a fresh search."""


def strategy_factory(search_type: str, num_blocks: int, limits: Limits) -> StrategyFactory:
    """Checks the search settings once and returns what starts a search with them.

    Args:
        search_type: ``beam<w>``, ``bfs`` (one beam, w = num_blocks), ``bon`` (independent full
            samples) or ``random<w>`` (beam search whose survivors are drawn by lot; w = 2 if
            left out).
        num_blocks: the budget N of one tree.
        limits: lengths and stop tokens.

    Raises:
        InputError: naming the flags that do not fit together.
    """
    for flag, value in (
        ("num_blocks", num_blocks),
        ("block_size", limits.block_size),
        ("max_length", limits.max_length),
    ):
        if value < 1:
            raise InputError(f"--{flag} must be at least 1, got {value}")
    if search_type == "bon":
        return lambda prompt_ids, seed: BestOfN(prompt_ids, limits, seed, num_blocks)

    match = re.fullmatch(r"(beam|random)(\d*)|bfs", search_type)
    if not match or search_type == "beam":
        raise InputError(
            f"unknown --search_type {search_type!r}; "
            "known: beam<w> (beam2, beam4, ...), bfs, bon, random, random<w>"
        )
    width = num_blocks if search_type == "bfs" else int(match[2] or 2)
    if width < 1 or num_blocks % width:
        raise InputError(
            f"--num_blocks {num_blocks} is not divisible by the width {width} "
            f"of --search_type {search_type}"
        )
    if limits.max_length % limits.block_size:
        raise InputError(
            f"--block_size {limits.block_size} does not divide --max_length {limits.max_length}"
        )
    random_selection = match[1] == "random"
    return lambda prompt_ids, seed: BeamSearch(
        prompt_ids, limits, seed, num_blocks, width, random_selection
    )
