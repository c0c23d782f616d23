"""The tokens of blocks and their values: what the page shows of a run that has them.

`block_reader` is the one place that finds them; the rest of the page asks nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search_lib.results.records import Record
from search_lib.results.run_config import RunConfig


@dataclass(frozen=True)
class BlockTokens:
    """The tokens of one block. Of a long one, the page decodes only what it shows.

    Attributes:
        token_ids: [tokens].
        values: [tokens], P(correct) after each; None if they were not saved.
        decode: Token ids -> the text of each token, which together are that of all.
    """

    token_ids: Sequence[int]
    values: Sequence[float] | None
    decode: Callable[[Sequence[int]], list[str]]

    @property
    def key(self) -> bytes:
        """Equal where the tokens are."""
        return np.asarray(self.token_ids, np.int64).tobytes()


BlockReader = Callable[[Record], list[BlockTokens] | None]
"""A record -> the tokens of each block of its tree, in order; None if they were not saved."""


def block_reader(records: Path, config: RunConfig) -> BlockReader:
    """Returns what finds the blocks of a run. Records alone have none.

    Args:
        records: The run's file of records.
        config: Its configuration.
    """
    del records, config
    return lambda record: None
