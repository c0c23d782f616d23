"""Independent full samples: the baseline that search must beat.

Rule: sample N responses, each in one piece.
Budget: N responses.
"""

from collections.abc import Sequence
from typing import ClassVar

from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Expansion
from search_lib.strategies.base import (
    BlockSource,
    Limits,
    Node,
    Response,
    SearchSpec,
    StrategyFactory,
    Value,
    check_answer,
)


class BestOfN:
    """`num_blocks` responses, each sampled in one piece and valued at its end.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens; the block size plays no part.
        seed: Seed of this search.
        num_blocks: Responses.
    """

    needs_values: ClassVar[bool] = False

    def __init__(self, prompt_ids: list[int], limits: Limits, seed: int, num_blocks: int):
        self.most_responses = num_blocks
        self._expansion = Expansion(
            path_id=0,
            prefix_ids=prompt_ids,
            n=num_blocks,
            max_new_tokens=limits.max_length,
            stop_token_ids=limits.stop_token_ids,
            seed=derive_seed(seed, 0, 0),
        )
        self._asked = False
        self._samples: list[tuple[Block, Value]] | None = None

    @property
    def done(self) -> bool:
        """Whether the samples are there."""
        return self._samples is not None

    @property
    def nodes(self) -> list[Node]:
        """One node for each response."""
        return [
            Node(None, len(block.token_ids), value, block.finish_reason)
            for block, value in self._samples or []
        ]

    @property
    def sources(self) -> list[BlockSource]:
        """One block of the one expansion for each node."""
        return [(self._expansion.path_id, number) for number in range(len(self._samples or []))]

    def ask(self) -> list[Expansion]:
        """Returns one expansion for all samples."""
        if self._asked or self.done:
            return []
        self._asked = True
        return [self._expansion]

    def tell(self, path_id: int, blocks: Sequence[Block], values: Sequence[Value]) -> None:
        """Takes the samples.

        Raises:
            ValueError: For another path, a second answer, or blocks and values that do not fit.
        """
        if path_id != self._expansion.path_id or not self._asked:
            raise ValueError(f"path {path_id} was not asked for, or is answered already")
        self._samples = check_answer(self._expansion, blocks, values, needs_values=False)
        self._asked = False

    def result(self) -> list[Response]:
        """Returns the responses, in sample order."""
        if self._samples is None:
            raise ValueError("the search is not done")
        return [
            Response(block.token_ids, value, block.finish_reason == "stop", node)
            for node, (block, value) in enumerate(self._samples)
        ]


def independent_samples(spec: SearchSpec) -> StrategyFactory:
    """`bon`: N independent full samples (the baseline of MV, BoN and WMV)."""
    spec.check(needs_values=False)
    return lambda prompt_ids, seed: BestOfN(prompt_ids, spec.limits, seed, spec.num_blocks)
