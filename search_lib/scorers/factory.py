"""Scorers by the name that `--scorer` gives them: what is checked of each, and how it is opened."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from classifier_lib.loading import load_value_config, load_value_model
from classifier_lib.modeling import VALUE_MODELS
from classifier_lib.scoring import ValueScorer, batch_tokens
from run_lib.commands import InputError
from run_lib.hub import load_tokenizer
from search_lib.batching import ModelThread
from search_lib.engines.base import EngineUnavailable
from search_lib.engines.http_service import CONNECT_SECONDS, HttpService, get_json
from search_lib.scorers.base import Scorer
from search_lib.scorers.flags import ScorerFlags
from search_lib.scorers.hf import HfScorer
from search_lib.scorers.http_scorer import HttpScorer
from search_lib.scorers.inputs import ConversationReader, TextReader
from search_lib.scorers.pooling_servers import (
    CrossEncoderScorer,
    PoolingServerScorer,
    read_class_probabilities,
    read_rewards,
    read_step_rows,
)
from search_lib.scorers.registry import REWARD_MODEL, SCORERS, STEP_PRM
from search_lib.scorers.sglang import SglangScorer
from search_lib.scorers.sglang_server import SglangServerScorer
from search_lib.scorers.step_layouts import AGGREGATIONS, StepReader, find_layout
from search_lib.scorers.text_model_scorer import TextModelScorer
from search_lib.scorers.text_models import (
    RewardModel,
    StepModel,
    load_reward_config,
    load_reward_model,
    load_step_config,
    load_step_prm,
)
from search_lib.scorers.texts import TextScorer
from search_lib.scorers.value_server import ValueServer


@dataclass(frozen=True)
class Place:
    """Where a scorer runs.

    Attributes:
        device: Device of a scorer in this process.
        attention_impl: transformers' `attn_implementation` of a scorer in this process.
        log_path: Output of the server that the sglang scorer starts.
        thread: The thread that runs a scorer in this process, where it shares one.
        api_key: Key of the servers at `--scorer_url`.
    """

    device: torch.device
    attention_impl: str
    log_path: Path
    thread: ModelThread | None = None
    api_key: str | None = field(default=None, repr=False)

    @property
    def max_batch_tokens(self) -> int:
        """Tokens of one forward pass."""
        return batch_tokens(self.device)


def open_scorer(flags: ScorerFlags, model: str, place: Place) -> Scorer | TextScorer | None:
    """Opens a scorer; returns None where nothing is to be scored.

    Args:
        flags: Which scorer, and its settings; checked.
        model: Folder or Hub id of the scorer's model; of `http` any name.
        place: Where it runs.

    Returns:
        A `TextScorer` for a scorer that reads text, else a `Scorer`.

    Raises:
        ValueError: If there is no such model, its files are damaged or no server starts with it;
            begins with its name.
        InputError: If the servers don't serve it.
    """
    if not flags.has_values:
        return None
    opener = SCORERS[flags.scorer].opener or OPENERS[flags.scorer]
    return opener(flags, model, place)


def check_text_scorer(flags: ScorerFlags, model: str) -> int | None:
    """Checks what can be checked of a scorer of texts before anything is loaded.

    Returns:
        Most tokens that it reads, of its own tokenizer; None if that is not known.

    Raises:
        ValueError: If its files are those of another kind of model; begins with its name.
    """
    reader = READERS.get(SCORERS[flags.scorer].family)
    return reader(flags, model).context if reader else None


def step_reader(flags: ScorerFlags, model: str) -> StepReader:
    """Returns how a step PRM reads; raises ValueError, beginning with its name, if it is none."""
    config = load_step_config(model)
    layout = find_layout(model, config.architectures or [], flags.prm_layout)
    return StepReader(layout, load_tokenizer(model), config.max_position_embeddings)


def conversation_reader(flags: ScorerFlags, model: str) -> ConversationReader:
    """Returns how a reward model reads; raises ValueError as `step_reader` does."""
    config = load_reward_config(model)
    return ConversationReader(load_tokenizer(model), config.max_position_embeddings)


READERS: dict[str, Callable[[ScorerFlags, str], TextReader]] = {
    STEP_PRM: step_reader,
    REWARD_MODEL: conversation_reader,
}
"""How models read texts whose token ids are made here, by the scorer's family."""


def _open_hf(flags: ScorerFlags, model: str, place: Place) -> Scorer:
    classifier = load_value_model(model, place.attention_impl, device=place.device)
    values = ValueScorer(
        classifier, place.max_batch_tokens, flags.value_cache_tokens, flags.token_values
    )
    return HfScorer(values, place.thread)


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


