"""Values from a step PRM or a reward model in this process."""

from collections.abc import Callable, Sequence

from classifier_lib.scoring import Scores, Work
from search_lib.batching import Batcher, ModelThread
from search_lib.scorers.inputs import TextReader, read_texts
from search_lib.scorers.text_models import TextModel
from search_lib.scorers.texts import TextRequest

CHARACTERS_PER_TOKEN = 3
"""For the size of requests before they are encoded."""


class TextModelScorer:
    """Batches the waiting requests of all searches into passes of a model.

    Args:
        model: The model.
        reader: How the model reads texts.
        aggregate: Returns one value of the scores of a response.
        max_batch_tokens: Tokens of one forward pass of the model.
        thread: The thread that runs it, where it shares one.
    """

    def __init__(
        self,
        model: TextModel,
        reader: TextReader,
        aggregate: Callable[[Sequence[float]], float],
        max_batch_tokens: int,
        thread: ModelThread | None = None,
    ):
        self._model = model
        self._reader = reader
        self._aggregate = aggregate
        self._batcher: Batcher[TextRequest, Scores] = Batcher(
            lambda requests: enumerate(self.score_batch(requests)),
            thread,
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
        """Fails the waiting requests."""
        await self._batcher.close()

    def score_batch(self, requests: Sequence[TextRequest]) -> list[Scores]:
        """Returns the values of each request's responses, in order."""
        inputs = [
            one
            for request in requests
            for one in read_texts(self._reader, request.problem, request.responses)
        ]
        found = self._model.read(inputs)
        results, start = [], 0
        for request in requests:
            part = slice(start, start + len(request.responses))
            values = [self._aggregate(of_input.scores) for of_input in found[part]]
            cached = [of_input.tokens_cached for of_input in found[part]]
            lengths = [len(one.ids) for one in inputs[part]]
            contexts = sum(
                (length * (length + 1) - known * (known + 1)) // 2
                for length, known in zip(lengths, cached, strict=True)
            )
            work = Work(sum(lengths) - sum(cached), contexts)
            results.append(Scores(values, sum(cached), work=work))
            start = part.stop
        return results
