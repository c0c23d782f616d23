"""Values from pooling servers: vLLM's and SGLang's, with step PRMs, reward models, cross-encoders.

The shapes of vLLM's requests and replies are those of its documentation and source (0.11 to 0.19);
they have not been tried on a running vLLM.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from classifier_lib.scoring import Scores
from run_lib.text import shorten
from search_lib.engines.http_service import BadReply, HttpService
from search_lib.scorers.inputs import ScorerInput, TextReader, read_texts
from search_lib.scorers.sglang_server import rows_in_order
from search_lib.scorers.squashing import is_number, sigmoid, softmax
from search_lib.scorers.step_layouts import StepReader
from search_lib.scorers.texts import TextRequest

SUM_TOLERANCE = 1e-3
"""Of probabilities that servers in half precision give."""


class PoolingServerScorer:
    """Sends token ids, which are made here: no text can hold a control token.

    How many of them the server's cache saved is not known.

    Args:
        service: The servers.
        path: Path of their API.
        payload: What the request has besides the ids, such as the model's name.
        reader: How the model reads texts.
        read: Returns the values of the inputs from the server's reply; raises `BadReply`.
    """

    def __init__(
        self,
        service: HttpService,
        path: str,
        payload: dict[str, Any],
        reader: TextReader,
        read: Callable[[Any, Sequence[ScorerInput]], list[float]],
    ):
        self._service = service
        self._path = path
        self._payload = payload
        self._reader = reader
        self._read = read

    async def score_texts(self, request: TextRequest) -> Scores:
        """Returns the value of each response.

        Raises:
            EngineUnavailable: If the service stays away.
            BadReply: If it repeatedly answers without scores.
            ValueError: If a response is too long for the model, or the server refuses it.
        """
        inputs = await asyncio.to_thread(
            read_texts, self._reader, request.problem, request.responses
        )
        values = await self._service.post(
            self._path,
            self._payload | {"input": [one.ids for one in inputs]},
            lambda reply: self._read(reply, inputs),
            request.key,
        )
        return Scores(values, None)

    async def close(self) -> None:
        """Closes the connections; requests in flight fail."""
        await self._service.close()


class CrossEncoderScorer:
    """Sends problem and response as two texts, which the server puts into its own template.

    Args:
        service: vLLM servers of a cross-encoder.
        model: Its name there.
    """

    def __init__(self, service: HttpService, model: str):
        self._service = service
        self._model = model

    async def score_texts(self, request: TextRequest) -> Scores:
        """Returns the value of each response; raises as `PoolingServerScorer.score_texts` does."""
        payload = {
            "model": self._model,
            "text_1": request.problem,
            "text_2": request.responses,
            "use_activation": True,
        }
        count = len(request.responses)
        values = await self._service.post(
            "/score", payload, lambda reply: read_pair_scores(reply, count), request.key
        )
        return Scores(values, None)

    async def close(self) -> None:
        """Closes the connections; requests in flight fail."""
        await self._service.close()


def read_step_rows(
    reply: Any, inputs: Sequence[ScorerInput], reader: StepReader
) -> list[list[float]]:
    """Returns the scores of the steps of each input from a reply of vLLM's `/pooling`.

    A server gives a row for each token (pooling type ALL), or for each token that is its step tag
    (STEP): also for one that the text itself holds. Rows of two are probabilities, since the
    request asks for the activation; rows of one are logits or probabilities of Skywork's head.

    Raises:
        BadReply: If it is something else.
    """
    rows_of_inputs = rows_in_order(reply, "data", len(inputs))
    return [
        [_step_score(row, reader) for row in _rows_of_steps(rows, one)]
        for rows, one in zip(rows_of_inputs, inputs, strict=True)
    ]


def _rows_of_steps(rows: Any, one: ScorerInput) -> list[Any]:
    tag = one.ids[one.reads[0]]
    tagged = [place for place, index in enumerate(one.ids) if index == tag]
    for places in (range(len(one.ids)), tagged):
        if isinstance(rows, list) and len(rows) == len(places):
            of_place = dict(zip(places, rows, strict=True))
            if all(read in of_place for read in one.reads):
                return [of_place[read] for read in one.reads]
    count = f"{len(rows)} rows" if isinstance(rows, list) else shorten(rows)
    raise BadReply(
        f"{count} for {len(one.ids)} tokens, of which {len(tagged)} are the step tag {tag}"
    )


def _step_score(row: Any, reader: StepReader) -> float:
    labels, good = reader.layout.labels, reader.layout.good
    numbers = [row] if is_number(row) else row
    if not isinstance(numbers, list) or len(numbers) != labels or not all(map(is_number, numbers)):
        raise BadReply(f"no row of {labels} numbers: {shorten(row)}")
    if labels == 1:
        return sigmoid(numbers[0])
    _check_probabilities(numbers)
    return numbers[good]


def read_class_probabilities(reply: Any, inputs: Sequence[ScorerInput]) -> list[float]:
    """Returns the probability of good from a reply of vLLM's `/classify`, which has it squashed.

    Raises:
        BadReply: Unless each has one number in [0, 1], or two probabilities.
    """
    values = []
    for row in rows_in_order(reply, "probs", len(inputs)):
        if not isinstance(row, list) or len(row) not in (1, 2) or not all(map(is_number, row)):
            raise BadReply(f"no probabilities of one or two labels: {shorten(row)}")
        _check_probabilities(row)
        values.append(row[-1])
    return values


def read_rewards(reply: Any, inputs: Sequence[ScorerInput]) -> list[float]:
    """Returns the squashed rewards of a reply of SGLang's `/v1/embeddings`, which has logits.

    Raises:
        BadReply: Unless each has one or two numbers.
    """
    values = []
    for row in rows_in_order(reply, "embedding", len(inputs)):
        if not isinstance(row, list) or len(row) not in (1, 2) or not all(map(is_number, row)):
            raise BadReply(f"no logits of one or two labels: {shorten(row)}")
        values.append(sigmoid(row[0]) if len(row) == 1 else softmax(row)[1])
    return values


def read_pair_scores(reply: Any, count: int) -> list[float]:
    """Returns the scores of a reply of vLLM's `/score`, which has them squashed.

    Raises:
        BadReply: Unless each is in [0, 1].
    """
    scores = rows_in_order(reply, "score", count)
    for score in scores:
        if not is_number(score):
            raise BadReply(f"no score: {shorten(score)}")
        _check_probabilities([score])
    return scores


def _check_probabilities(row: list[float]) -> None:
    """Raises BadReply unless the probabilities of one or two labels are some."""
    if not all(0.0 <= number <= 1.0 for number in row) or (
        len(row) == 2 and abs(sum(row) - 1.0) > SUM_TOLERANCE
    ):
        raise BadReply(f"no probabilities, as use_activation asks for: {shorten(row)}")