def _open_prm(flags: ScorerFlags, model: str, place: Place) -> TextScorer:
    reader = step_reader(flags, model)
    prm = load_step_prm(model, reader, place.attention_impl, place.device)
    steps = StepModel(prm, reader, place.max_batch_tokens, flags.value_cache_tokens)
    aggregate = AGGREGATIONS[flags.step_aggregation or "last"]
    return TextModelScorer(steps, reader, aggregate, place.max_batch_tokens, place.thread)


def _open_reward(flags: ScorerFlags, model: str, place: Place) -> TextScorer:
    reader = conversation_reader(flags, model)
    loaded = load_reward_model(model, place.attention_impl, place.device)
    rewards = RewardModel(loaded, place.max_batch_tokens)
    aggregate = AGGREGATIONS["last"]  # of one
    return TextModelScorer(rewards, reader, aggregate, place.max_batch_tokens, place.thread)


def _open_vllm_pooling(flags: ScorerFlags, model: str, place: Place) -> TextScorer:
    reader = step_reader(flags, model)
    aggregate = AGGREGATIONS[flags.step_aggregation or "last"]
    # The one logit of Skywork's head is squashed here: vLLM itself knows no such head.
    options = {"task": "token_classify", "use_activation": reader.layout.labels == 2}
    return PoolingServerScorer(
        _open_service(flags, model, place),
        "/pooling",
        {"model": model, **options},
        reader,
        lambda reply, inputs: list(map(aggregate, read_step_rows(reply, inputs, reader))),
    )


def _open_vllm_classify(flags: ScorerFlags, model: str, place: Place) -> TextScorer:
    reader, service = conversation_reader(flags, model), _open_service(flags, model, place)
    payload = {"model": model, "use_activation": True}
    return PoolingServerScorer(service, "/classify", payload, reader, read_class_probabilities)


def _open_sglang_reward(flags: ScorerFlags, model: str, place: Place) -> TextScorer:
    reader, service = conversation_reader(flags, model), _open_service(flags, model, place)
    return PoolingServerScorer(service, "/v1/embeddings", {"model": model}, reader, read_rewards)


def _open_vllm_score(flags: ScorerFlags, model: str, place: Place) -> TextScorer:
    return CrossEncoderScorer(_open_service(flags, model, place), model)


def _open_http(flags: ScorerFlags, model: str, place: Place) -> TextScorer:
    service = HttpService(flags.scorer_url, api_key=place.api_key)
    for url in service.urls:
        check_listens(url)
    return HttpScorer(service, model)


OPENERS: dict[str, Callable[[ScorerFlags, str, Place], Scorer | TextScorer]] = {
    "hf": _open_hf,
    "sglang": _open_sglang,
    "sglang_server": _open_sglang_server,
    "prm": _open_prm,
    "vllm_pooling": _open_vllm_pooling,
    "reward": _open_reward,
    "vllm_classify": _open_vllm_classify,
    "sglang_reward": _open_sglang_reward,
    "vllm_score": _open_vllm_score,
    "http": _open_http,
}
"""How each scorer of `registry.SCORERS` is opened."""


def _open_service(flags: ScorerFlags, model: str, place: Place) -> HttpService:
    """Opens the servers at --scorer_url; raises InputError unless they serve a model."""
    service = HttpService(flags.scorer_url, api_key=place.api_key)
    for url in service.urls:
        listed = _ask(f"{url}/v1/models", place.api_key)
        try:
            served = [str(entry["id"]) for entry in listed["data"]]
        except (TypeError, KeyError) as error:
            raise InputError(f"--scorer_url {url} lists no models at /v1/models") from error
        if model not in served:
            raise InputError(
                f"--scorer_url {url} serves {', '.join(served)}, not {model}; if they are the "
                "same, name it as the server does (--served-model-name)"
            )
    return service


def check_listens(url: str) -> None:
    """Raises InputError if nothing listens at the address of a server."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((parts.hostname, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(f"--scorer_url {url}: {error}") from error


def _ask(url: str, api_key: str | None) -> Any:
    try:
        return get_json(url, api_key)
    except EngineUnavailable as error:
        raise InputError(f"--scorer_url {error}") from error


def check_served_model(url: str, model: str, api_key: str | None = None) -> None:
    """Raises InputError unless a server, or the servers of a router, serve this value model."""
    served = _ask(f"{url}/get_model_info", api_key)
    if not isinstance(served, dict) or "model_path" not in served:
        raise InputError(f"--scorer_url {url} is no SGLang server, nor its router")
    architectures = served.get("architectures") or []
    if not {kind.__name__ for kind in VALUE_MODELS.values()}.intersection(architectures):
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
