"""The tokens of blocks and their values: what the page shows of a run that has saved them.

`block_reader` is the one place that finds them; the rest of the page asks nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from run_lib.hub_cache import find_cached
from search_lib.results.blocks import RunBlocks, SearchBlocks
from search_lib.results.records import Record
from search_lib.results.run_config import RunConfig

TokenIds = Sequence[int] | np.ndarray
"""[tokens]."""

TOKENIZER_NAME = "tokenizer.json"

ValuesOf = Callable[[SearchBlocks], Sequence[np.ndarray]]
"""The blocks of a search -> P(correct) after each token of each, [tokens of the block]."""


class TokenTexts(Protocol):
    """Makes text of tokens, special ones included."""

    def text(self, token_ids: TokenIds) -> str:
        """Returns the text of tokens."""
        ...

    def pieces(self, token_ids: TokenIds) -> list[str]:
        """Returns the text of each token; all of them together are `text`.

        A character of several tokens is of the last one, also one whose end is missing.
        """
        ...


@dataclass(frozen=True)
class BlockTokens:
    """The tokens of one block. Of a long one, the page decodes only what it shows.

    Attributes:
        token_ids: [tokens].
        values: [tokens], P(correct) after each; None if they were not saved.
        texts: Makes text of them.
    """

    token_ids: TokenIds
    values: Sequence[float] | np.ndarray | None
    texts: TokenTexts

    @property
    def key(self) -> bytes:
        """Equal where the tokens are."""
        return np.asarray(self.token_ids, np.int64).tobytes()


class BlockReader(NamedTuple):
    """Finds the blocks of a run.

    Attributes:
        read: A record -> the tokens of each block of its tree, in order; None if they aren't there.
        lack: Why there are none of any record; None if there may be some.
    """

    read: Callable[[Record], list[BlockTokens] | None]
    lack: str | None


class PolicyTexts:
    """Makes text of a policy's tokens, without transformers.

    Args:
        path: Its `tokenizer.json`.
    """

    def __init__(self, path: Path):
        self._tokenizer = Tokenizer.from_file(str(path))

    def text(self, token_ids: TokenIds) -> str:
        """See `TokenTexts`."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        return text

    def pieces(self, token_ids: TokenIds) -> list[str]:
        """See `TokenTexts`."""
        stream = DecodeStream(skip_special_tokens=False)
        pieces = [stream.step(self._tokenizer, int(one)) or "" for one in token_ids]
        if pieces:  # the stream holds back a character that has not ended
            pieces[-1] += self.text(token_ids)[len("".join(pieces)) :]
        return pieces


def block_reader(
    records: Path, config: RunConfig, values_of: ValuesOf | None = None
) -> BlockReader:
    """Returns what finds the blocks of a run: `blocks.jsonl`, and the policy's tokenizer.

    Nothing is downloaded: a policy of the hub must be in its cache.

    Args:
        records: The run's file of records.
        config: Its configuration.
        values_of: Gives the values of tokens where none were saved.
    """
    blocks = RunBlocks(records)
    if not blocks.path.is_file():
        return BlockReader(lambda record: None, "The texts of its blocks were not saved")
    policy = config.flags["piref_model"]
    path = Path(policy) / TOKENIZER_NAME
    if not path.is_file():
        found = None if Path(policy).exists() else find_cached(policy, TOKENIZER_NAME)
        if found is None:
            lack = (
                f"The texts of its blocks can't be read: there is no {TOKENIZER_NAME} of {policy}"
            )
            return BlockReader(lambda record: None, lack)
        path = found
    texts = PolicyTexts(path)

    def read(record: Record) -> list[BlockTokens] | None:
        found = blocks.of(record)
        if found is None:
            return None
        values: Sequence[np.ndarray | None] = [block.token_values for block in found.blocks]
        if values_of is not None and any(of_block is None for of_block in values):
            values = values_of(found)
        return [
            BlockTokens(block.token_ids, of_block, texts)
            for block, of_block in zip(found.blocks, values, strict=True)
        ]

    return BlockReader(read, None)
