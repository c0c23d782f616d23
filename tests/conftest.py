"""Fixtures shared by all tests: one thread, and a tiny policy with roll-outs of its vocabulary."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tqdm import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM

from search_lib.scorers.value_server import ValueServer
from tests.support.http_servers import free_ports
from tests.support.paths import ROOT
from tests.support.sglang_processes import API_KEY, sglang_environment
from tests.support.tiny_models import VOCAB_SIZE, build_tiny_config, save_tiny_classifier

# Whoever is started in the background of a shell ignores Ctrl-C, and so do the programs that it
# starts: those that tests interrupt, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)
datasets.disable_progress_bars()
# tqdm's own lock is one of all processes: a forked one that is killed while it has it leaves it
# closed for ever. And none is forked while the thread that watches bars has this one.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0

NUM_RESPONSES = 4


@pytest.fixture
def tiny_config() -> Qwen2Config:
    """One for each test: `save_pretrained` writes the dtype of a model into its config."""
    return build_tiny_config()


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a causal LM, with a (nominal) tokenizer file."""
    folder = tmp_path_factory.mktemp("policy")
    torch.manual_seed(0)
    Qwen2ForCausalLM(build_tiny_config()).save_pretrained(folder)
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


@pytest.fixture(scope="session")
def value_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random value model in float32, with the toy task's vocabulary."""
    return save_tiny_classifier(tmp_path_factory.mktemp("value_model"))


@pytest.fixture(scope="session")
def value_server(
    tmp_path_factory: pytest.TempPathFactory, value_model_folder: Path
) -> Iterator[ValueServer]:
    """The real SGLang with that model. A prefill takes 16 tokens at most: longer ones come in
    chunks."""
    log = tmp_path_factory.mktemp("value_server") / "server.log"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sglang_environment().items():
            patch.setenv(name, value)
        server = ValueServer(str(value_model_folder), log, ["--chunked-prefill-size", "16"])
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def value_router(
    tmp_path_factory: pytest.TempPathFactory, value_model_folder: Path
) -> Iterator[str]:
    """URL of what scripts/serve_value_model.sh serves with a key: the router before two real
    servers."""
    folder = tmp_path_factory.mktemp("value_router")
    port = free_ports(4)  # router, two servers, metrics
    settings = {"NUM_SERVERS": "2", "PORT": str(port), "LOG_DIR": str(folder), "API_KEY": API_KEY}
    with subprocess.Popen(
        [ROOT / "scripts" / "serve_value_model.sh", value_model_folder],
        env=sglang_environment() | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as script:
        try:
            assert script.stdout.readline().startswith("starting 2 server(s) of ")
            ready = f"ready: 2 server(s); --scorer_url http://127.0.0.1:{port}\n"
            assert script.stdout.readline() == ready
            yield f"http://127.0.0.1:{port}"
        finally:
            script.terminate()
            script.wait()
    assert script.returncode == 143
    for offset in range(3):  # nothing is left running
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port + offset)) != 0
