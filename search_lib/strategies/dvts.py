"""Diverse verifier tree search within one budget: subtrees that never compete.

Rule: N / w subtrees from the prompt; each goes on with the best of its own w blocks.
Budget: N blocks in flight; N / w responses.
Source: search-and-learn (Hugging Face), "Scaling test-time compute with open models". Its code
returns the w - 1 siblings of each subtree's last step, too, ended or not; here a subtree gives one
response. The VGS paper says DVTS of several whole trees: that is `--num_repetitions`.
"""

from typing import ClassVar

from search_lib.strategies.base import SearchSpec, StrategyFactory
from search_lib.strategies.beam import BeamSearch
from search_lib.strategies.foresight import Foresight
from search_lib.strategies.rounds import Candidate, Path


class Subtrees(BeamSearch):
    """Beams that keep to their own children; see `BeamSearch`."""

    paths_compete: ClassVar[bool] = False
    foresight: ClassVar[Foresight] = "certain"

    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Returns the best child of each slot; of equal ones the first."""
        best: dict[int, Candidate] = {}
        for candidate in candidates:
            held = best.setdefault(candidate.slot, candidate)
            if candidate.score > held.score:
                best[candidate.slot] = candidate
        return {slot: candidate.path for slot, candidate in best.items()}


def independent_subtrees(spec: SearchSpec) -> StrategyFactory:
    """`dvts<w>`: N/w independent subtrees; each keeps the best of its own w blocks."""
    spec.check(takes_number=True)
    width = spec.require_width()
    return lambda prompt_ids, seed: Subtrees(prompt_ids, spec.limits, seed, spec.num_blocks, width)
