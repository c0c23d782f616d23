"""A tiny policy with tied embeddings, paths of its own, and command lines of short runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Qwen2ForCausalLM

import train_dvo
from dvo_lib.columns import REFERENCE
from tests.support.dvo_paths import END, command_line, path_rows, step_logprobs, write_paths
from tests.support.refusals import refusal
from tests.support.tiny_models import tiny_config

VOCAB_SIZE = 32


@pytest.fixture(scope="session")
def dvo_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a policy in which nothing but the weights is what transformers would choose."""
    folder = tmp_path_factory.mktemp("dvo_policy")
    torch.manual_seed(0)
    config = tiny_config(VOCAB_SIZE, tie_word_embeddings=True, initializer_range=0.05)
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=END, do_sample=True, top_k=3)
    model.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    return folder


@pytest.fixture(scope="session")
def rows(dvo_policy: Path) -> list[dict[str, Any]]:
    """Paths of eight trees, with the policy's log-probabilities."""
    found = path_rows(8, VOCAB_SIZE)
    for row, reference in zip(found, step_logprobs(dvo_policy, found), strict=True):
        row[REFERENCE] = reference
    return found


@pytest.fixture(scope="session")
def paths_file(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Path:
    return write_paths(tmp_path_factory.mktemp("paths") / "paths.parquet", rows)


@pytest.fixture
def flags(dvo_policy: Path, paths_file: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Command line of a short run, with some flags changed."""

    def make(**changes: object) -> list[str]:
        return command_line(dvo_policy, paths_file, **{"output_dir": tmp_path, **changes})

    return make


@pytest.fixture
def train_error(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a command that is refused; returns the one line that says why."""
    return lambda argv: refusal(train_dvo.main, "train_dvo.py", argv, capsys)
