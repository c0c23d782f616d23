"""Scorers by the name that `--scorer` gives them."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from classifier_lib.loading import load_value_config, load_value_model
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.scoring import ValueScorer
from run_lib.commands import InputError
from search_lib.engines.base import EngineUnavailable
from search_lib.engines.http_service import HttpService, get_json
from search_lib.scorers.base import Scorer
from search_lib.scorers.flags import ScorerFlags
from search_lib.scorers.hf import HfScorer
from search_lib.scorers.sglang import SglangScorer
from search_lib.scorers.sglang_server import SglangServerScorer
from search_lib.scorers.value_server import ValueServer


@dataclass(frozen=True)
class Place:
    """Where a scorer runs.

    Attributes:
        device: Device of an hf scorer.
        attention_impl: transformers' `attn_implementation` of an hf scorer.
        log_path: Output of the server that the sglang scorer starts.
        executor: The thread that runs an hf scorer, where it shares one.
        api_key: Key of the servers of sglang_server.
    """

    device: torch.device
    attention_impl: str
    log_path: Path
    executor: ThreadPoolExecutor | None = None
    api_key: str | None = field(default=None, repr=False)


def open_scorer(flags: ScorerFlags, model: str, place: Place) -> Scorer | None:
    """Opens the scorer of a value model; returns None where nothing is to be scored.

    Args:
        flags: Which scorer, and its settings; checked.
        model: Folder or Hub id of the value model.
        place: Where it runs.

    Raises:
        ValueError: If there is no such model, its files are damaged or no server starts with it;
            begins with its name.
        InputError: If the servers don't serve it.
    """
    return SCORERS[flags.scorer](flags, model, place) if flags.has_values else None


def _open_hf(flags: ScorerFlags, model: str, place: Place) -> Scorer:
    classifier = load_value_model(model, place.attention_impl, device=place.device)
    # A CPU is fastest on batches that fit its caches.
    max_batch_tokens = 16_384 if place.device.type == "cpu" else 65_536
    values = ValueScorer(classifier, max_batch_tokens, flags.value_cache_tokens, flags.token_values)
    return HfScorer(values, place.executor)


def _open_sglang(flags: ScorerFlags, model: str, place: Place) -> Scorer:
    vocab_size = load_value_config(model).vocab_size
    server = ValueServer(model, place.log_path)
    server.wait_until_ready()
    return SglangScorer(server, vocab_size)


def _open_sglang_server(flags: ScorerFlags, model: str, place: Place) -> Scorer:
    vocab_size = load_value_config(model).vocab_size
    service = HttpService(flags.scorer_url, api_key=place.api_key)
    for url in service.urls:
        check_served_model(url, model, place.api_key)
    return SglangServerScorer(service, vocab_size)


SCORERS = {"hf": _open_hf, "sglang": _open_sglang, "sglang_server": _open_sglang_server}
"""How each scorer is opened."""


def check_served_model(url: str, model: str, api_key: str | None = None) -> None:
    """Raises InputError unless a server, or the servers of a router, serve this value model."""
    try:
        served = get_json(f"{url}/get_model_info", api_key)
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
            f"--scorer_url {url} serves {served['model_path']}, not {model}; "
            "if they are the same, name it as the server does (SGLang's --served-model-name)"
        )
