"""Engines by the name that `--engine` gives them."""

import torch

from run_lib.commands import InputError
from run_lib.hub import load_config
from search_lib.batching import ModelThread
from search_lib.engines.base import Engine, EngineUnavailable
from search_lib.engines.choice import choose_engine
from search_lib.engines.confident import ConfidentEngine
from search_lib.engines.flags import EngineFlags
from search_lib.engines.hf import HfEngine
from search_lib.engines.sglang import SglangEngine
from search_lib.engines.sglang_arguments import server_arguments
from search_lib.engines.sglang_server import SglangServerEngine


def open_engine(
    flags: EngineFlags,
    model: str,
    device: torch.device,
    thread: ModelThread | None = None,
    confidences: bool = False,
) -> Engine:
    """Opens the engine of a policy.

    Args:
        flags: Which engine, and its settings; checked.
        model: Folder or Hub id of the policy.
        device: Device of an hf engine.
        thread: The thread that runs an hf engine, where it shares one.
        confidences: Whether all blocks shall have confidences.

    Raises:
        ValueError: If there is no such model or its files are damaged; begins with its name.
        InputError: If no server listens.
    """
    if confidences:
        return ConfidentEngine(_open_plain(flags, model, device, thread, True))
    return _open_plain(flags, model, device, thread)


def _open_plain(
    flags: EngineFlags,
    model: str,
    device: torch.device,
    thread: ModelThread | None,
    unscaled_logprobs: bool = False,
) -> Engine:
    engine, _ = choose_engine(flags)
    if engine == "hf":
        return HfEngine.load(model, flags.attention_impl, device, thread)
    vocab_size = load_config(model).vocab_size
    if engine == "sglang":
        arguments = server_arguments(flags.engine_args) | {
            "mem_fraction_static": flags.gpu_util,
            "tp_size": flags.tp_size,
            "dp_size": flags.dp_size,
        }
        return SglangEngine.load(model, vocab_size, arguments, unscaled_logprobs)
    try:
        return SglangServerEngine.open(
            flags.urls, model, vocab_size, flags.sglang_patience, flags.key
        )
    except EngineUnavailable as error:
        raise InputError(
            f"--engine sglang_server: {error}; scripts/serve_policy.sh starts one, --sglang_url "
            "says where it is"
        ) from error
