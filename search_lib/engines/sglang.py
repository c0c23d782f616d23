"""Blocks from SGLang in this process; its workers are child processes of it."""

import asyncio
import importlib.util
import os
import uuid
from collections.abc import Callable
from typing import Any

import torch

from run_lib.hub import loading
from run_lib.ports import free_port
from run_lib.text import one_line
from search_lib.engines.sglang_protocol import (
    UNSCALED_LOGPROBS,
    Result,
    SglangSamples,
    priority_sign,
    read_list,
)

CPU_ARGUMENTS = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "dtype": "float32",
    # Else a share of all memory, taken at once.
    "max_total_tokens": 65_536,
}

PRIORITY_ARGUMENTS = {
    "enable_priority_scheduling": True,
    # Else earlier searches would throw the running blocks of later ones out, again and again.
    "disable_priority_preemption": True,
    # Of requests without one. Those of searches are below.
    "default_priority_value": 0,
}


def import_engine() -> Any:
    """Returns the class `sglang.Engine`; the first import of SGLang in this process is here."""
    if not torch.cuda.is_available():
        os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")  # read by the import
    from sglang import Engine

    return Engine


def sglang_fault() -> str | None:
    """Returns why SGLang can't run here, as it follows its name in a message; None if it can."""
    if importlib.util.find_spec("sglang") is None:
        return "is not installed"
    try:
        import_engine()
    except Exception as error:  # of any package that it imports
        return f"can't be imported ({type(error).__name__}: {one_line(error)})"
    return None


class SglangEngine(SglangSamples):
    """SGLang's scheduler batches the requests and keeps the states of their prefixes.

    It serves the event loop that first calls `generate`, and no other.

    Args:
        engine: `sglang.Engine` with `skip_tokenizer_init`.
        vocab_size: Vocabulary of the policy.
    """

    def __init__(self, engine: Any, vocab_size: int):
        super().__init__(vocab_size, priority_sign(engine.server_args.resolved_dict()))
        self._engine = engine

    @classmethod
    def load(
        cls,
        model_path: str,
        vocab_size: int,
        arguments: dict[str, Any],
        unscaled_logprobs: bool = False,
    ) -> "SglangEngine":
        """Starts SGLang with a policy from a folder or the Hub.

        Args:
            model_path: Folder or Hub id.
            vocab_size: Vocabulary of the policy.
            arguments: Arguments of SGLang's `ServerArgs`, see `server_arguments`. On a machine
                without CUDA those of `CPU_ARGUMENTS` come first.
            unscaled_logprobs: Whether log-probabilities are those of temperature 1, as confidences
                need them.

        Raises:
            ValueError: If SGLang can't be imported or doesn't start; begins with the path.
        """
        defaults: dict[str, Any] = {"enable_deterministic_inference": True, "log_level": "error"}
        if "schedule_policy" not in arguments:  # most orders of the queue know no priorities
            defaults |= PRIORITY_ARGUMENTS
        if not torch.cuda.is_available():
            defaults |= CPU_ARGUMENTS
        if arguments.get("dp_size", 1) == 1:  # of several schedulers each has a port of its own
            defaults["nccl_port"] = free_port()
        arguments = defaults | arguments
        if unscaled_logprobs:
            os.environ[UNSCALED_LOGPROBS] = "1"  # its workers inherit it
        with loading(model_path, "SGLang could not be started"):
            new_engine = import_engine()
            engine = new_engine(**arguments, model_path=model_path, skip_tokenizer_init=True)
        return cls(engine, vocab_size)

    async def close(self) -> None:
        """Drops the requests in flight and ends SGLang: all child processes of this process."""
        await super().close()
        self._engine.shutdown()

    async def _ask(
        self, request: dict[str, Any], parse: Callable[[list[Any]], list[Result]]
    ) -> list[Result]:
        request_ids = [uuid.uuid4().hex for _ in request["input_ids"]]
        try:
            reply = await self._engine.async_generate(**request, rid=request_ids)
        except asyncio.CancelledError:
            for request_id in request_ids:
                self._engine.tokenizer_manager.abort_request(request_id)
            raise
        return parse(read_list(reply, len(request_ids)))
