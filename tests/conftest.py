"""Fixtures shared by all tests: one thread, and a tiny policy with roll-outs of its vocabulary."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

torch.set_num_threads(1)
datasets.disable_progress_bars()

VOCAB_SIZE = 64
NUM_RESPONSES = 4


@pytest.fixture(scope="session")
def tiny_config() -> Qwen2Config:
    return Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        num_labels=3,
    )


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory, tiny_config: Qwen2Config) -> Path:
    """Folder of a causal LM, with a (nominal) tokenizer file."""
    folder = tmp_path_factory.mktemp("policy")
    torch.manual_seed(0)
    Qwen2ForCausalLM(tiny_config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    return folder


@pytest.fixture(scope="session")
def rollout_rows() -> list[dict[str, Any]]:
    """Ten rows in the columns of OpenR1-VM; a completion's tokens tell its label."""
    rng = np.random.default_rng(0)
    rows = []
    for row in range(10):
        labels = rng.integers(0, 3, NUM_RESPONSES).tolist()
        roll_ins = [rng.integers(0, VOCAB_SIZE, n) for n in rng.integers(3, 12, NUM_RESPONSES)]
        roll_outs = [
            rng.integers(20 * label, 20 * label + 24, rng.integers(2, 30)) for label in labels
        ]
        rows.append(
            {
                "message_id": f"m{row}",
                "problem": "1 + 1 = ?",
                "solution": "2",
                "answer": "2",
                "reward": [float(label == 1) for label in labels],
                "roll_in_ids": [ids.tolist() for ids in roll_ins],
                "roll_outs_ids": [ids.tolist() for ids in roll_outs],
                "processed_answer": ["2"] * NUM_RESPONSES,
                "labels": labels,
            }
        )
    return rows


@pytest.fixture(scope="session")
def rollout_folder(
    tmp_path_factory: pytest.TempPathFactory, rollout_rows: list[dict[str, Any]]
) -> Path:
    """A `save_to_disk` folder of `rollout_rows`."""
    folder = tmp_path_factory.mktemp("rollouts")
    datasets.Dataset.from_list(rollout_rows).save_to_disk(folder)
    return folder
