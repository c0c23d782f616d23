"""What searches in rounds have in common: every open path is continued, then a rule selects."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar

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
from search_lib.strategies.paths import Candidate, Path, score_of

__all__ = ["Candidate", "Path", "Rounds", "score_of"]


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
        block_size: Most tokens of a block of this round.
        told: Candidates of this round by slot, as far as they are there.
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
        self.paths = {
            slot: Path([], None, None, True, False, derive_seed(seed, 0, slot))
            for slot in range(num_slots)
        }
        self.round = 0
        self.nodes: list[Node] = []
        self.sources: list[BlockSource] = []
        self._asked: set[int] = set()
        self.told: dict[int, list[Candidate]] = {}

    @abstractmethod
    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Says how a round ends. It changes nothing, so that it can be asked what if.

        Args:
            candidates: Every path that the round has made, in order of slots; those of one slot in
                the order of their blocks.

        Returns:
            By open slot, the path that takes it. An open slot that is left out is given up: its
            path is dropped, and gives no response.
        """

    def next_block_size(self, candidates: list[Candidate]) -> int:
        """Returns the most tokens of a block of the next round."""
        return self.block_size

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
        new = [slot for slot in self.open_slots if slot not in self._asked | self.told.keys()]
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
        answer = check_answer(self.expansion(slot), blocks, values, self.needs_values)
        self._asked.remove(slot)
        first_node = len(self.nodes) + self.open_slots.index(slot) * self.width
        self.told[slot] = self.continued(slot, self.paths[slot], answer, first_node)
        if self.told.keys() == set(self.open_slots):
            candidates = [one for told in sorted(self.told) for one in self.told[told]]
            for told in sorted(self.told):
                self._add_nodes(told)
            self.end_round(candidates)

    def result(self) -> list[Response]:
        """Returns one response a path, in order of slots."""
        if not self.done:
            raise ValueError("the search is not done")
        return [
            Response(path.token_ids, path.value, path.finished, path.node)
            for path in self.paths.values()
            if path.node is not None
        ]

    def survivors(self) -> set[int]:
        """Returns the last nodes of the paths that hold a slot; see `Selecting`."""
        return {path.node for path in self.paths.values() if path.node is not None}

    def expansion(self, slot: int) -> Expansion:
        """Returns the request that continues the path of a slot in this round."""
        return self.extension(self.paths[slot], self._path_id(slot), self.block_size)

    def extension(self, path: Path, path_id: int, block_size: int) -> Expansion:
        """Returns the request that continues a path by blocks of a size."""
        return Expansion(
            path_id=path_id,
            prefix_ids=self.prompt_ids + path.token_ids,
            n=self.width,
            max_new_tokens=min(block_size, self.limits.max_length - len(path.token_ids)),
            stop_token_ids=self.limits.stop_token_ids,
            seed=path.seed,
        )

    def end_round(self, candidates: list[Candidate]) -> None:
        """Puts the paths that the rule selects into their slots.

        Raises:
            ValueError: If it selects for a slot that is not open, or leaves no path at all.
        """
        selected = self.select(candidates)
        if wrong := selected.keys() - set(self.open_slots):
            raise ValueError(f"{type(self).__name__} selects for the slot {min(wrong)}, not open")
        if not selected and len(self.open_slots) == len(self.paths):
            raise ValueError(f"{type(self).__name__} gives up every path")
        self.begin_round(selected, self.next_block_size(candidates))

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

    def begin_round(self, selected: dict[int, Path], block_size: int) -> None:
        """Puts paths into open slots, and begins the next round with blocks of a size."""
        closed = {slot: path for slot, path in self.paths.items() if not path.open}
        # Who continues the same path twice wants other blocks the second time.
        copies: Counter[int] = Counter()
        for slot, path in sorted(selected.items()):
            number = copies[path.seed]
            copies[path.seed] += 1
            if number:
                selected[slot] = replace(path, seed=derive_seed(path.seed, "copy", number))
        self.paths = dict(sorted((selected | closed).items()))
        self.block_size = block_size
        self.told = {}
        self.round += 1

    def continued(
        self, slot: int, parent: Path, answer: Iterable[tuple[Block, Value]], first_node: int
    ) -> list[Candidate]:
        """Returns what the blocks make of a path; their nodes are in the tree later."""
        candidates = []
        for number, (block, value) in enumerate(answer):
            token_ids = parent.token_ids + block.token_ids
            finished = block.finish_reason == "stop"
            path = Path(
                token_ids=token_ids,
                value=value,
                node=first_node + number,
                open=not finished and len(token_ids) < self.limits.max_length,
                finished=finished,
                seed=derive_seed(parent.seed, number),
            )
            candidates.append(Candidate(slot, block, path, score_of(value)))
        return candidates

    def _add_nodes(self, slot: int) -> None:
        """Adds the blocks of a slot to the tree: in order of slots and not of arrival."""
        parent, path_id = self.paths[slot].node, self._path_id(slot)
        for number, (_, block, path, _) in enumerate(self.told[slot]):
            node = Node(parent, len(block.token_ids), path.value, block.finish_reason)
            self.add_node(node, (path_id, number))
