"""Values from a transformers model in this process: the default scorer, on a CPU or one GPU."""

from collections.abc import Sequence

from classifier_lib.scoring import Scores, ScoringRequest, ValueScorer
from search_lib.batching import Batcher, ModelThread
from search_lib.engines.base import Block


class HfScorer:
    """Batches the waiting requests of all searches into passes of a value model in this process.

    Args:
        values: The value model.
        thread: The thread that runs it, where it shares one.
    """

    def __init__(self, values: ValueScorer, thread: ModelThread | None = None):
        self._batcher: Batcher[ScoringRequest, Scores] = Batcher(
            lambda requests: enumerate(values.score(requests)),
            thread,
            # Several forward passes: enough sequences of about one length for each of them.
            max_size=16 * values.max_batch_tokens,
            size_of=lambda request: sum(len(request.prefix_ids) + len(b) for b in request.blocks),
        )

    async def score(self, prefix_ids: list[int], blocks: Sequence[Block]) -> Scores:
        """Returns P(correct) at the end of each block, and how many tokens the cache saved."""
        return await self._batcher.submit(
            ScoringRequest(
                prefix_ids,
                [block.token_ids for block in blocks],
                # Nothing continues a block that the policy ended.
                last=[block.finish_reason == "stop" for block in blocks],
            )
        )

    async def close(self) -> None:
        """Fails the waiting requests."""
        await self._batcher.close()
