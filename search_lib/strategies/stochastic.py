"""Stochastic beam search: survivors are drawn by value, without replacement.

Rule: as `beam<w>`, but the survivors are drawn one after the other by softmax(logit(V) / T).
Budget: that of `beam<w>`: N blocks in flight, N / w responses.
Source: self-evaluation guided beam search (Xie et al., arXiv 2305.00633), with values in place of
self-evaluation. The largest sums of log-weight and Gumbel noise are such a draw (Kool et al., arXiv
1903.06059).
"""

from typing import ClassVar

from search_lib.strategies.base import Limits, SearchSpec, StrategyFactory
from search_lib.strategies.beam import BeamSearch
from search_lib.strategies.foresight import Foresight
from search_lib.strategies.rounds import Candidate, Path
from search_lib.strategies.weights import log_weights


class StochasticBeams(BeamSearch):
    """Beams whose survivors are drawn by their values; see `BeamSearch`.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens.
        seed: Seed of this search.
        num_blocks: Blocks in flight.
        width: Blocks per beam and round.
        temperature: T of the weights; towards 0 it is beam search, towards infinity the ablation.
    """

    foresight: ClassVar[Foresight] = "certain"

    def __init__(
        self,
        prompt_ids: list[int],
        limits: Limits,
        seed: int,
        num_blocks: int,
        width: int,
        temperature: float,
    ):
        super().__init__(prompt_ids, limits, seed, num_blocks, width)
        self.temperature = temperature

    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Returns drawn candidates, the first one drawn first."""
        keys = log_weights(candidates, self.temperature) + self.draws().gumbel(size=len(candidates))
        return self.best_in_open_slots(candidates, keys.tolist())


def drawn_by_value(spec: SearchSpec) -> StrategyFactory:
    """`stochastic<w>`: beams whose survivors are drawn by value, without replacement."""
    spec.check("value_temperature", takes_number=True)
    width, temperature = spec.require_width(), spec.settings.value_temperature or 1.0
    return lambda prompt_ids, seed: StochasticBeams(
        prompt_ids, spec.limits, seed, spec.num_blocks, width, temperature
    )
