"""Blocks that tell how sure the policy was of their tokens."""

from dataclasses import replace

from search_lib.confidence import TOP_K
from search_lib.engines.base import Block, Engine, Expansion, Sampling


class ConfidentEngine:
    """Asks another engine for the confidences of all blocks, whoever makes the requests.

    Args:
        engine: Generates the blocks.
    """

    def __init__(self, engine: Engine):
        self._engine = engine

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        """Samples the blocks that continue a path; raises what the engine raises."""
        return await self._engine.generate(replace(expansion, confidence_top_k=TOP_K), sampling)

    async def close(self) -> None:
        """Closes the engine."""
        await self._engine.close()
