"""Block-wise beam search guided by values (Algorithm 1 of the VGS paper), and its ablation."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from run_lib.seeds import derive_seed
from search_lib.engines.base import Block
from search_lib.strategies.base import Expansion, Limits, Node, Response, check_answer


@dataclass(frozen=True)
class Beam:
    """One slot of the search: a path, and how it stands.

    Args:
        token_ids: response so far.
        value: P(correct) at its end; None before the first block.
        node: last block in the tree; None before the first block.
        open: whether it goes on. A closed beam keeps its slot until the end.
        finished: whether the policy ended it.
    """

    token_ids: list[int]
    value: float | None
    node: int | None
    open: bool
    finished: bool


class BeamSearch:
    """``num_blocks / width`` beams; every open beam is continued by ``width`` blocks a round.

    Of a round's candidates the best take the slots of the open beams, one each; several children
    of one parent may survive. A closed beam (finished, or at the length limit) keeps its slot.
    ``width == num_blocks`` is one beam: the paper's ``bfs``.

    Args:
        prompt_ids: of the problem.
        limits: lengths and stop tokens.
        seed: of this search.
        num_blocks: blocks in flight, the paper's budget N of one tree.
        width: blocks per beam and round, the paper's w. Divides ``num_blocks``.
        random_selection: the ablation. Survivors are drawn uniformly; values only weigh votes.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        limits: Limits,
        seed: int,
        num_blocks: int,
        width: int,
        random_selection: bool = False,
    ):
        if num_blocks < 1 or width < 1 or num_blocks % width:
            raise ValueError(f"{num_blocks} blocks cannot be shared by beams of width {width}")
        self.prompt_ids = prompt_ids
        self.limits = limits
        self.seed = seed
        self.width = width
        self.random_selection = random_selection
        self.nodes: list[Node] = []
        self._round = 0
        self._beams = [Beam([], None, None, True, False)] * (num_blocks // width)
        self._asked: set[int] = set()
        self._told: dict[int, list[tuple[Block, float]]] = {}

    @property
    def done(self) -> bool:
        """Whether every beam is closed."""
        return not any(beam.open for beam in self._beams)

    def ask(self) -> list[Expansion]:
        """The open beams of this round that were not asked for before."""
        wanted = [
            slot
            for slot, beam in enumerate(self._beams)
            if beam.open and slot not in self._asked and slot not in self._told
        ]
        self._asked.update(wanted)
        return [self._expansion(slot) for slot in wanted]

    def tell(self, path_id: int, blocks: Sequence[Block], values: Sequence[float]) -> None:
        """Takes the children of one beam; the last answer of a round selects the survivors.

        Raises:
            ValueError: for a path that was not asked for, or blocks and values that do not fit.
        """
        round_index, slot = divmod(path_id, len(self._beams))
        if round_index != self._round or slot not in self._asked:
            raise ValueError(f"path {path_id} was not asked for, or is answered already")
        check_answer(self._expansion(slot), blocks, values)
        self._asked.remove(slot)
        self._told[slot] = list(zip(blocks, values, strict=True))
        if all(slot in self._told for slot, beam in enumerate(self._beams) if beam.open):
            self._select()

    def result(self) -> list[Response]:
        """One response a beam, in slot order."""
        if not self.done:
            raise ValueError("the search is not done")
        return [
            Response(beam.token_ids, beam.value, beam.finished, beam.node)
            for beam in self._beams
            if beam.value is not None and beam.node is not None
        ]

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON types."""
        return {
            "round": self._round,
            "beams": [asdict(beam) for beam in self._beams],
            "nodes": [asdict(node) for node in self.nodes],
            "told": {
                str(slot): [[asdict(block), value] for block, value in children]
                for slot, children in self._told.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from ``state_dict``; what was in flight is asked for again."""
        self._round = state["round"]
        self._beams = [Beam(**beam) for beam in state["beams"]]
        self.nodes = [Node(**node) for node in state["nodes"]]
        self._told = {
            int(slot): [(Block(**block), value) for block, value in children]
            for slot, children in state["told"].items()
        }
        self._asked = set()

    def _expansion(self, slot: int) -> Expansion:
        path = self._beams[slot].token_ids
        return Expansion(
            path_id=self._round * len(self._beams) + slot,
            prefix_ids=self.prompt_ids + path,
            n=self.width,
            max_new_tokens=min(self.limits.block_size, self.limits.max_length - len(path)),
            stop_token_ids=self.limits.stop_token_ids,
            seed=derive_seed(self.seed, self._round, slot),
        )

    def _select(self) -> None:
        candidates: list[Beam] = []
        for slot in sorted(self._told):  # slot order, not the order of arrival
            parent = self._beams[slot]
            for block, value in self._told[slot]:
                self.nodes.append(
                    Node(parent.node, len(block.token_ids), value, block.finish_reason)
                )
                path = parent.token_ids + block.token_ids
                finished = block.finish_reason == "stop"
                candidates.append(
                    Beam(
                        token_ids=path,
                        value=value,
                        node=len(self.nodes) - 1,
                        open=not finished and len(path) < self.limits.max_length,
                        finished=finished,
                    )
                )
        order = np.argsort([-score for score in self._scores(candidates)], kind="stable")
        open_slots = [slot for slot, beam in enumerate(self._beams) if beam.open]
        for slot, index in zip(open_slots, order, strict=False):
            self._beams[slot] = candidates[index]
        self._told = {}
        self._round += 1

    def _scores(self, candidates: list[Beam]) -> list[float]:
        if self.random_selection:
            random = np.random.default_rng(derive_seed(self.seed, self._round, "selection"))
            return random.random(len(candidates)).tolist()
        return [beam.value for beam in candidates if beam.value is not None]
