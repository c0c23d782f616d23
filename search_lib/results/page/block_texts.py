"""The texts of blocks, and the values of their tokens: what the page shows of a run that has them.

`block_reader` is the one place that finds them; the rest of the page asks nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from search_lib.results.records import Record
from search_lib.results.run_config import RunConfig


@dataclass(frozen=True)
class BlockText:
    """The text of one block, by token.

    Attributes:
        pieces: The text of each token, which together are that of the block.
        values: P(correct) after each token; None if they were not saved.
    """

    pieces: Sequence[str]
    values: Sequence[float] | None

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)


BlockReader = Callable[[Record], list[BlockText] | None]
"""A record -> the text of each block of its tree, in order; None if they were not saved."""


def block_reader(records: Path, config: RunConfig) -> BlockReader:
    """Returns what finds the texts of a run's blocks. Records alone have none.

    Args:
        records: The run's file of records.
        config: Its configuration.
    """
    del records, config
    return lambda record: None
