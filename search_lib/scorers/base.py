"""The interface of scorers: the value of each block that continues a prefix."""

from collections.abc import Sequence
from typing import Protocol

from classifier_lib.scoring import Scores
from search_lib.engines.base import Block


class Scorer(Protocol):
    """A source of values. Safe to call from many searches at once."""

    async def score(self, prefix_ids: list[int], blocks: Sequence[Block]) -> Scores:
        """Returns P(correct) at the end of each block, and how many tokens a cache saved."""
        ...

    async def close(self) -> None:
        """Frees the scorer's workers. Requests still waiting fail."""
        ...


def ids_of_text(block: Block) -> list[int]:
    """Returns the tokens of a block but for the one that ended the response."""
    return block.token_ids[:-1] if block.finish_reason == "stop" else block.token_ids
