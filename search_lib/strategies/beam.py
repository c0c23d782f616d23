"""Block-wise beam search guided by values (Algorithm 1 of the VGS paper), and its ablation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from run_lib.commands import InputError
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


@dataclass(frozen=True)
class Beam:
    """One slot of the search: a path and its state.

    Attributes:
        token_ids: Response so far.
        value: P(correct) at its end; None before the first block, and where nothing scores blocks.
        node: Its last block in the tree; None before the first block.
        open: Whether it goes on. A closed beam keeps its slot until the end.
        finished: Whether the policy ended it.
    """

    token_ids: list[int]
    value: Value
    node: int | None
    open: bool
    finished: bool


class BeamSearch:
    """`num_blocks / width` beams; every open beam is continued by `width` blocks a round.

    Of a round's candidates the best take the slots of the open beams, one each; several children
    of one parent may survive. A closed beam (finished, or at the length limit) keeps its slot.
    `width == num_blocks` is one beam: the paper's `bfs`.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens.
        seed: Seed of this search.
        num_blocks: Blocks in flight, the paper's budget N of one tree.
        width: Blocks per beam and round, the paper's w. Divides `num_blocks`.
        random_selection: The ablation: survivors are drawn uniformly; values only weigh votes, and
            may be missing.
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
        self.sources: list[BlockSource] = []
        self._round = 0
        self._beams = [Beam([], None, None, True, False)] * (num_blocks // width)
        self._asked: set[int] = set()
        self._told: dict[int, list[tuple[Block, Value]]] = {}

    @property
    def done(self) -> bool:
        """Whether every beam is closed."""
        return not any(beam.open for beam in self._beams)

    def ask(self) -> list[Expansion]:
        """Returns the open beams of this round that were not asked for before."""
        new = [
            slot
            for slot, beam in enumerate(self._beams)
            if beam.open and slot not in self._asked and slot not in self._told
        ]
        self._asked.update(new)
        return [self._expansion(slot) for slot in new]

    def tell(self, path_id: int, blocks: Sequence[Block], values: Sequence[Value]) -> None:
        """Takes the children of one beam; the last answer of a round selects the survivors.

        Raises:
            ValueError: For a path that was not asked for, or blocks and values that do not fit.
        """
        round_index, slot = divmod(path_id, len(self._beams))
        if round_index != self._round or slot not in self._asked:
            raise ValueError(f"path {path_id} was not asked for, or is answered already")
        answer = check_answer(self._expansion(slot), blocks, values, not self.random_selection)
        self._asked.remove(slot)
        self._told[slot] = answer
        if all(slot in self._told for slot, beam in enumerate(self._beams) if beam.open):
            self._select()

    def result(self) -> list[Response]:
        """Returns one response a beam, in slot order."""
        if not self.done:
            raise ValueError("the search is not done")
        return [
            Response(beam.token_ids, beam.value, beam.finished, beam.node)
            for beam in self._beams
            if beam.node is not None
        ]

    def _expansion(self, slot: int) -> Expansion:
        path = self._beams[slot].token_ids
        return Expansion(
            path_id=self._path_id(slot),
            prefix_ids=self.prompt_ids + path,
            n=self.width,
            max_new_tokens=min(self.limits.block_size, self.limits.max_length - len(path)),
            stop_token_ids=self.limits.stop_token_ids,
            seed=derive_seed(self.seed, self._round, slot),
        )

    def _path_id(self, slot: int) -> int:
        return self._round * len(self._beams) + slot

    def _select(self) -> None:
        candidates: list[Beam] = []
        for slot in sorted(self._told):  # slot order, not the order of arrival
            parent = self._beams[slot]
            for number, (block, value) in enumerate(self._told[slot]):
                self.sources.append((self._path_id(slot), number))
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


def value_guided(spec: SearchSpec) -> StrategyFactory:
    """`beam<w>`: beams of width w; the best survive."""
    if spec.width is None:
        raise InputError("--search_type beam needs a width behind it: beam2, beam4, ...")
    spec.require_values()
    return _beams(spec, spec.width)


def one_beam(spec: SearchSpec) -> StrategyFactory:
    """`bfs`: one beam of width N."""
    if spec.width is not None:
        raise InputError(f"--search_type {spec.search_type}: bfs takes no width")
    spec.require_values()
    return _beams(spec, spec.num_blocks)


def at_random(spec: SearchSpec) -> StrategyFactory:
    """`random<w>`: beams of width w, 2 by default; survivors are drawn at random (the ablation)."""
    return _beams(spec, 2 if spec.width is None else spec.width, random_selection=True)


def _beams(spec: SearchSpec, width: int, random_selection: bool = False) -> StrategyFactory:
    limits, num_blocks = spec.limits, spec.num_blocks
    if width < 1 or num_blocks % width:
        raise InputError(
            f"--num_blocks {num_blocks} is not divisible by the width {width} "
            f"of --search_type {spec.search_type}"
        )
    if limits.max_length % limits.block_size:
        raise InputError(
            f"--block_size {limits.block_size} does not divide --max_length {limits.max_length}"
        )
    return lambda prompt_ids, seed: BeamSearch(
        prompt_ids, limits, seed, num_blocks, width, random_selection
    )
