"""`scripts/train_multinode.sh`: two agents, as on two machines, killed, stopped and failing."""

import contextlib
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train_classifier
from run_lib.ports import free_port
from tests.support.distributed import run_distributed

SCRIPT = Path(train_classifier.__file__).parent / "scripts" / "train_multinode.sh"
TIMEOUT = 120.0
"""Seconds to wait for a line; a start takes 10 to 40 on two cores."""
SOON = 60.0
"""Seconds in which a job has to end that has failed for good."""


class Nodes:
    """Agents that the script starts, which could be on different machines."""

    def __init__(self) -> None:
        self._port = free_port()
        self._agents: list[subprocess.Popen[str]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self.log = ""

    def start(self, argv: list[str], max_restarts: int) -> subprocess.Popen[str]:
        """Starts one more agent.

        The first one's name comes last in the alphabet, so another one's worker has rank 0.
        """
        environment = {
            "OMP_NUM_THREADS": "1",
            "NNODES": "2",
            "NPROC_PER_NODE": "1",
            "RDZV_ENDPOINT": f"localhost:{self._port}",
            "MAX_RESTARTS": str(max_restarts),
            "LOCAL_ADDR": "127.0.0.1" if self._agents else "localhost",
            "LOGLEVEL": "INFO",
        }
        agent = subprocess.Popen(
            [str(SCRIPT), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self._agents.append(agent)
        threading.Thread(target=self._read, args=(agent,), daemon=True).start()
        return agent

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Returns the match in the next line of any agent or worker that has one."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise TimeoutError(f"no {pattern!r} in\n{self.log}") from None
            self.log += line
            if match := re.search(pattern, line):
                return match

    def kill(self) -> None:
        """Ends all at once, as if the power failed."""
        for agent in self._agents:
            lose(agent)

    def _read(self, agent: subprocess.Popen[str]) -> None:
        assert agent.stdout is not None
        for line in agent.stdout:
            self._lines.put(line)


def workers(agent: subprocess.Popen[str]) -> list[int]:
    return [
        int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    ]


def lose(agent: subprocess.Popen[str]) -> None:
    """Kills an agent and its workers, if they still run."""
    if agent.poll() is None:
        for pid in [agent.pid, *workers(agent)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.wait()


@pytest.fixture
def start_nodes() -> Iterator[Callable[[], Nodes]]:
    started: list[Nodes] = []

    def start() -> Nodes:
        started.append(Nodes())
        return started[-1]

    yield start
    for nodes in started:
        nodes.kill()


@pytest.fixture
def flags(tiny_policy: Path, rollout_folder: Path) -> list[str]:
    """All flags of a run but its folder."""
    return f"""
        --data_path {rollout_folder} --model_path {tiny_policy} --data_num_response 4
        --num_steps 60 --total_batch_size 8 --max_lr 1e-3 --max_length 64 --attention_dropout 0
        --save_every 3 --run_name run
    """.split()


def test_a_lost_machine_and_a_preemption_do_not_change_the_result(flags, start_nodes, tmp_path):
    command = [*flags, "--output_dir", str(tmp_path)]
    nodes = start_nodes()
    host = nodes.start(command, max_restarts=1)
    nodes.wait_for("Rendezvous'ing")  # before the other one can become the host
    other = nodes.start(command, max_restarts=1)
    nodes.wait_for("^step 7/")
    lose(other)
    replacement = nodes.start(command, max_restarts=1)
    assert int(nodes.wait_for(r"^resuming from .*/step_(\d+): ")[1]) >= 3

    nodes.wait_for("^step ")
    for agent in (host, replacement):
        agent.terminate()
    saved = nodes.wait_for(r"^told to stop: saved step (\d+);")[1]
    assert host.wait(SOON) != 0, nodes.log
    assert replacement.wait(SOON) != 0, nodes.log
    assert (tmp_path / "run" / f"step_{saved}").exists()
    assert not (tmp_path / "run" / "final").exists()

    nodes = start_nodes()
    agents = [nodes.start(command, max_restarts=0) for _ in range(2)]
    assert nodes.wait_for(r"^resuming from .*/step_(\d+): ")[1] == saved
    nodes.wait_for("^the final model is in ")
    assert [agent.wait(SOON) for agent in agents] == [0, 0], nodes.log

    undisturbed = [*flags, "--output_dir", str(tmp_path / "undisturbed")]
    run_distributed(tmp_path, train_classifier.main, undisturbed, local_world_size=1)
    weights, expected = (
        load_file(folder / "run" / "final" / "model.safetensors")
        for folder in (tmp_path, tmp_path / "undisturbed")
    )
    assert weights.keys() == expected.keys()
    for name in weights:
        assert torch.equal(weights[name], expected[name]), name


def test_a_job_without_restarts_ends_with_its_first_worker(flags, start_nodes, tmp_path):
    nodes = start_nodes()
    command = [*flags, "--output_dir", str(tmp_path), "--num_steps", "100000"]
    agents = [nodes.start(command, max_restarts=0) for _ in range(2)]
    nodes.wait_for("^step 3/")
    (worker,) = workers(agents[1])
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + SOON
    for agent in agents:
        assert agent.wait(max(deadline - time.monotonic(), 0)) != 0, nodes.log
