"""Prune once: sample many prefixes, finish the best.

Rule: sample N prefixes of one block; finish the k of the highest values, each in one piece.
Budget: N prefixes; k responses. A prefix that has ended takes part, and is a response if kept.
Source: STOP (arXiv 2604.16029), whose learned pruning score is the value here; it keeps 8 of 64.
"""

from itertools import islice
from typing import ClassVar

from run_lib.commands import InputError
from search_lib.strategies.base import Limits, SearchSpec, StrategyFactory
from search_lib.strategies.foresight import Foreseeing, Foresight
from search_lib.strategies.rounds import Candidate, Path


class PruneOnce(Foreseeing):
    """Many prefixes, of which few are finished.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens; a prefix has `block_size` tokens.
        seed: Seed of this search.
        num_blocks: Prefixes.
        num_kept: Prefixes that are finished.
    """

    foresight: ClassVar[Foresight] = "certain"

    def __init__(
        self, prompt_ids: list[int], limits: Limits, seed: int, num_blocks: int, num_kept: int
    ):
        super().__init__(prompt_ids, limits, seed, num_blocks)
        self.num_kept = num_kept

    @property
    def most_responses(self) -> int:
        """The prefixes that are finished."""
        return self.num_kept

    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Returns the best prefixes, and then what they end with."""
        return dict(islice(self.best_in_open_slots(candidates).items(), self.num_kept))

    def next_block_size(self, candidates: list[Candidate]) -> int:
        """Returns the longest response: prefixes are finished in one piece."""
        return self.limits.max_length


def pruned_once(spec: SearchSpec) -> StrategyFactory:
    """`prune<k>`: N prefixes of one block; the k of the highest values are finished."""
    spec.check(takes_number=True)
    num_kept = spec.require_number("the number of prefixes to finish", "prune2, prune8")
    if not 1 <= num_kept <= spec.num_blocks:
        raise InputError(
            f"--search_type {spec.search_type} finishes {num_kept} of --num_blocks "
            f"{spec.num_blocks} prefixes: at least 1, and at most all"
        )
    return lambda prompt_ids, seed: PruneOnce(
        prompt_ids, spec.limits, seed, spec.num_blocks, num_kept
    )
