"""The paths of a search in rounds, and the candidates that a round makes of them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from search_lib.engines.base import Block
from search_lib.strategies.base import Value


@dataclass(frozen=True)
class Path:
    """One slot of a search: a response so far, and its state.

    Attributes:
        token_ids: Response so far.
        value: P(correct) at its end; None before the first block, and where nothing scores blocks.
        node: Its last block in the tree; None before the first block.
        open: Whether it goes on. A closed path keeps its slot until the end.
        finished: Whether the policy ended it.
        seed: Seed of the blocks that continue it. It follows from the way that led here, and not
            from the slot: which paths it has to compete with changes nothing about its own blocks.
    """

    token_ids: list[int]
    value: Value
    node: int | None
    open: bool
    finished: bool
    seed: int


class UnknownPath(Path):
    """Stands for a path whose last block is still missing; its tokens and value are invented."""


class Candidate(NamedTuple):
    """A path that a round has made: that of a slot, and one more block.

    Attributes:
        slot: The slot whose path it continues.
        block: The block.
        path: The longer path.
        score: What a rule ranks it by: the value of the path, if the strategy knows no better; NaN
            where nothing scores blocks.
    """

    slot: int
    block: Block
    path: Path
    score: float


def score_of(value: Value) -> float:
    """Returns the score that a value gives; NaN without one."""
    return math.nan if value is None else value
