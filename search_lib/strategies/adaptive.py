"""Beam search with blocks as long as the values agree.

Rule: as `beam<w>`; the next block has s + (l - s)(1 - d) tokens, between the shortest s and the
longest l, where d is twice the standard deviation of the candidates' values: 0 where they agree, 1
where half are sure of success and half of failure. The first block is a longest one.
Budget: that of `beam<w>`, N blocks in flight and N / w responses, with more rounds.
Source: our own rule. How much the length of blocks matters: variable granularity search (arXiv
2505.11730), which sets it by problem and budget.

All beams have blocks of one length, so that the values that compete are of equally long paths.
"""

import numpy as np

from run_lib.commands import InputError
from search_lib.strategies.base import Limits, SearchSpec, StrategyFactory
from search_lib.strategies.beam import BeamSearch
from search_lib.strategies.rounds import Candidate


class AdaptiveBeams(BeamSearch):
    """Beams with shorter blocks where values disagree; see `BeamSearch`.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens; `block_size` is the longest block.
        seed: Seed of this search.
        num_blocks: Blocks in flight.
        width: Blocks per beam and round.
        shortest: Fewest tokens of a block.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        limits: Limits,
        seed: int,
        num_blocks: int,
        width: int,
        shortest: int,
    ):
        super().__init__(prompt_ids, limits, seed, num_blocks, width)
        self.shortest = shortest

    def next_block_size(self, candidates: list[Candidate]) -> int:
        """Returns fewer tokens, the more the values of a round disagree."""
        disagreement = 2 * np.std([candidate.score for candidate in candidates])
        room = self.limits.block_size - self.shortest
        return self.shortest + round(room * (1 - float(disagreement)))


def by_disagreement(spec: SearchSpec) -> StrategyFactory:
    """`adaptive<w>`: beams of width w, with short blocks where values disagree."""
    spec.check("min_block_size", takes_number=True)
    width, longest = spec.require_width(), spec.limits.block_size
    shortest = spec.settings.min_block_size or max(1, longest // 4)
    if shortest > longest:
        raise InputError(f"--min_block_size {shortest} is larger than --block_size {longest}")
    return lambda prompt_ids, seed: AdaptiveBeams(
        prompt_ids, spec.limits, seed, spec.num_blocks, width, shortest
    )
