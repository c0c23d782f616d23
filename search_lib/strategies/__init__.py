"""Search strategies, by the name that `--search_type` gives them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

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
    Traits,
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
    "Traits",
    "Value",
    "describe_strategies",
    "strategy_factory",
    "traits_of",
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


def traits_of(flags: Mapping[str, Any]) -> Traits:
    """Returns what a strategy says of its searches.

    A strategy that is not known, as a plugin's is where the plugin isn't loaded, and one that says
    nothing, count as guided by values, with N responses and paths that compete.

    Args:
        flags: Flags of a run, those of earlier versions too.

    Raises:
        InputError: As `strategy_factory` does.
    """
    search_type, num_blocks = flags["search_type"], flags["num_blocks"]
    if _name_and_number(search_type)[0] not in STRATEGIES:
        return Traits(True, num_blocks)
    limits = Limits(flags.get("max_length", 1), flags.get("block_size", 1), ())
    settings = {entry.name: flags.get(entry.name) for entry in fields(StrategySettings)}
    new = strategy_factory(
        *(search_type, num_blocks, limits),
        settings=StrategySettings(**settings),
        confidence_window=flags.get("confidence"),
    )
    strategy = new([], 0)
    return Traits(
        getattr(strategy, "needs_values", True),
        getattr(strategy, "most_responses", num_blocks),
        getattr(strategy, "paths_compete", True),
    )


def _name_and_number(search_type: str) -> tuple[str, int | None]:
    name, number = re.fullmatch(r"(.*?)([0-9]*)", search_type, re.DOTALL).groups()  # type: ignore[union-attr]
    return name, int(number) if number else None
