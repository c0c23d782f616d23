"""Search strategies, by the name that `--search_type` gives them."""

import re
from collections.abc import Callable

from run_lib.commands import InputError, at_least
from search_lib.strategies import (
    adaptive,
    beam,
    best_of_n,
    deepconf,
    dvts,
    lookahead,
    particles,
    prune,
    reject,
    stochastic,
)
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
    StrategySettings,
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
    "StrategySettings",
    "Value",
    "describe_strategies",
    "most_responses",
    "strategy_factory",
]

STRATEGIES: dict[str, Callable[[SearchSpec], StrategyFactory]] = {
    "beam": beam.value_guided,
    "bfs": beam.one_beam,
    "random": beam.at_random,
    "bon": best_of_n.independent_samples,
    "lookahead": lookahead.looking_ahead,
    "dvts": dvts.independent_subtrees,
    "stochastic": stochastic.drawn_by_value,
    "adaptive": adaptive.by_disagreement,
    "particles": particles.resampled,
    "entropic": particles.entropic,
    "prune": prune.pruned_once,
    "reject": reject.lowest_rejected,
    "deepconf": deepconf.abandoned_below_a_bar,
}
"""Strategies by name: each takes a `SearchSpec` and returns what starts a search with it. Its
docstring begins with the name's form and the rule: `` `beam<w>`: the rule. ``"""

MAX_BLOCKS = 1_000_000
"""A slip of the keyboard would fill the memory."""


def describe_strategies() -> dict[str, str]:
    """Returns the rule of each strategy, a sentence, by the form of its name (`beam<w>`)."""
    described = {}
    for name, factory in STRATEGIES.items():
        lines = (factory.__doc__ or "").strip().splitlines()
        match = re.fullmatch(r"`(.*?)`: (.*)", lines[0]) if lines else None
        form, rule = match.groups() if match else (name, "")
        described[form] = rule
    return described


def strategy_factory(
    search_type: str,
    num_blocks: int,
    limits: Limits,
    has_values: bool = True,
    settings: StrategySettings = StrategySettings(),
    confidence_window: int | None = None,
) -> StrategyFactory:
    """Checks the search settings once and returns what starts a search with them.

    Args:
        search_type: Name of a strategy, with a number behind it where it takes one: `beam2`, `bfs`,
            `bon`, `random`, `random4`.
        num_blocks: The budget N of one tree.
        limits: Lengths and stop tokens.
        has_values: Whether blocks will have values.
        settings: What some strategies need beside.
        confidence_window: Tokens of a window of confidence; None if blocks will have none.

    Raises:
        InputError: Naming the flags that don't fit together.
    """
    at_least(1, num_blocks=num_blocks, block_size=limits.block_size, max_length=limits.max_length)
    if num_blocks > MAX_BLOCKS:
        raise InputError(f"--num_blocks must be at most {MAX_BLOCKS}, got {num_blocks}")
    settings.check()
    name, number = _name_and_number(search_type)
    if name not in STRATEGIES:
        raise InputError(
            f"unknown --search_type {search_type!r}; known: {', '.join(describe_strategies())}; "
            "--help tells what each does"
        )
    spec = SearchSpec(
        search_type, num_blocks, limits, number, has_values, settings, confidence_window
    )
    return STRATEGIES[name](spec)


def most_responses(search_type: str, num_blocks: int) -> int:
    """Returns the most responses that one tree ends with: N / w for beams of width w, else N.

    Args:
        search_type: See `strategy_factory`.
        num_blocks: The budget N of one tree.
    """
    name, width = _name_and_number(search_type)
    widths = {"beam": width, "random": width or 2, "bfs": num_blocks}
    return num_blocks // (widths.get(name) or 1)


def _name_and_number(search_type: str) -> tuple[str, int | None]:
    name, number = re.fullmatch(r"(.*?)([0-9]*)", search_type, re.DOTALL).groups()  # type: ignore[union-attr]
    return name, int(number) if number else None
