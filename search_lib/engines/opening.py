"""Which engine generates: the flags that the command lines share, and what they open."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from safetensors import SafetensorError

from classifier_lib.commands import InputError
from classifier_lib.hub import load_failure
from search_lib.engines.base import Engine
from search_lib.engines.hf import HfEngine

EngineName = Literal["hf", "sglang", "sglang_server"]


@dataclass(frozen=True)
class EngineSettings:
    """How blocks are generated, whatever the model.

    Args:
        engine: hf runs transformers in this process. The two others do not work yet.
        attention_impl: transformers' ``attn_implementation``, for hf.
    """

    engine: EngineName = "hf"
    attention_impl: str = "flash_attention_2"


def check_engine(settings: EngineSettings) -> None:
    """Raises InputError for an engine that cannot be opened, before anything is loaded."""
    if settings.engine != "hf":
        raise InputError(
            f"--engine {settings.engine} does not work yet: this version generates with "
            "--engine hf only"
        )


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
        InputError: if there is no such model or its files are damaged.
    """
    check_engine(settings)
    try:
        return HfEngine.load(model, settings.attention_impl, device, executor)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{flag} {model}: no model could be loaded: {load_failure(model, error)}"
        ) from error
