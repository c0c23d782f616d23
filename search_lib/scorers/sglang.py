"""Values from an SGLang server of this run's own."""

from collections.abc import Sequence

from classifier_lib.scoring import Scores
from search_lib.engines.base import Block, EngineUnavailable
from search_lib.engines.http_service import HttpService
from search_lib.scorers.sglang_server import SglangServerScorer
from search_lib.scorers.value_server import ValueServer, last_error

PATIENCE = 5.0
"""Seconds for a fault to pass; nobody restarts a server that has ended."""


class SglangScorer(SglangServerScorer):
    """The only client of a value server, which it ends.

    Args:
        server: The server, ready.
        vocab_size: Vocabulary of the value model.
    """

    def __init__(self, server: ValueServer, vocab_size: int):
        super().__init__(HttpService([server.url], PATIENCE), vocab_size)
        self.server = server

    async def score(self, prefix_ids: list[int], blocks: Sequence[Block]) -> Scores:
        """Scores as `SglangServerScorer` does; says why the server ended, if it has."""
        try:
            return await super().score(prefix_ids, blocks)
        except EngineUnavailable as error:
            if self.server.process.poll() is None:
                raise
            raise EngineUnavailable(
                f"the value server has ended: {last_error(self.server.log_path)} "
                f"(all it said: {self.server.log_path})"
            ) from error

    async def close(self) -> None:
        """Ends the server; requests in flight fail."""
        await super().close()
        self.server.stop()
