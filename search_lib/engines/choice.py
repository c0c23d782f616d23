"""Which engine the flags of a run mean on this machine."""

from dataclasses import replace
from typing import TypeVar

import torch

from run_lib.commands import GPU_REQUIREMENTS, InputError
from search_lib.engines.flags import EngineFlags, EngineName
from search_lib.engines.sglang import sglang_fault
from search_lib.engines.sglang_arguments import server_arguments

Flags = TypeVar("Flags", bound=EngineFlags)


def choose_engine(flags: EngineFlags) -> tuple[EngineName, str]:
    """Returns the engine, never "auto", and the reason for it.

    Raises:
        InputError: If the flags mean two.
    """
    if flags.use_sglang_server:
        if flags.engine not in ("auto", "sglang_server"):
            raise InputError(f"--use_sglang_server is not of --engine {flags.engine}")
        return "sglang_server", "--use_sglang_server"
    if flags.engine != "auto":
        return flags.engine, f"--engine {flags.engine}"
    if flags.sglang_url:
        return "sglang_server", "--engine auto with --sglang_url"
    if flags.engine_args or flags.tp_size > 1 or flags.dp_size > 1:
        return "sglang", "--engine auto with flags of SGLang"
    if not torch.cuda.is_available():
        return "hf", "--engine auto: there is no CUDA device"
    if fault := sglang_fault():
        return "hf", f"--engine auto: SGLang {fault}"
    return "sglang", "--engine auto: there are CUDA and SGLang"


def settle_engine(flags: Flags) -> Flags:
    """Prints which engine the flags of a run mean and why, names it in them, and checks them.

    A run is recorded with the engine that made it: on another machine auto may mean another one.

    Raises:
        InputError: If the engine can't be opened.
    """
    engine, reason = choose_engine(flags)
    print(f"engine: {engine} ({reason})", flush=True)
    flags = replace(flags, engine=engine, use_sglang_server=False)
    flags.check()
    if engine == "sglang":
        if fault := sglang_fault():
            raise InputError(f"--engine sglang needs SGLang, which {fault}: {GPU_REQUIREMENTS}")
        server_arguments(flags.engine_args)  # the names and types are SGLang's own
    return flags
