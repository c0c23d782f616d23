"""Beam search that looks ahead: a candidate is ranked by what it leads to.

Rule: as `beam<w>`, but each candidate is ranked by the value at the end of L more blocks, which are
decoded greedily and thrown away.
Budget: N blocks a round, those ahead included: N / (w (L + 1)) beams, and as many responses.
Source: Snell et al. (arXiv 2408.03314), whose N x (L + 1) samples are the cost of lookahead; as in
search-and-learn (Hugging Face), the steps ahead have temperature 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from run_lib.commands import InputError
from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Expansion
from search_lib.strategies.base import (
    Answers,
    Guess,
    Limits,
    Node,
    SearchSpec,
    StrategyFactory,
    Value,
    check_answer,
)
from search_lib.strategies.beam import BeamSearch
from search_lib.strategies.foresight import Foresight
from search_lib.strategies.paths import UnknownPath
from search_lib.strategies.rounds import Candidate, Path, score_of


class LookaheadBeams(BeamSearch):
    """Beams whose candidates are ranked by the value of their lookaheads; see `BeamSearch`.

    The value of a path stays its own. A candidate that has ended has nothing ahead: it is ranked by
    its own value. Lookaheads are in the tree, with the finish reason `"lookahead"`.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens.
        seed: Seed of this search.
        num_blocks: Candidates of a round.
        width: Blocks per beam and round.
        length: Blocks ahead; 0 is beam search.
    """

    foresight: ClassVar[Foresight] = "likely"

    def __init__(
        self,
        prompt_ids: list[int],
        limits: Limits,
        seed: int,
        num_blocks: int,
        width: int,
        length: int,
    ):
        super().__init__(prompt_ids, limits, seed, num_blocks, width)
        self.length = length
        self._grown: list[Candidate] = []
        self._unasked: list[int] = []
        self._asked_ahead: dict[int, int] = {}
        self._seen: dict[int, Node] = {}  # by seed

    def ask(self) -> list[Expansion]:
        """Returns the open beams, or their candidates, that were not asked for before."""
        ahead = {index: self._expansion_ahead(index) for index in self._unasked}
        self._asked_ahead |= {expansion.path_id: index for index, expansion in ahead.items()}
        self._unasked = []
        return [*super().ask(), *ahead.values()]

    def tell(self, path_id: int, blocks: Sequence[Block], values: Sequence[Value]) -> None:
        """Takes the children of a beam, or what is ahead of a candidate; see `Rounds.tell`."""
        if path_id not in self._asked_ahead:
            return super().tell(path_id, blocks, values)
        index = self._asked_ahead[path_id]
        expansion = self._expansion_ahead(index)
        ((block, value),) = check_answer(expansion, blocks, values)
        del self._asked_ahead[path_id]
        parent = self._grown[index].path.node
        self._seen[expansion.seed] = Node(parent, len(block.token_ids), value, "lookahead")
        if not self._asked_ahead and not self._unasked:
            self._rank()

    def end_round(self, candidates: list[Candidate]) -> None:
        """Looks ahead of the open candidates, and only then lets the best survive."""
        self._grown = candidates
        self._seen = {}
        if self.length:
            self._unasked = [index for index, one in enumerate(candidates) if one.path.open]
        if not self._unasked:
            self._rank()

    def survivors(self) -> set[int]:
        """Returns the last nodes of its paths: of all candidates, until they are ranked."""
        candidates = {one.path.node for one in self._grown if one.path.node is not None}
        return super().survivors() | candidates

    def guess(self, answered: Answers) -> list[Guess]:
        """Returns what is ahead of the candidates that are there, and blocks behind likely ones."""
        told = [one for of_slot in self.told.values() for one in of_slot]
        going_on = [one.path for one in told if one.path.open and self.length]
        return [
            *(Guess(self._ahead_of(path, 0), 1.0) for path in going_on if not self._grown),
            *super().guess(answered),
        ]

    def supposed(
        self, candidates: list[Candidate], answered: Answers, invented: Callable[[Value], float]
    ) -> list[Candidate]:
        """Returns the candidates with the values ahead of them, known or invented ones."""
        if not self.length:
            return candidates
        ranked = []
        for one in candidates:
            score = one.score
            if one.path.open and not isinstance(one.path, UnknownPath):
                seed = self._seed_ahead(one.path)
                if seed in self._seen:
                    score = score_of(self._seen[seed].value)
                elif seed in answered:
                    score = score_of(answered[seed][0][1])
                else:
                    score = invented(one.path.value)
            ranked.append(one._replace(score=score))
        return ranked

    def _rank(self) -> None:
        for index, one in enumerate(self._grown):
            node = self._seen.get(self._seed_ahead(one.path))
            if node is not None:
                self.add_node(node, (self._path_id_ahead(index), 0))
                self._grown[index] = one._replace(score=score_of(node.value))
        grown, self._grown = self._grown, []
        super().end_round(grown)

    def _expansion_ahead(self, index: int) -> Expansion:
        return self._ahead_of(self._grown[index].path, self._path_id_ahead(index))

    def _path_id_ahead(self, index: int) -> int:
        # Below 0: the other numbers are those of beams.
        return -1 - self.round * self.num_slots * self.width - index

    def _seed_ahead(self, path: Path) -> int:
        return derive_seed(path.seed, "ahead")

    def _ahead_of(self, path: Path, path_id: int) -> Expansion:
        expansion = self.extension(path, path_id, self.length * self.limits.block_size)
        return replace(expansion, n=1, seed=self._seed_ahead(path), greedy=True)


def looking_ahead(spec: SearchSpec) -> StrategyFactory:
    """`lookahead<w>`: beams ranked by the value of greedy blocks ahead, which count in N."""
    spec.check("lookahead", takes_number=True)
    width, length = spec.require_width(), spec.settings.lookahead
    length = 1 if length is None else length
    if spec.num_blocks % (width * (length + 1)):
        raise InputError(
            f"--num_blocks {spec.num_blocks} is not divisible by {width * (length + 1)}: the width "
            f"{width} of --search_type {spec.search_type} times --lookahead {length} + 1"
        )
    return lambda prompt_ids, seed: LookaheadBeams(
        prompt_ids, spec.limits, seed, spec.num_blocks // (length + 1), width, length
    )
