"""Blocks from SGLang in this process; its workers are child processes of it."""

import asyncio
import difflib
import importlib.util
import json
import os
import uuid
from collections.abc import Sequence
from typing import Any

import torch

from run_lib.commands import InputError
from search_lib.engines.base import Block, Sampling
from search_lib.engines.sglang_protocol import gather_or_cancel, read_block, sampling_params

OWN_FLAGS = {
    "model_path": "--piref_model",
    "mem_fraction_static": "--piref_gpu_util",
    "tp_size": "--tp_size",
    "dp_size": "--dp_size",
}
"""What --engine_args must not set, because it has a flag."""

CPU_ARGUMENTS = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "dtype": "float32",
    # Else a share of all memory, taken at once.
    "max_total_tokens": 65_536,
}


class SglangEngine:
    """SGLang's scheduler batches the requests and keeps the states of their prefixes.

    It serves the event loop that first calls ``generate``, and no other.

    Args:
        engine: ``sglang.Engine`` with ``skip_tokenizer_init``.
        vocab_size: of the policy.
    """

    def __init__(self, engine: Any, vocab_size: int):
        self._engine = engine
        self._vocab_size = vocab_size
        self._running: set[asyncio.Task] = set()

    @classmethod
    def load(cls, model_path: str, vocab_size: int, arguments: dict[str, Any]) -> "SglangEngine":
        """Starts SGLang with a policy from a folder or the hub.

        Args:
            model_path: folder or hub id.
            vocab_size: of the policy.
            arguments: of SGLang's ``ServerArgs``, see ``server_arguments``. On a machine without
                CUDA those of ``CPU_ARGUMENTS`` come first.
        """
        defaults: dict[str, Any] = {"enable_deterministic_inference": True, "log_level": "error"}
        if not torch.cuda.is_available():
            os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
            defaults |= CPU_ARGUMENTS
        from sglang import Engine

        engine = Engine(**defaults | arguments, model_path=model_path, skip_tokenizer_init=True)
        return cls(engine, vocab_size)

    async def generate(self, prefix_ids: list[int], n: int, sampling: Sampling) -> list[Block]:
        """Samples ``n`` blocks that continue ``prefix_ids``.

        Raises:
            ValueError: if the prefix is empty, or prefix and block exceed the model's context.
            BadReply: if SGLang gives up a request, or cuts it short because its memory holds fewer
                tokens than the request may need.
        """
        if not prefix_ids:
            raise ValueError("cannot generate from an empty prefix")
        task = asyncio.create_task(
            gather_or_cancel(self._sample(prefix_ids, sampling, sample) for sample in range(n))
        )
        self._running.add(task)
        try:
            return await task
        finally:
            self._running.discard(task)

    async def close(self) -> None:
        """Drops the requests in flight and ends SGLang: all child processes of this process."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._engine.shutdown()

    async def _sample(self, prefix_ids: list[int], sampling: Sampling, sample: int) -> Block:
        request_id = uuid.uuid4().hex
        try:
            reply = await self._engine.async_generate(
                input_ids=prefix_ids,
                sampling_params=sampling_params(sampling, sample, self._vocab_size),
                rid=request_id,
            )
        except asyncio.CancelledError:
            self._engine.tokenizer_manager.abort_request(request_id)
            raise
        return read_block(reply, sampling, self._vocab_size)


def check_installed() -> None:
    """Raises InputError, with what to install, where there is no SGLang."""
    if importlib.util.find_spec("sglang") is None:
        raise InputError(
            "--engine sglang needs SGLang: pip install -r requirements-gpu.txt -c constraints.txt"
        )


def server_arguments(settings: Sequence[str]) -> dict[str, Any]:
    """The ``key=value`` of --engine_args as typed arguments of SGLang.

    Args:
        settings: a value is read by the type of its ``ServerArgs`` field, or as JSON.

    Raises:
        InputError: for what is no ``key=value``, an unknown key, a key with a flag of its own, or a
            value of another type.
    """
    if not settings:
        return {}
    import msgspec  # SGLang's own way of typing them
    from sglang.srt.server_args import ServerArgs

    fields = {field.name: field for field in msgspec.structs.fields(ServerArgs)}
    arguments: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals:
            raise InputError(f"--engine_args {setting}: not of the form key=value")
        if name in OWN_FLAGS:
            raise InputError(f"--engine_args {setting}: {name} is set with {OWN_FLAGS[name]}")
        if name not in fields or name == "skip_tokenizer_init":
            near = difflib.get_close_matches(name, fields)
            raise InputError(
                f"--engine_args {setting}: SGLang has no such argument"
                + (f"; near it: {', '.join(near)}" if near else "")
            )
        arguments[name] = typed(setting, text, fields[name].type)
    return arguments


def typed(setting: str, text: str, kind: Any) -> Any:
    """A value of --engine_args in the type of its field; InputError if it has none there."""
    import msgspec

    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        try:
            return msgspec.convert(json.loads(text), kind)
        except (ValueError, msgspec.ValidationError):
            raise InputError(f"--engine_args {setting}: {error}") from error
