"""The words that searches are written in. A strategy decides; it computes and waits for nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from search_lib.engines.base import Block


@dataclass(frozen=True)
class Limits:
    """Lengths of one search.

    Args:
        max_length: tokens of a response at most.
        block_size: tokens of a block at most.
        stop_token_ids: a response is finished after any of these.
    """

    max_length: int
    block_size: int
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Expansion:
    """A wish: continue one path by ``n`` blocks.

    Args:
        path_id: names the path in the matching ``tell``; unique within a search.
        prefix_ids: prompt and response so far.
        n: blocks to sample.
        max_new_tokens: length limit of each block, in tokens.
        stop_token_ids: a block ends after any of these.
        seed: of these samples.
    """

    path_id: int
    prefix_ids: list[int]
    n: int
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Node:
    """One block in the tree of a search, kept or not.

    Args:
        parent: index of the node that it continues; None at the prompt.
        num_tokens: of this block.
        value: P(correct) of the path up to the end of this block.
        finish_reason: ``"stop"`` or ``"length"``.
    """

    parent: int | None
    num_tokens: int
    value: float
    finish_reason: str


@dataclass(frozen=True)
class Response:
    """One answer of a search.

    Args:
        token_ids: all generated tokens.
        value: P(correct) at the last token.
        finished: whether the policy ended it; False when the length limit did.
        node: index of its last block in the tree.
    """

    token_ids: list[int]
    value: float
    finished: bool
    node: int


class Strategy(Protocol):
    """The state of one search on one problem: a pure state machine.

    The same seed and the same answers give the same result, in whatever order answers arrive.
    """

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        ...

    @property
    def nodes(self) -> list[Node]:
        """The tree so far, parents before children."""
        ...

    def ask(self) -> list[Expansion]:
        """The expansions that are wanted now and were not asked for before."""
        ...

    def tell(self, path_id: int, blocks: Sequence[Block], values: Sequence[float]) -> None:
        """Answers one expansion: its ``n`` blocks and the value at the end of each."""
        ...

    def result(self) -> list[Response]:
        """The responses, once done."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON types. Expansions in flight are not in it: they are asked again."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state_dict`` of a search with the same settings."""
        ...


def check_answer(expansion: Expansion, blocks: Sequence[Block], values: Sequence[float]) -> None:
    """Raises ValueError unless the answer fits what was asked for."""
    if len(blocks) != expansion.n or len(values) != expansion.n:
        raise ValueError(
            f"path {expansion.path_id} asked for {expansion.n} blocks, "
            f"got {len(blocks)} blocks and {len(values)} values"
        )
    for block, value in zip(blocks, values, strict=True):
        if not 0 < len(block.token_ids) <= expansion.max_new_tokens:
            raise ValueError(
                f"path {expansion.path_id} asked for 1 to {expansion.max_new_tokens} tokens, "
                f"got {len(block.token_ids)}"
            )
        if not 0.0 <= value <= 1.0:  # also refuses NaN
            raise ValueError(f"path {expansion.path_id} got the value {value}, not in [0, 1]")
