"""The blocks of a running search, kept for its record: strategies forget those they drop."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from search_lib.engines.base import Block
from search_lib.strategies.base import BlockSource


class KeptBlock(NamedTuple):
    """The tokens of one block.

    Attributes:
        token_ids: uint32 [tokens].
        token_values: P(correct) after each, float32 [tokens]; None if they are not known.
        confidences: Confidence of each, float32 [tokens]; None if the engine gave none.
        certainties: Self-certainty of each, float32 [tokens]; None if the engine gave none.
    """

    token_ids: np.ndarray
    token_values: np.ndarray | None
    confidences: np.ndarray | None
    certainties: np.ndarray | None


class KeptBlocks:
    """All blocks of one search, in four bytes a token and as many for each number of a token."""

    def __init__(self) -> None:
        self._blocks: dict[BlockSource, KeptBlock] = {}

    def add(
        self, path_id: int, blocks: Sequence[Block], token_values: Sequence[np.ndarray] | None
    ) -> None:
        """Keeps the answer to one expansion.

        Args:
            path_id: The expansion.
            blocks: Its blocks.
            token_values: P(correct) after each token of each block, if they are known.
        """
        for number, block in enumerate(blocks):
            values = token_values[number] if token_values is not None else None
            ids = np.array(block.token_ids, np.uint32)
            self._blocks[path_id, number] = KeptBlock(
                ids, values, _float32(block.confidences), _float32(block.certainties)
            )

    def of(self, sources: Sequence[BlockSource]) -> list[KeptBlock]:
        """Returns the blocks of a tree, in the order of its nodes."""
        return [self._blocks[source] for source in sources]


def _float32(numbers: Sequence[float] | None) -> np.ndarray | None:
    return None if numbers is None else np.array(numbers, np.float32)
