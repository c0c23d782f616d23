"""Search strategies, by the name that `--search_type` gives them."""

import re

from run_lib.commands import InputError, at_least
from search_lib.strategies import beam, best_of_n
from search_lib.strategies.base import (
    BlockSource,
    Expansion,
    Limits,
    Node,
    Response,
    Search,
    SearchSpec,
    Strategy,
    StrategyFactory,
    Value,
)
from search_lib.strategies.beam import BeamSearch
from search_lib.strategies.best_of_n import BestOfN

__all__ = [
    "STRATEGIES",
    "BeamSearch",
    "BestOfN",
    "BlockSource",
    "Expansion",
    "Limits",
    "Node",
    "Response",
    "Search",
    "SearchSpec",
    "Strategy",
    "StrategyFactory",
    "Value",
    "strategy_factory",
]

STRATEGIES = {
    "beam": beam.value_guided,
    "bfs": beam.one_beam,
    "random": beam.at_random,
    "bon": best_of_n.independent_samples,
}
"""Strategies by name: each takes a `SearchSpec` and returns what starts a search with it."""

MAX_BLOCKS = 1_000_000
"""A slip of the keyboard would fill the memory."""

KNOWN = "beam<w> (beam2, beam4, ...), bfs, bon, random, random<w>"


def strategy_factory(
    search_type: str, num_blocks: int, limits: Limits, has_values: bool = True
) -> StrategyFactory:
    """Checks the search settings once and returns what starts a search with them.

    Args:
        search_type: Name of a strategy, with a width behind it where it takes one: `beam2`, `bfs`,
            `bon`, `random`, `random4`.
        num_blocks: The budget N of one tree.
        limits: Lengths and stop tokens.
        has_values: Whether blocks will have values.

    Raises:
        InputError: Naming the flags that don't fit together.
    """
    at_least(1, num_blocks=num_blocks, block_size=limits.block_size, max_length=limits.max_length)
    if num_blocks > MAX_BLOCKS:
        raise InputError(f"--num_blocks must be at most {MAX_BLOCKS}, got {num_blocks}")
    name, width = re.fullmatch(r"(.*?)([0-9]*)", search_type, re.DOTALL).groups()  # type: ignore[union-attr]
    if name not in STRATEGIES:
        raise InputError(f"unknown --search_type {search_type!r}; known: {KNOWN}")
    spec = SearchSpec(search_type, num_blocks, limits, int(width) if width else None, has_values)
    return STRATEGIES[name](spec)
