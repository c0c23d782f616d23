"""Values from any server that speaks the schema of docs/scorers.md."""

from typing import Any

from classifier_lib.scoring import Scores
from run_lib.text import shorten
from search_lib.engines.http_service import BadReply, HttpService
from search_lib.scorers.squashing import is_number, sigmoid
from search_lib.scorers.texts import TextRequest

SCORES_PATH = "/scores"


class HttpScorer:
    """Sends the problem and the responses so far, as texts.

    Args:
        service: The servers.
        model: Name of the scorer, which it gets with each request.
    """

    def __init__(self, service: HttpService, model: str):
        self._service = service
        self._model = model

    async def score_texts(self, request: TextRequest) -> Scores:
        """Returns the value of each response.

        Raises:
            EngineUnavailable: If the service stays away.
            BadReply: If it repeatedly answers something else.
            ValueError: If the server refuses the request.
        """
        payload = {
            "model": self._model,
            "problem": request.problem,
            "responses": request.responses,
            "finished": request.finished,
        }
        count = len(request.responses)
        values = await self._service.post(
            SCORES_PATH, payload, lambda reply: read_scores(reply, count), request.key
        )
        return Scores(values, None)

    async def close(self) -> None:
        """Closes the connections; requests in flight fail."""
        await self._service.close()


def read_scores(reply: Any, count: int) -> list[float]:
    """Returns the values of a reply: `{"scores": [0.5, ...]}`, with `"scale": "logit"` for logits.

    Args:
        reply: The JSON that a server sent.
        count: Responses that it was asked about.

    Raises:
        BadReply: If it has another form or number of scores, or a probability outside [0, 1].
    """
    scores = reply.get("scores") if isinstance(reply, dict) else None
    if not isinstance(scores, list) or not all(map(is_number, scores)):
        raise BadReply(f"no list of numbers under scores: {shorten(reply)}")
    if len(scores) != count:
        raise BadReply(f"{len(scores)} scores for {count} responses")
    scale = reply.get("scale", "probability")
    if scale == "logit":
        return [sigmoid(score) for score in scores]
    if scale != "probability":
        raise BadReply(f"scale {shorten(scale)} is neither probability nor logit")
    if outside := [score for score in scores if not 0.0 <= score <= 1.0]:
        raise BadReply(
            f'score {outside[0]} is not in [0, 1]; a server of logits adds "scale": "logit"'
        )
    return [float(score) for score in scores]
