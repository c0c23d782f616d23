"""Values from a step PRM or a reward model in this process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from classifier_lib.scoring import Scores, Work, batch_by_length
from search_lib.batching import Batcher
from search_lib.scorers.inputs import TextReader, read_texts
from search_lib.scorers.text_models import TextModel
from search_lib.scorers.texts import TextRequest

CHARACTERS_PER_TOKEN = 3
"""For the size of requests before they are encoded."""


class TextModelScorer:
    """Batches the waiting requests of all searches into passes of a model.

    Every response is computed whole: its tokens change where its last block ends within a step, so
    that no states are kept between rounds.

    Args:
        model: The model.
        reader: How the model reads texts.
        aggregate: Returns one value of the scores of a response.
        max_batch_tokens: Tokens of one forward pass, padding included. A longer input runs alone.
        executor: The thread that runs it (see `Batcher`).
    """

    def __init__(
        self,
        model: TextModel,
        reader: TextReader,
        aggregate: Callable[[Sequence[float]], float],
        max_batch_tokens: int,
        executor: ThreadPoolExecutor | None = None,
    ):
        self._model = model
        self._reader = reader
        self._aggregate = aggregate
        self._max_batch_tokens = max_batch_tokens
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="text-scorer")
        self._batcher: Batcher[TextRequest, Scores] = Batcher(
            lambda requests: enumerate(self.score_batch(requests)),
            self._executor,
            max_size=16 * max_batch_tokens * CHARACTERS_PER_TOKEN,
            size_of=lambda request: sum(map(len, request.responses)),
            length_of=lambda request: max(map(len, request.responses), default=0),
        )

    async def score_texts(self, request: TextRequest) -> Scores:
        """Returns the value of each response, in [0, 1], and what was computed for it.

        Raises:
            ValueError: If a response is too long for the model.
        """
        return await self._batcher.submit(request)

    async def close(self) -> None:
        """Fails the waiting requests and lets the worker thread end."""
        await self._batcher.close()
        self._executor.shutdown(wait=False)

    def score_batch(self, requests: Sequence[TextRequest]) -> list[Scores]:
        """Returns the values of each request's responses, in order."""
        inputs = [
            one
            for request in requests
            for one in read_texts(self._reader, request.problem, request.responses)
        ]
        lengths = [len(one.ids) for one in inputs]
        values = [0.0] * len(inputs)
        for batch in batch_by_length(lengths, self._max_batch_tokens):
            scores = self._model.scores([inputs[place] for place in batch])
            for place, of_input in zip(batch, scores, strict=True):
                values[place] = self._aggregate(of_input)
        results, start = [], 0
        for request in requests:
            part = slice(start, start + len(request.responses))
            contexts = sum(length * (length + 1) // 2 for length in lengths[part])
            results.append(Scores(values[part], 0, work=Work(sum(lengths[part]), contexts)))
            start = part.stop
        return results
