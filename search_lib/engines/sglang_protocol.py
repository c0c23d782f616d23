"""Requests to SGLang and its replies, the same in process and over HTTP."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from run_lib.seeds import derive_seed
from run_lib.text import shorten
from search_lib.confidence import self_certainty_of_top
from search_lib.engines.base import Block, EngineUnavailable, Expansion, Sampling
from search_lib.engines.http_service import BadReply

Result = TypeVar("Result")

UNSCALED_LOGPROBS = "SGLANG_RETURN_ORIGINAL_LOGPROB"
"""The environment variable by which SGLang gives log-probabilities of temperature 1."""


class SglangSamples(ABC):
    """Makes every sample of an expansion a request of its own: SGLang batches them.

    Args:
        vocab_size: Vocabulary of the policy; other token ids in a reply are a fault.
    """

    def __init__(self, vocab_size: int):
        self._vocab_size = vocab_size
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
        task = asyncio.create_task(
            gather_or_cancel(
                self._sample(expansion, sampling, sample) for sample in range(expansion.n)
            )
        )
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
        blocks = await gather_or_cancel(self._sample(probe, one, 0) for one in samplings)
        plain, other = ((block.confidences or [0.0])[0] for block in blocks)
        # Scaled ones differ by about the temperature's factor, rounding by far less.
        if abs(other - plain) > 0.25 * abs(1 / sampling.temperature - 1) * plain:
            raise EngineUnavailable(
                "SGLang scales its log-probabilities by the temperature; confidences need it "
                f"started with {UNSCALED_LOGPROBS}=1 in its environment"
            )

    @abstractmethod
    async def _sample(self, expansion: Expansion, sampling: Sampling, sample: int) -> Block:
        """Draws one sample of an expansion."""


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


def logprob_arguments(expansion: Expansion) -> dict[str, Any]:
    """Returns what a request says about log-probabilities, beside its `sampling_params`."""
    return {
        "return_logprob": expansion.logprobs or expansion.confidence_top_k > 0,
        "top_logprobs_num": expansion.confidence_top_k,
    }


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
    if ids and stops == [len(ids) - 1] and len(ids) <= limit:
        return Block(ids, "stop", logprobs, confidences, certainties)
    if not stops and len(ids) == limit:
        return Block(ids, "length", logprobs, confidences, certainties)
    raise BadReply(
        f"{len(ids)} tokens that end neither with a stop token nor at {limit}: "
        f"finish reason {shorten(reason)}, token ids {shorten(ids)}"
    )


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
