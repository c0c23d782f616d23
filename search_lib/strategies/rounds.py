"""What searches in rounds have in common: every open path is continued, then a rule selects."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Expansion
from search_lib.strategies.base import (
    BlockSource,
    Limits,
    Node,
    Response,
    Value,
    check_answer,
)


@dataclass(frozen=True)
class Path:
    """One slot of a search: a response so far, and its state.

    Attributes:
        token_ids: Response so far.
        value: P(correct) at its end; None before the first block, and where nothing scores blocks.
        node: Its last block in the tree; None before the first block.
        open: Whether it goes on. A closed path keeps its slot until the end.
        finished: Whether the policy ended it.
    """

    token_ids: list[int]
    value: Value
    node: int | None
    open: bool
    finished: bool


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


class Rounds(ABC):
    """Slots with a path each. A round continues every open one; `select` says which paths follow.

    A subclass is its `select`, and what that needs. A closed path (finished, or at the length
    limit) is not continued, and nothing takes its slot.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens.
        seed: Seed of this search.
        num_slots: Paths at the start, all of them empty.
        width: Blocks that continue a path in a round.

    Attributes:
        paths: The path of each slot, in order of slots. A slot that was given up is not there.
        round: Number of the round, from 0.
        block_size: Most tokens of a block of this round; `select` may change it for the next one.
        nodes: The tree.
        sources: The block that each node stands for.
    """

    needs_values: ClassVar[bool] = True
    """Whether every block must have a value."""
    paths_compete: ClassVar[bool] = True
    """Whether a path can cost one of another slot its place."""

    def __init__(
        self, prompt_ids: list[int], limits: Limits, seed: int, num_slots: int, width: int = 1
    ):
        self.prompt_ids = prompt_ids
        self.limits = limits
        self.seed = seed
        self.num_slots = num_slots
        self.width = width
        self.block_size = limits.block_size
        self.paths = dict.fromkeys(range(num_slots), Path([], None, None, True, False))
        self.round = 0
        self.nodes: list[Node] = []
        self.sources: list[BlockSource] = []
        self._asked: set[int] = set()
        self._told: dict[int, list[tuple[Block, Value]]] = {}

    @abstractmethod
    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Says how a round ends.

        Args:
            candidates: Every path that the round has made, in order of slots; those of one slot in
                the order of their blocks.

        Returns:
            By open slot, the path that takes it. An open slot that is left out is given up: its
            path is dropped, and gives no response.
        """

    @property
    def most_responses(self) -> int:
        """The most responses that the search ends with."""
        return self.num_slots

    @property
    def done(self) -> bool:
        """Whether every path is closed."""
        return not self.open_slots

    @property
    def open_slots(self) -> list[int]:
        """The slots whose paths go on."""
        return [slot for slot, path in self.paths.items() if path.open]

    def ask(self) -> list[Expansion]:
        """Returns the open paths of this round that were not asked for before."""
        new = [slot for slot in self.open_slots if slot not in self._asked | self._told.keys()]
        self._asked.update(new)
        return [self.expansion(slot) for slot in new]

    def tell(self, path_id: int, blocks: Sequence[Block], values: Sequence[Value]) -> None:
        """Takes the blocks that continue one path; the last answer of a round ends it.

        Raises:
            ValueError: For a path that was not asked for, or blocks and values that do not fit.
        """
        number, slot = divmod(path_id, self.num_slots)
        if number != self.round or slot not in self._asked:
            raise ValueError(f"path {path_id} was not asked for, or is answered already")
        self._told[slot] = check_answer(self.expansion(slot), blocks, values, self.needs_values)
        self._asked.remove(slot)
        if self._told.keys() == set(self.open_slots):
            self.end_round(self._candidates())

    def result(self) -> list[Response]:
        """Returns one response a path, in order of slots."""
        if not self.done:
            raise ValueError("the search is not done")
        return [
            Response(path.token_ids, path.value, path.finished, path.node)
            for path in self.paths.values()
            if path.node is not None
        ]

    def expansion(self, slot: int) -> Expansion:
        """Returns the request that continues the path of a slot in this round."""
        path = self.paths[slot].token_ids
        return Expansion(
            path_id=self._path_id(slot),
            prefix_ids=self.prompt_ids + path,
            n=self.width,
            max_new_tokens=min(self.block_size, self.limits.max_length - len(path)),
            stop_token_ids=self.limits.stop_token_ids,
            seed=derive_seed(self.seed, self.round, slot),
        )

    def end_round(self, candidates: list[Candidate]) -> None:
        """Puts the paths that the rule selects into their slots.

        Raises:
            ValueError: If it selects for a slot that is not open, or leaves no path at all.
        """
        selected = self.select(candidates)
        closed = {slot: path for slot, path in self.paths.items() if not path.open}
        if wrong := selected.keys() - set(self.open_slots):
            raise ValueError(f"{type(self).__name__} selects for the slot {min(wrong)}, not open")
        if not selected and not closed:
            raise ValueError(f"{type(self).__name__} gives up every path")
        self.paths = dict(sorted((selected | closed).items()))
        self._told = {}
        self.round += 1

    def add_node(self, node: Node, source: BlockSource) -> int:
        """Adds a block to the tree and returns its index."""
        self.nodes.append(node)
        self.sources.append(source)
        return len(self.nodes) - 1

    def draws(self) -> np.random.Generator:
        """Returns the random numbers with which this round selects."""
        return np.random.default_rng(derive_seed(self.seed, self.round, "selection"))

    def best_in_open_slots(
        self, candidates: list[Candidate], scores: Sequence[float] | None = None
    ) -> dict[int, Path]:
        """Fills the open slots with the candidates of the highest scores, the best one first.

        Of equal scores the earlier candidate's is higher.

        Args:
            candidates: At least as many as open slots, or some of these stay empty.
            scores: Score of each candidate, where it is not the candidate's own.
        """
        scores = scores or [candidate.score for candidate in candidates]
        order = np.argsort([-score for score in scores], kind="stable")
        return {
            slot: candidates[index].path
            for slot, index in zip(self.open_slots, order, strict=False)
        }

    def _path_id(self, slot: int) -> int:
        return self.round * self.num_slots + slot

    def _candidates(self) -> list[Candidate]:
        """Adds the blocks of this round to the tree, in order of slots and not of arrival."""
        candidates = []
        for slot in sorted(self._told):
            parent, path_id = self.paths[slot], self._path_id(slot)
            for number, (block, value) in enumerate(self._told[slot]):
                token_ids = parent.token_ids + block.token_ids
                finished = block.finish_reason == "stop"
                node = Node(parent.node, len(block.token_ids), value, block.finish_reason)
                path = Path(
                    token_ids=token_ids,
                    value=value,
                    node=self.add_node(node, (path_id, number)),
                    open=not finished and len(token_ids) < self.limits.max_length,
                    finished=finished,
                )
                candidates.append(Candidate(slot, block, path, score_of(value)))
        return candidates
