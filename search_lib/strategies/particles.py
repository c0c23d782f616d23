"""Particle filtering, and its entropic form: paths are resampled by their values.

Rule: N paths; after every block the open ones are drawn anew by softmax(logit(V) / T).
Budget: N paths in flight; N responses, among which there may be equal ones.
Source: particle filtering, arXiv 2502.01618. Entropic: arXiv 2510.05825; what its published code
(its_hub) leaves out, the look-ahead modulation, is left out here, too.

Resampling is systematic. The published code resamples finished paths as well, again in every round.
Here they keep their slots, as in all our searches, so that a path is weighed once for each of its
own blocks. With the weight G = (V / (1 - V)) ** (1 / T) of a block, and W the product over a
response's rounds of the mean weight of that round's paths, the mean of W f over the responses is an
unbiased estimate of E[f prod G], the expectation over the policy's own responses.
"""

import math
from typing import ClassVar

import numpy as np

from search_lib.strategies.base import Limits, SearchSpec, StrategyFactory
from search_lib.strategies.foresight import Foreseeing, Foresight
from search_lib.strategies.rounds import Candidate, Path
from search_lib.strategies.weights import log_weights, normalized

LEAST_DIVERSITY = 0.5
"""Effective share of the paths below which entropic particles are drawn more evenly."""

EARLY = 0.5
"""Share of the rounds after which they no longer are."""


class Particles(Foreseeing):
    """Paths that are continued by one block a round, and resampled by their values.

    Args:
        prompt_ids: Token ids of the prompt.
        limits: Lengths and stop tokens.
        seed: Seed of this search.
        num_paths: Paths, the particles.
        temperature: T of the weights.
    """

    foresight: ClassVar[Foresight] = "likely"

    def __init__(
        self,
        prompt_ids: list[int],
        limits: Limits,
        seed: int,
        num_paths: int,
        temperature: float = 1.0,
    ):
        super().__init__(prompt_ids, limits, seed, num_paths)
        self.temperature = temperature

    def select(self, candidates: list[Candidate]) -> dict[int, Path]:
        """Returns drawn candidates, with replacement: the open slots' shares of the weights."""
        weights = self.weights(log_weights(candidates, self.temperature))
        drawn = systematic_draw(weights, self.draws().random())
        return {
            slot: candidates[index].path for slot, index in zip(self.open_slots, drawn, strict=True)
        }

    def weights(self, log_weights: np.ndarray) -> np.ndarray:
        """Returns the probability of each candidate."""
        return normalized(log_weights)


class EntropicParticles(Particles):
    """Particles that are drawn more evenly while few of them hold most of the weight; early on."""

    foresight: ClassVar[Foresight] = "likely"

    def weights(self, log_weights: np.ndarray) -> np.ndarray:
        """Returns the probability of each candidate, at the temperature that entropy asks for."""
        weights = normalized(log_weights)
        diversity = 1 / (weights**2).sum() / len(weights)  # effective sample size over their number
        progress = (self.round + 1) / math.ceil(self.limits.max_length / self.block_size)
        if diversity >= LEAST_DIVERSITY or progress >= EARLY:
            return weights
        return normalized(log_weights / max(1.0, (1 - progress) / diversity))


def systematic_draw(probabilities: np.ndarray, offset: float) -> np.ndarray:
    """Draws as many indices as there are, each its share of times, rounded up or down.

    Args:
        probabilities: [n], adding up to 1.
        offset: A uniform random number in [0, 1).

    Returns:
        int64 [n], ascending.
    """
    count = len(probabilities)
    points = (offset + np.arange(count)) / count
    indices = np.searchsorted(probabilities.cumsum(), points, side="right")
    drawn: np.ndarray = indices.clip(max=count - 1)  # the sum may be a rounding below 1
    return drawn


def resampled(spec: SearchSpec) -> StrategyFactory:
    """`particles`: N paths, drawn anew by value after every block (particle filtering)."""
    return _particles(spec, Particles)


def entropic(spec: SearchSpec) -> StrategyFactory:
    """`entropic`: particles, drawn more evenly early on where few hold most of the weight."""
    return _particles(spec, EntropicParticles)


def _particles(spec: SearchSpec, kind: type[Particles]) -> StrategyFactory:
    spec.check("value_temperature")
    temperature = spec.settings.value_temperature or 1.0
    return lambda prompt_ids, seed: kind(
        prompt_ids, spec.limits, seed, spec.num_blocks, temperature
    )
