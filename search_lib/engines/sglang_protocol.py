"""What SGLang is asked for and what it answers, the same in process and over HTTP."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Sampling
from search_lib.http_service import BadReply, shorten

Result = TypeVar("Result")


def sampling_params(sampling: Sampling, sample: int, vocab_size: int) -> dict[str, Any]:
    """SGLang's parameters for one sample of a request, all of them, so that no default leaks in.

    The seed counts only where the engine runs with ``enable_deterministic_inference``.

    Args:
        sampling: of the request.
        sample: which of its samples, from 0.
        vocab_size: of the policy.
    """
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # All tokens, and not -1: the draw numbers the tokens by their rank if any request of the
        # batch has a top-k or top-p, else by their id. This way they always go by rank.
        "top_k": vocab_size,
        "min_p": 0.0,
        "max_new_tokens": sampling.max_new_tokens,
        # Without stop tokens of ours the model's own must not end the block. With some, SGLang
        # stops at the model's as well; read_block refuses a block that ends so.
        "stop_token_ids": list(sampling.stop_token_ids),
        "ignore_eos": not sampling.stop_token_ids,
        "sampling_seed": derive_seed(sampling.seed, sample),
    }


def read_block(reply: Any, sampling: Sampling, vocab_size: int) -> Block:
    """The block in SGLang's reply to one sample.

    Raises:
        BadReply: if it is no block of this request: ids missing, too few or too many of them, not
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
    stops = [place for place, token in enumerate(ids) if token in sampling.stop_token_ids]
    if ids and stops == [len(ids) - 1] and len(ids) <= sampling.max_new_tokens:
        return Block(ids, "stop")
    if not stops and len(ids) == sampling.max_new_tokens:
        return Block(ids, "length")
    raise BadReply(
        f"{len(ids)} tokens that end neither with a stop token nor at {sampling.max_new_tokens}: "
        f"finish reason {shorten(reason)}, token ids {shorten(ids)}"
    )


async def gather_or_cancel(coroutines: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """All results; when one fails or the caller is cancelled, the others are cancelled, too."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
