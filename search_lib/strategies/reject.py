"""Early rejection: independent samples, of which the worst are given up on the way.

Rule: N paths; after every block the p % of the open ones with the lowest values are dropped.
Budget: N paths in flight, fewer in each round; as many responses as are left. The number to drop is
rounded down, so that the last open path stays.
Source: speculative rejection (arXiv 2410.20290), which rejects whenever its memory is full; early
rejection by partial rewards (arXiv 2508.01969).
"""

from abc import abstractmethod
from collections.abc import Collection
from typing import ClassVar

from run_lib.commands import InputError
from search_lib.strategies.base import Limits, SearchSpec, StrategyFactory
from search_lib.strategies.foresight import Foreseeing, Foresight
from search_lib.strategies.rounds import Candidate, Path


class Rejection(Foreseeing):
    """Paths that are continued by one block a round, or given up: nothing branches.

    A path keeps its slot, so that a subclass can keep what it knows of a path by slot.
    """

    @abstractmethod
    def dropped(self, candidates: list[Candidate]) -> Collection[int]:
        """Says which paths are given up after a round.

        Args:
            candidates: The paths that the round has continued, in order of slots; one a slot.

        Returns:
            Their slots.
        """

    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Returns the candidates that are not dropped, each in its slot."""
        dropped = self.dropped(candidates)
        return {
            candidate.slot: candidate.path
            for candidate in candidates
            if candidate.slot not in dropped
        }


class LowestRejected(Rejection):
    """Drops the open paths of the lowest values. A path that has ended costs nothing, and stays.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens.
        seed: Seed of this search.
        num_paths: Paths at the start.
        percent: Share of the open paths that is dropped after every block, below 100.
    """

    foresight: ClassVar[Foresight] = "certain"

    def __init__(
        self, prompt_ids: list[int], limits: Limits, seed: int, num_paths: int, percent: int
    ):
        super().__init__(prompt_ids, limits, seed, num_paths)
        self.percent = percent

    def dropped(self, candidates: list[Candidate]) -> Collection[int]:
        """Returns the lowest ones, of equal ones the later slots."""
        going_on = [candidate for candidate in candidates if candidate.path.open]
        lowest = sorted(going_on, key=lambda one: (one.score, -one.slot))
        return {one.slot for one in lowest[: len(going_on) * self.percent // 100]}


def lowest_rejected(spec: SearchSpec) -> StrategyFactory:
    """`reject<p>`: N paths; the p % with the lowest values are dropped after every block."""
    spec.check(takes_number=True)
    percent = spec.require_number("the percentage to drop", "reject25, reject50")
    if percent > 99:
        raise InputError(
            f"--search_type {spec.search_type} would drop every path: it takes 0 to 99 %"
        )
    return lambda prompt_ids, seed: LowestRejected(
        prompt_ids, spec.limits, seed, spec.num_blocks, percent
    )
