"""Beam search that looks ahead: a candidate is ranked by what it leads to.

Rule: as `beam<w>`, but each candidate is ranked by the value at the end of L more blocks, which are
decoded greedily and thrown away.
Budget: N blocks a round, those ahead included: N / (w (L + 1)) beams, and as many responses.
Source: Snell et al. (arXiv 2408.03314), whose N x (L + 1) samples are the cost of lookahead; as in
search-and-learn (Hugging Face), the steps ahead have temperature 0.
"""

from collections.abc import Sequence

from run_lib.commands import InputError
from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Expansion
from search_lib.strategies.base import (
    Limits,
    Node,
    SearchSpec,
    StrategyFactory,
    Value,
    check_answer,
)
from search_lib.strategies.beam import BeamSearch
from search_lib.strategies.rounds import Candidate, score_of


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
        self._seen: dict[int, Node] = {}

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
        ((block, value),) = check_answer(self._expansion_ahead(index), blocks, values)
        del self._asked_ahead[path_id]
        parent = self._grown[index].path.node
        self._seen[index] = Node(parent, len(block.token_ids), value, "lookahead")
        if not self._asked_ahead and not self._unasked:
            self._rank()

    def end_round(self, candidates: list[Candidate]) -> None:
        """Looks ahead of the open candidates, and only then lets the best survive."""
        self._grown = candidates
        self._seen = {}
        if self.length:
            self._unasked = [index for index, one in enumerate(candidates) if one.path.open]
        if not self._unasked:
            super().end_round(candidates)

    def _rank(self) -> None:
        for index, node in sorted(self._seen.items()):
            self.add_node(node, (self._expansion_ahead(index).path_id, 0))
            self._grown[index] = self._grown[index]._replace(score=score_of(node.value))
        super().end_round(self._grown)

    def _expansion_ahead(self, index: int) -> Expansion:
        path = self._grown[index].path.token_ids
        tokens_ahead = self.length * self.limits.block_size
        # Below 0: the other numbers are those of beams.
        path_id = -1 - self.round * self.num_slots * self.width - index
        return Expansion(
            path_id=path_id,
            prefix_ids=self.prompt_ids + path,
            n=1,
            max_new_tokens=min(tokens_ahead, self.limits.max_length - len(path)),
            stop_token_ids=self.limits.stop_token_ids,
            seed=derive_seed(self.seed, path_id),
            greedy=True,
        )


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
