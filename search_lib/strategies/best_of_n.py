"""Independent full samples: the baseline that search must beat."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from run_lib.seeds import derive_seed
from search_lib.engines.base import Block
from search_lib.strategies.base import Expansion, Limits, Node, Response, check_answer


class BestOfN:
    """``num_blocks`` responses, each sampled in one piece and valued at its end.

    Args:
        prompt_ids: of the problem.
        limits: lengths and stop tokens; the block size plays no part.
        seed: of this search.
        num_blocks: responses.
    """

    def __init__(self, prompt_ids: list[int], limits: Limits, seed: int, num_blocks: int):
        self._expansion = Expansion(
            path_id=0,
            prefix_ids=prompt_ids,
            n=num_blocks,
            max_new_tokens=limits.max_length,
            stop_token_ids=limits.stop_token_ids,
            seed=derive_seed(seed, 0, 0),
        )
        self._asked = False
        self._samples: list[tuple[Block, float]] | None = None

    @property
    def done(self) -> bool:
        """Whether the samples are there."""
        return self._samples is not None

    @property
    def nodes(self) -> list[Node]:
        """One node a response."""
        return [
            Node(None, len(block.token_ids), value, block.finish_reason)
            for block, value in self._samples or []
        ]

    def ask(self) -> list[Expansion]:
        """All samples at once."""
        if self._asked or self.done:
            return []
        self._asked = True
        return [self._expansion]

    def tell(self, path_id: int, blocks: Sequence[Block], values: Sequence[float]) -> None:
        """Takes the samples.

        Raises:
            ValueError: for another path, a second answer, or blocks and values that do not fit.
        """
        if path_id != self._expansion.path_id or not self._asked:
            raise ValueError(f"path {path_id} was not asked for, or is answered already")
        check_answer(self._expansion, blocks, values)
        self._asked = False
        self._samples = list(zip(blocks, values, strict=True))

    def result(self) -> list[Response]:
        """The responses, in sample order."""
        if self._samples is None:
            raise ValueError("the search is not done")
        return [
            Response(block.token_ids, value, block.finish_reason == "stop", node)
            for node, (block, value) in enumerate(self._samples)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON types."""
        return {"samples": self._samples and [[asdict(b), value] for b, value in self._samples]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        samples = state["samples"]
        self._samples = samples and [(Block(**block), value) for block, value in samples]
        self._asked = False
