"""Block-wise beam search guided by values, and its ablation.

Rule: every beam is continued by w blocks; of all candidates the best N / w survive.
Budget: N blocks in flight, from N / w beams; N / w responses.
Source: Algorithm 1 of the VGS paper (arXiv 2505.17373).
"""

from typing import ClassVar

from search_lib.strategies.base import Limits, SearchSpec, StrategyFactory
from search_lib.strategies.foresight import Foreseeing, Foresight
from search_lib.strategies.rounds import Candidate, Path


class BeamSearch(Foreseeing):
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
    """

    foresight: ClassVar[Foresight] = "certain"

    def __init__(
        self, prompt_ids: list[int], limits: Limits, seed: int, num_blocks: int, width: int
    ):
        if num_blocks < 1 or width < 1 or num_blocks % width:
            raise ValueError(f"{num_blocks} blocks cannot be shared by beams of width {width}")
        super().__init__(prompt_ids, limits, seed, num_blocks // width, width)

    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Returns the best candidates."""
        return self.best_in_open_slots(candidates)


class RandomBeams(BeamSearch):
    """The ablation: survivors are drawn uniformly. Values only weigh votes, and may be missing."""

    needs_values: ClassVar[bool] = False
    foresight: ClassVar[Foresight] = "certain"

    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Returns candidates at random."""
        return self.best_in_open_slots(candidates, self.draws().random(len(candidates)).tolist())


def value_guided(spec: SearchSpec) -> StrategyFactory:
    """`beam<w>`: N/w beams of w blocks a round; the best survive (the paper's best: beam2)."""
    spec.check(takes_number=True)
    width = spec.require_width()
    return lambda prompt_ids, seed: BeamSearch(
        prompt_ids, spec.limits, seed, spec.num_blocks, width
    )


def one_beam(spec: SearchSpec) -> StrategyFactory:
    """`bfs`: one beam, w = N."""
    spec.check()
    spec.check_width(spec.num_blocks)
    return lambda prompt_ids, seed: BeamSearch(
        prompt_ids, spec.limits, seed, spec.num_blocks, spec.num_blocks
    )


def at_random(spec: SearchSpec) -> StrategyFactory:
    """`random<w>`: beams whose survivors are drawn at random, w = 2 if left out (the ablation)."""
    spec.check(takes_number=True, needs_values=False)
    width = 2 if spec.number is None else spec.number
    spec.check_width(width)
    return lambda prompt_ids, seed: RandomBeams(
        prompt_ids, spec.limits, seed, spec.num_blocks, width
    )
