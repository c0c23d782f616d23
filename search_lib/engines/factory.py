"""Which engine generates: the flags that the command lines share, and what they open."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from run_lib.commands import InputError
from run_lib.hub import load_failure
from search_lib.engines.base import Engine, EngineUnavailable
from search_lib.engines.hf import HfEngine
from search_lib.engines.sglang import SglangEngine, check_installed, server_arguments
from search_lib.engines.sglang_server import SglangServerEngine
from search_lib.http_service import check_url

EngineName = Literal["hf", "sglang", "sglang_server"]


@dataclass(frozen=True)
class EngineSettings:
    """How blocks are generated, whatever the model.

    Args:
        engine: hf runs transformers in this process, sglang runs SGLang in it, sglang_server asks
            SGLang servers.
        attention_impl: transformers' ``attn_implementation``, for hf.
        urls: of sglang_server: one server or router, or several servers.
        patience: of sglang_server: seconds until a service that stays away is given up.
        gpu_util: of sglang: share of GPU memory for weights and states.
        tp_size: of sglang: GPUs that share one copy of the policy.
        dp_size: of sglang: copies of the policy.
        engine_args: of sglang: ``key=value`` for its ``ServerArgs``.
    """

    engine: EngineName = "hf"
    attention_impl: str = "flash_attention_2"
    urls: tuple[str, ...] = ("http://127.0.0.1:30000",)
    patience: float = 600.0
    gpu_util: float = 0.75
    tp_size: int = 1
    dp_size: int = 1
    engine_args: tuple[str, ...] = ()


def check_engine(settings: EngineSettings) -> None:
    """Raises InputError for an engine that cannot be opened, before anything is loaded."""
    if settings.engine == "sglang":
        check_installed()
        if not 0 < settings.gpu_util < 1:
            raise InputError(f"--piref_gpu_util must be in (0, 1), got {settings.gpu_util}")
        for flag, value in (("tp_size", settings.tp_size), ("dp_size", settings.dp_size)):
            if value < 1:
                raise InputError(f"--{flag} must be at least 1, got {value}")
        server_arguments(settings.engine_args)
    elif settings.engine_args:
        raise InputError(f"--engine_args are of --engine sglang, not of {settings.engine}")
    if settings.engine == "sglang_server":
        for url in settings.urls:
            try:
                check_url(url)
            except ValueError as error:
                raise InputError(f"--sglang_url {error}") from error
        if settings.patience < 0:
            raise InputError(f"--sglang_patience must not be negative, got {settings.patience}")


def open_engine(
    settings: EngineSettings,
    model: str,
    flag: str,
    device: torch.device,
    executor: ThreadPoolExecutor | None = None,
) -> Engine:
    """Opens the engine of a policy.

    Args:
        settings: of the engine.
        model: folder or hub id of the policy.
        flag: what named it, for the error.
        device: of the hf engine.
        executor: the thread that runs an hf engine, where it shares one.

    Raises:
        InputError: if there is no such model or its files are damaged, or if no server listens.
    """
    check_engine(settings)
    try:
        if settings.engine == "hf":
            return HfEngine.load(model, settings.attention_impl, device, executor)
        vocab_size = AutoConfig.from_pretrained(model).vocab_size
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{flag} {model}: no model could be loaded: {load_failure(model, error)}"
        ) from error
    if settings.engine == "sglang":
        arguments = server_arguments(settings.engine_args) | {
            "mem_fraction_static": settings.gpu_util,
            "tp_size": settings.tp_size,
            "dp_size": settings.dp_size,
        }
        return SglangEngine.load(model, vocab_size, arguments)
    try:
        return SglangServerEngine.open(settings.urls, model, vocab_size, settings.patience)
    except EngineUnavailable as error:
        raise InputError(
            f"--engine sglang_server: {error}; scripts/serve_policy.sh starts one, --sglang_url "
            "says where it is"
        ) from error
