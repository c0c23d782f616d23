"""Values from SGLang servers of a value model over HTTP, or from a router in front of them."""

import math
from collections.abc import Sequence
from typing import Any

from classifier_lib.modeling import SUCCESS_CLASS
from classifier_lib.scoring import Scores
from run_lib.text import shorten
from search_lib.engines.base import Block
from search_lib.engines.http_service import BadReply, HttpService
from search_lib.engines.sent_paths import SentPaths, path_hash


class SglangServerScorer:
    """Sends each block with its prefix to a server, whose cache has the prefix.

    A prefix that extends no scored path is a prompt. It is sent ahead and alone, so that the blocks
    that extend it find it in the cache; in one batch each of them would compute it anew.
    All paths of a prompt have its key, by which the service keeps them on one server.

    Args:
        service: Servers started by `classifier_lib.serve`, or SGLang's router with its policy
            `manual`.
        vocab_size: Vocabulary of the value model. An id beyond it would end the server.
    """

    def __init__(self, service: HttpService, vocab_size: int):
        self.service = service
        self.vocab_size = vocab_size
        self._sent = SentPaths()

    async def score(self, prefix_ids: list[int], blocks: Sequence[Block]) -> Scores:
        """Returns P(correct) at the end of each block, and how many tokens the caches saved.

        Raises:
            EngineUnavailable: If the service stays away.
            BadReply: If it repeatedly answers without values.
            ValueError: For an empty prefix or block, ids that are not the value model's, or a path
                that is too long for the server.
        """
        if not prefix_ids or not all(block.token_ids for block in blocks):
            raise ValueError("cannot score an empty prefix or block")
        largest = max(max(ids) for ids in (prefix_ids, *(block.token_ids for block in blocks)))
        if largest >= self.vocab_size:
            raise ValueError(
                f"token id {largest} is beyond the value model's vocabulary of {self.vocab_size}"
            )
        path = path_hash(prefix_ids)
        prompt, ahead = await self._sent.send_ahead(
            path, lambda prompt: self._send_prompt(prefix_ids, prompt)
        )
        scores = await self._post([prefix_ids + block.token_ids for block in blocks], prompt)
        self._sent.add(path, [block.token_ids for block in blocks])
        if scores.tokens_cached is None:
            return scores
        return Scores(scores.values, scores.tokens_cached - ahead)

    async def close(self) -> None:
        """Closes the connections; requests in flight fail."""
        await self.service.close()

    async def _send_prompt(self, ids: list[int], prompt: str) -> int:
        """Puts a prompt into the cache; returns how many tokens had to be computed."""
        scores = await self._post([ids], prompt)
        return len(ids) - (scores.tokens_cached or 0)

    async def _post(self, paths: list[list[int]], prompt: str) -> Scores:
        return await self.service.post(
            "/v1/embeddings",
            {"model": "value-model", "input": paths},
            lambda reply: parse_scores(reply, [len(path) for path in paths]),
            prompt,
        )


def parse_scores(reply: Any, lengths: Sequence[int]) -> Scores:
    """Returns the values of paths, in order, from the server's reply.

    A server that `classifier_lib.serve` did not start doesn't report the number of cached tokens.

    Args:
        reply: The JSON that it sent.
        lengths: Tokens of each path.

    Raises:
        BadReply: Unless it holds class probabilities for each path, with its number from 0, and no
            more cached tokens than the path has.
    """
    count = len(lengths)
    rows = rows_in_order(reply, "embedding", count)
    try:
        are_scores = all(map(_is_score, rows, lengths))
        cached = [int(row[3]) for row in rows if len(row) == 4]
    except (TypeError, ValueError) as error:
        raise BadReply(f"no class probabilities: {shorten(reply)}") from error
    if not are_scores:
        raise BadReply(f"no class probabilities: {shorten(reply)}")
    values = [row[SUCCESS_CLASS] for row in rows]
    return Scores(values, sum(cached) if len(cached) == count else None)


def rows_in_order(reply: Any, name: str, count: int) -> list[Any]:
    """Returns what a reply of several results has of each, in the order of the request.

    Args:
        reply: The JSON that a server sent: `{"data": [{"index": 0, NAME: ...}, ...]}`.
        name: Name of what is wanted of each.
        count: Results that were asked for.

    Raises:
        BadReply: Unless it has this form, with the numbers from 0.
    """
    try:
        places = [item["index"] for item in reply["data"]]
        rows = [item[name] for item in reply["data"]]
    except (KeyError, TypeError) as error:
        raise BadReply(f"values without {name}: {shorten(reply)}") from error
    if len(places) != count:
        raise BadReply(f"values of {len(places)} paths instead of {count}")
    if any(type(place) is not int for place in places) or {*places} != {*range(count)}:
        raise BadReply(f"values with the numbers {shorten(places)} for {count} paths")
    return [rows[places.index(place)] for place in range(count)]


def _is_score(row: list[Any], length: int) -> bool:
    """Returns whether these are class probabilities, maybe with a number of cached tokens."""
    return (
        3 <= len(row) <= 4
        and all(type(number) in (int, float) for number in row)
        and all(0.0 <= probability <= 1.0 for probability in row[:3])  # also refuses NaN
        and math.isclose(sum(row[:3]), 1.0, abs_tol=1e-3)
        and all(0 <= cached <= length for cached in row[3:])
    )
