"""Requests to SGLang and its replies, the same in process and over HTTP."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

from run_lib.seeds import derive_seed
from run_lib.text import shorten
from search_lib.confidence import self_certainty_of_top
from search_lib.engines.base import Block, EngineUnavailable, Expansion, Sampling
from search_lib.engines.http_service import MAX_BODY, BadReply
from search_lib.engines.sent_paths import SentPaths, path_hash
from search_lib.urgency import Urgency, current_urgency

Result = TypeVar("Result")

UNSCALED_LOGPROBS = "SGLANG_RETURN_ORIGINAL_LOGPROB"
"""The environment variable by which SGLang gives log-probabilities of temperature 1."""


ORDERS = 2**30
"""Searches whose places are told apart: routers pass priorities of 32 bits on."""


class SglangSamples(ABC):
    """Asks SGLang for all samples of an expansion in one request.

    SGLang's own `n` gives every sample the same seed, and so the same tokens; hence a list of
    parameters, one for each. It computes a new prefix once for its `n` and for every one of a list,
    so that new prefixes are sent ahead here.

    Args:
        vocab_size: Vocabulary of the policy; other token ids in a reply are a fault.
        priority_sign: See `priority_sign`.
        is_batched: Whether what takes the requests knows some of several samples.
    """

    def __init__(self, vocab_size: int, priority_sign: int, is_batched: bool = True):
        self._vocab_size = vocab_size
        self._priority_sign = priority_sign
        self._is_batched = is_batched
        self._sent = SentPaths()
        self._running: set[asyncio.Task] = set()
        self._unscaled: asyncio.Task[None] | None = None

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        """Samples the blocks that continue a path.

        When it is cancelled, SGLang drops the requests.

        Raises:
            ValueError: If the prefix is empty, or prefix and block exceed the model's context.
            BadReply: If SGLang gives up a request, or its replies stay unusable: it cuts a block
                short where its memory holds fewer tokens than the request may need.
            EngineUnavailable: If the servers stay away, or scale log-probabilities by the
                temperature where confidences are asked for: these are of temperature 1.
        """
        if not expansion.prefix_ids:
            raise ValueError("cannot generate from an empty prefix")
        if expansion.confidence_top_k and sampling.temperature not in (0.0, 1.0):
            self._unscaled = self._unscaled or asyncio.create_task(
                self._check_unscaled(expansion.prefix_ids, sampling)
            )
            await asyncio.shield(self._unscaled)
        task = asyncio.create_task(self._draw(expansion, sampling))
        self._running.add(task)
        try:
            return await task
        finally:
            self._running.discard(task)

    async def close(self) -> None:
        """Drops the requests in flight."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _check_unscaled(self, prefix_ids: list[int], sampling: Sampling) -> None:
        """Asks for one token at two temperatures: unscaled, its confidence is that of both."""
        probe = Expansion(0, prefix_ids, 1, 1, (), 0, confidence_top_k=2)
        samplings = Sampling(1.0, 1.0), replace(sampling, top_p=1.0)
        found = await gather_or_cancel(self._sample(probe, one, [0]) for one in samplings)
        plain, other = ((block.confidences or [0.0])[0] for (block,) in found)
        # Scaled ones differ by about the temperature's factor, rounding by far less.
        if abs(other - plain) > 0.25 * abs(1 / sampling.temperature - 1) * plain:
            raise EngineUnavailable(
                "SGLang scales its log-probabilities by the temperature; confidences need it "
                f"started with {UNSCALED_LOGPROBS}=1 in its environment"
            )

    async def _draw(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        path, computed = path_hash(expansion.prefix_ids), 0
        if expansion.n > 1:
            _, computed = await self._sent.send_ahead(
                path, lambda _: self._send_prefix(expansion, sampling)
            )
        size = samples_per_request(expansion) if self._is_batched else 1
        samples = range(expansion.n)
        found = await gather_or_cancel(
            self._sample(expansion, sampling, samples[start : start + size])
            for start in samples[::size]
        )
        blocks = list(chain.from_iterable(found))
        self._sent.add(path, [block.token_ids for block in blocks])
        return charge(blocks, computed)

    async def _send_prefix(self, expansion: Expansion, sampling: Sampling) -> int:
        """Has the prefix computed, and nothing generated; returns how many tokens that took."""
        length = len(expansion.prefix_ids)
        request = self._request(replace(expansion, max_new_tokens=0), sampling, [0])
        (cached,) = await self._ask(
            request | {"return_logprob": False},
            lambda replies: [read_cached(reply.get("meta_info"), length) for reply in replies],
        )
        return length - (cached or 0)

    async def _sample(
        self, expansion: Expansion, sampling: Sampling, samples: Sequence[int]
    ) -> list[Block]:
        """Draws some samples in one request, and those again, each alone, whose reply is bad."""
        is_alone = len(samples) == 1

        def read(reply: Any) -> Block | None:
            try:
                return read_block(reply, expansion, self._vocab_size)
            except BadReply:
                if is_alone:
                    raise
                return None

        found = await self._ask(
            self._request(expansion, sampling, samples), lambda replies: list(map(read, replies))
        )
        again = [sample for sample, one in zip(samples, found, strict=True) if one is None]
        drawn = chain.from_iterable(
            await gather_or_cancel(self._sample(expansion, sampling, [sample]) for sample in again)
        )
        return [next(drawn) if block is None else block for block in found]

    @abstractmethod
    async def _ask(
        self, request: dict[str, Any], parse: Callable[[list[Any]], list[Result]]
    ) -> list[Result]:
        """Sends a request; cancelled, it has SGLang drop it.

        Args:
            request: Fields of SGLang's `GenerateReqInput`, with a list of samples.
            parse: Turns the replies to these, JSON objects, into results; raises `BadReply`.
        """

    def _request(
        self, expansion: Expansion, sampling: Sampling, samples: Sequence[int]
    ) -> dict[str, Any]:
        request: dict[str, Any] = {
            "input_ids": [expansion.prefix_ids] * len(samples),
            "sampling_params": [
                sampling_params(expansion, sampling, sample, self._vocab_size) for sample in samples
            ],
            "return_logprob": expansion.logprobs or expansion.confidence_top_k > 0,
            "top_logprobs_num": expansion.confidence_top_k,
        }
        if self._priority_sign:
            request["priority"] = self._priority_sign * place_of(current_urgency())
        return request


def priority_sign(server: Mapping[str, Any]) -> int:
    """Returns what turns places in a queue into SGLang's priorities, 0 where it goes by none.

    Args:
        server: Its arguments, by the names of `ServerArgs`.
    """
    if not server.get("enable_priority_scheduling"):
        return 0
    return 1 if server.get("schedule_low_priority_values_first") else -1


def place_of(urgency: Urgency) -> int:
    """Returns the place of a request in a queue, from 0, below 2^31."""
    is_guessed, order = urgency.rank
    return min(order, ORDERS - 1) + ORDERS * is_guessed


def samples_per_request(expansion: Expansion) -> int:
    """Returns how many samples surely have room in one reply over HTTP."""
    tops = expansion.confidence_top_k
    has_logprobs = expansion.logprobs or tops > 0
    # JSON of a token id, and of (log-probability, token, text) for it and the likeliest ones.
    bytes_per_token = 12 + 48 * (has_logprobs + tops)
    return max(1, MAX_BODY // (2 * bytes_per_token * expansion.max_new_tokens))


def sampling_params(
    expansion: Expansion, sampling: Sampling, sample: int, vocab_size: int
) -> dict[str, Any]:
    """Returns SGLang's parameters for one sample, all of them, so that no default leaks in.

    The seed counts only where the engine runs with `enable_deterministic_inference`.

    Args:
        expansion: The request.
        sampling: How its tokens are drawn.
        sample: Number of the sample, from 0.
        vocab_size: Vocabulary of the policy.
    """
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # All tokens, and not -1: the draw numbers the tokens by their rank if any request of the
        # batch has a top-k or top-p, else by their id. This way they always go by rank.
        "top_k": vocab_size,
        "min_p": 0.0,
        "max_new_tokens": expansion.max_new_tokens,
        # Without stop tokens of ours the model's own must not end the block. With some, SGLang
        # stops at the model's as well; read_block refuses a block that ends so.
        "stop_token_ids": list(expansion.stop_token_ids),
        "ignore_eos": not expansion.stop_token_ids,
        "sampling_seed": derive_seed(expansion.seed, sample),
    }


def read_list(reply: Any, count: int) -> list[Any]:
    """Returns the replies to the samples of one request.

    Raises:
        BadReply: If they are not as many JSON objects.
    """
    if not isinstance(reply, list) or len(reply) != count:
        raise BadReply(f"no list of {count} blocks: {shorten(reply)}")
    if not all(isinstance(one, dict) for one in reply):
        raise BadReply(f"no block: {shorten(reply)}")
    return reply


def charge(blocks: list[Block], computed: int) -> list[Block]:
    """Returns blocks whose prefix was sent ahead, as if the first of them had had it computed.

    Args:
        blocks: The samples of an expansion.
        computed: Tokens of the prefix that were computed ahead.
    """
    charged = []
    for block in blocks:
        cached = block.prefix_cached
        if cached is not None:
            block = replace(block, prefix_cached=max(0, cached - computed))
            computed = max(0, computed - cached)
        charged.append(block)
    return charged


def read_block(reply: Any, expansion: Expansion, vocab_size: int) -> Block:
    """Returns the block in SGLang's reply to one sample.

    Raises:
        BadReply: If it is no block of this request: ids missing, too few or too many of them, not
            integers, or not of the vocabulary; aborted; ended by some other token.
    """
    if not isinstance(reply, dict):
        raise BadReply(f"no block: {shorten(reply)}")
    meta = reply.get("meta_info")
    reason = meta.get("finish_reason") if isinstance(meta, dict) else None
    if isinstance(reason, dict) and reason.get("type") == "abort":
        raise BadReply(f"aborted: {shorten(reason.get('message'))}")
    ids = reply.get("output_ids")
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise BadReply(f"no list of token ids: {shorten(reply)}")
    if bad := [token for token in ids if not 0 <= token < vocab_size]:
        raise BadReply(f"token {bad[0]} in a vocabulary of {vocab_size}: {shorten(reply)}")
    limit = expansion.max_new_tokens
    stop_tokens = frozenset(expansion.stop_token_ids)
    stops = [place for place, token in enumerate(ids) if token in stop_tokens]
    logprobs = read_logprobs(meta, ids) if expansion.logprobs else None
    confidences, certainties = read_confidences(meta, ids, expansion, vocab_size)
    cached = read_cached(meta, len(expansion.prefix_ids))
    if ids and stops == [len(ids) - 1] and len(ids) <= limit:
        return Block(ids, "stop", logprobs, confidences, certainties, cached)
    if not stops and len(ids) == limit:
        return Block(ids, "length", logprobs, confidences, certainties, cached)
    raise BadReply(
        f"{len(ids)} tokens that end neither with a stop token nor at {limit}: "
        f"finish reason {shorten(reason)}, token ids {shorten(ids)}"
    )


def read_cached(meta: Any, prefix_length: int) -> int | None:
    """Returns how many tokens of the prefix came from SGLang's cache; None where it doesn't say."""
    cached = meta.get("cached_tokens") if isinstance(meta, dict) else None
    return cached if type(cached) is int and 0 <= cached <= prefix_length else None


def read_logprobs(meta: Any, ids: list[int]) -> list[float]:
    """Returns the log-probabilities of the tokens in the `meta_info` of SGLang's reply.

    Raises:
        BadReply: If they are not those of these tokens, or not log-probabilities.
    """
    entries = meta.get("output_token_logprobs") if isinstance(meta, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(entry, list | tuple) and len(entry) >= 2 for entry in entries
    ):
        raise BadReply(f"no log-probabilities: {shorten(entries)}")
    numbers, tokens = [entry[0] for entry in entries], [entry[1] for entry in entries]
    if tokens != ids:
        raise BadReply(f"log-probabilities of other tokens: {shorten(entries)}")
    if not all(map(_is_logprob, numbers)):
        raise BadReply(f"log-probabilities out of range: {shorten(numbers)}")
    return [float(number) for number in numbers]


def read_confidences(
    meta: Any, ids: list[int], expansion: Expansion, vocab_size: int
) -> tuple[list[float] | None, list[float] | None]:
    """Returns confidences and self-certainties of the tokens in the `meta_info` of SGLang's reply.

    They are (None, None) if they were not asked for.

    Raises:
        BadReply: If the log-probabilities of the most likely tokens are not there for each token.
    """
    if not expansion.confidence_top_k:
        return None, None
    count = min(expansion.confidence_top_k, vocab_size)
    entries = meta.get("output_top_logprobs") if isinstance(meta, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(top, list | tuple)
        and len(top) == count
        and all(isinstance(entry, list | tuple) and entry for entry in top)
        for top in entries
    ):
        raise BadReply(f"no log-probabilities of the {count} likeliest tokens: {shorten(entries)}")
    if len(entries) != len(ids):
        raise BadReply(f"log-probabilities of {len(entries)} tokens, not of {len(ids)}")
    tops = [[entry[0] for entry in top] for top in entries]
    if not all(_is_logprob(number) for top in tops for number in top):
        raise BadReply(f"log-probabilities of likeliest tokens out of range: {shorten(tops)}")
    confidences = [-sum(top) / count for top in tops]
    return confidences, [self_certainty_of_top(top, vocab_size) for top in tops]


def _is_logprob(number: Any) -> bool:
    return isinstance(number, int | float) and -math.inf < number <= 0


async def gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Returns all results; when one fails or the caller is cancelled, the others are cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
