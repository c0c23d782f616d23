"""Which scorer values blocks: the flags that the command lines share, and what they open."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from classifier_lib.loading import load_value_config, load_value_model
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.scoring import ValueScorer
from classifier_lib.serve import check_sglang
from run_lib.commands import InputError
from search_lib.engines.base import EngineUnavailable
from search_lib.http_service import HttpService, get_json
from search_lib.scorers.base import Scorer
from search_lib.scorers.hf import HfScorer
from search_lib.scorers.sglang import SglangScorer
from search_lib.scorers.sglang_server import SglangServerScorer
from search_lib.scorers.value_server import ValueServer

ScorerName = Literal["hf", "sglang", "sglang_server"]


@dataclass(frozen=True)
class ScorerSettings:
    """How blocks are valued, whatever the model.

    Args:
        scorer: hf runs transformers in this process, sglang an SGLang server of this run's own;
            sglang_server uses one that runs.
        attention_impl: transformers' ``attn_implementation``, for hf.
        cache_tokens: whose states are kept, for hf.
        urls: of the servers or the router, for sglang_server.
    """

    scorer: ScorerName = "hf"
    attention_impl: str = "flash_attention_2"
    cache_tokens: int = 262_144
    urls: tuple[str, ...] = ()


def check_scorer(settings: ScorerSettings) -> None:
    """Raises InputError for a scorer that cannot be opened, before anything is loaded."""
    if settings.scorer == "sglang":
        check_sglang("--scorer sglang")
    if settings.scorer == "sglang_server" and not settings.urls:
        raise InputError(
            "--scorer sglang_server needs --scorer_url, where scripts/serve_value_model.sh serves"
        )
    if settings.scorer != "sglang_server" and settings.urls:
        raise InputError(f"--scorer_url is for --scorer sglang_server, not {settings.scorer}")
    try:
        HttpService(settings.urls)
    except ValueError as error:
        raise InputError(f"--scorer_url {error}") from error


def max_path_length(settings: ScorerSettings, context: int) -> int:
    """Tokens of a path at most, for a value model with a context of so many.

    SGLang keeps room for one more token, even where none is generated.
    """
    return context if settings.scorer == "hf" else context - 1


def open_scorer(
    settings: ScorerSettings,
    model: str,
    flag: str,
    device: torch.device,
    log_path: Path,
    executor: ThreadPoolExecutor | None = None,
) -> Scorer:
    """Opens the scorer of a value model.

    Args:
        settings: of the scorer.
        model: folder or hub id of the value model.
        flag: what named it, for the error.
        device: of the hf scorer.
        log_path: what the server of the sglang scorer says goes here.
        executor: the thread that runs an hf scorer, where it shares one.

    Raises:
        InputError: if there is no such model, its files are damaged, or the servers don't serve it.
    """
    check_scorer(settings)
    if settings.scorer == "hf":
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        try:
            classifier = load_value_model(model, settings.attention_impl, dtype, device)
        except ValueError as error:
            raise InputError(f"{flag} {error}") from error
        # A CPU is fastest on batches that fit its caches.
        max_batch_tokens = 16_384 if device.type == "cpu" else 65_536
        return HfScorer(ValueScorer(classifier, max_batch_tokens, settings.cache_tokens), executor)
    try:
        vocab_size = load_value_config(model).vocab_size
    except ValueError as error:
        raise InputError(f"{flag} {error}") from error
    if settings.scorer == "sglang":
        server = ValueServer(model, flag, log_path)
        server.wait_until_ready()
        return SglangScorer(server, vocab_size)
    service = HttpService(settings.urls)
    for url in service.urls:
        check_served_model(url, model, flag)
    return SglangServerScorer(service, vocab_size)


def check_served_model(url: str, model: str, flag: str) -> None:
    """Raises InputError unless a server, or the servers of a router, serve this value model."""
    try:
        served = get_json(f"{url}/get_model_info")
    except EngineUnavailable as error:
        raise InputError(f"--scorer_url {error}") from error
    if not isinstance(served, dict) or "model_path" not in served:
        raise InputError(f"--scorer_url {url} is no SGLang server, nor its router")
    architectures = served.get("architectures") or []
    if Qwen2ForClassifier.__name__ not in architectures:
        raise InputError(
            f"--scorer_url {url} serves {served['model_path']} ({', '.join(architectures)}), which "
            "is no value model; scripts/serve_value_model.sh serves one"
        )
    names = {served["model_path"], served.get("served_model_name")}
    if model not in names and os.path.realpath(model) not in {
        os.path.realpath(name) for name in names if name
    }:
        raise InputError(
            f"--scorer_url {url} serves {served['model_path']}, not the model of {flag} {model}; "
            "if they are the same, name it as the server does (SGLang's --served-model-name)"
        )
