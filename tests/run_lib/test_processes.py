import os
import signal
import subprocess
import sys
import threading
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

import train_classifier
from run_lib.commands import InputError, RunStopped
from run_lib.processes import StopRequest, distributed
from tests.support.distributed import Job, host_store, run_distributed, torchrun_environment
from tests.support.waiting import wait_for

INTERVAL = 0.2
LIMIT = 2.0
"""Seconds; the watchdog of the tests is this much faster than the real one."""
SOON = 10 * LIMIT
"""Seconds in which a job has to end that would otherwise hang for half an hour."""


def gather() -> tuple[list[int], int, float]:
    with distributed(INTERVAL, LIMIT) as processes:
        ranks = processes.all_gather_objects(processes.rank)
        chosen = processes.from_main(10 + processes.rank)
        total = processes.sum(torch.tensor(1.0 + processes.rank))
        assert processes.checkpoint_group is not None
        assert processes.local_world_size == 2
        return ranks, chosen, float(total)


def test_processes_exchange_values(tmp_path):
    assert run_distributed(tmp_path, gather) == [([0, 1], 10, 3.0)] * 2


def act_on_main() -> list[str]:
    with distributed(INTERVAL, LIMIT) as processes:
        results = [processes.on_main(lambda: f"of rank {processes.rank}")]
        for error in (InputError("--flag"), OSError("no space"), RunStopped("no server")):
            with pytest.raises((InputError, RunStopped, OSError)) as info:
                processes.on_main(partial(fail, error))
            results.append(f"{type(info.value).__name__} {info.value}")
        return results


def fail(error: Exception) -> None:
    raise error


def test_an_error_of_rank_0_is_one_of_all(tmp_path):
    main, other = run_distributed(tmp_path, act_on_main)
    assert main == ["of rank 0", "InputError --flag", "OSError no space", "RunStopped no server"]
    assert other == [
        "of rank 0",
        "InputError --flag",
        "RunStopped no space",
        "RunStopped no server",
    ]


def ask_any() -> list[bool]:
    with distributed(INTERVAL, LIMIT) as processes:
        asked = [
            processes.start_any(lambda number=number: processes.rank == number) for number in (1, 2)
        ]
        return [answer() for answer in asked]


def test_what_holds_on_one_process_holds_on_any(tmp_path):
    assert run_distributed(tmp_path, ask_any) == [[True, False]] * 2


def test_a_process_alone_needs_no_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with distributed() as processes:
        assert (processes.rank, processes.world_size, processes.checkpoint_group) == (0, 1, None)
        assert processes.all_gather_objects("a") == ["a"]
        assert processes.from_main("a") == "a"


def wait_in_block(connection: Connection) -> None:
    with distributed(INTERVAL, LIMIT):
        connection.send("in")
        connection.recv()
    connection.send("out")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_ends_the_others(tmp_path, number):
    store = host_store()
    environment = torchrun_environment(store.port, 3, 3)
    with Job(tmp_path, wait_in_block, [()] * 3, environment) as job:
        for rank in range(3):
            job.receive(rank)
        job.signal(2, number)
        assert [job.exit_code(rank, SOON) for rank in range(2)] == [1, 1]
        for rank in range(2):
            assert job.log(rank) == f"rank {rank} ends: no sign of life from rank 2 for 2 s\n"


def test_who_leaves_or_pauses_is_not_lost(tmp_path):
    store = host_store()
    environment = torchrun_environment(store.port, 3, 3)
    with Job(tmp_path, wait_in_block, [()] * 3, environment) as job:
        for rank in range(3):
            job.receive(rank)
        job.connections[1].send("leave")
        assert job.exit_code(1) == 0
        job.connections[0].send("leave")
        # Longer than the limit: rank 1 is gone and rank 0, which may host the store, waits.
        assert job.exit_code(0, 2 * LIMIT) is None
        # The machine pauses for longer than the limit: nobody is to blame.
        for rank in (0, 2):
            job.signal(rank, signal.SIGSTOP)
        assert job.exit_code(0, 1.5 * LIMIT) is None
        for rank in (0, 2):
            job.signal(rank, signal.SIGCONT)
        assert job.exit_code(2, LIMIT) is None
        job.connections[2].send("leave")
        assert [job.exit_code(rank) for rank in range(3)] == [0, 0, 0]
        assert [job.log(rank) for rank in range(3)] == [""] * 3


def test_a_restarted_job_may_find_the_store_of_the_last_one(tmp_path):
    store = host_store()
    environment = torchrun_environment(store.port, 2, 2)
    for _ in range(2):
        with Job(tmp_path, wait_in_block, [()] * 2, environment) as job:
            for rank in range(2):
                assert job.receive(rank) == "in"
            job.signal(0, signal.SIGKILL)
            assert job.exit_code(1, SOON) == 1


def host_store_in_a_process(connection: Connection) -> None:
    store = host_store()
    connection.send(store.port)
    connection.recv()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_store_ends_all(tmp_path, number):
    with Job(tmp_path, host_store_in_a_process, [()], {}) as agent:
        environment = torchrun_environment(agent.receive(0), 2, 2)
        with Job(tmp_path, wait_in_block, [()] * 2, environment) as job:
            for rank in range(2):
                job.receive(rank)
            agent.signal(0, number)
            assert [job.exit_code(rank, SOON) for rank in range(2)] == [1, 1]
            for rank in range(2):
                assert "the store of the job hasn't answered for 2 s" in job.log(rank)


def join_below_an_agent(connection: Connection) -> None:
    """Forks a rank that waits for another one, and stays as its parent."""
    if os.fork():
        connection.recv()
    connection.send("in")
    with distributed(INTERVAL, LIMIT):
        pass


def test_a_rank_ends_with_its_parent_before_the_others_have_joined(tmp_path):
    store = host_store()
    environment = torchrun_environment(store.port, 2, 2)
    with Job(tmp_path, join_below_an_agent, [()], environment) as job:
        job.receive(0)
        wait_for(lambda: watches_its_parent(job.processes[0].pid), "a rank that watches", SOON)
        job.signal(0, signal.SIGKILL)
        job.exit_code(0)
        with pytest.raises(EOFError):  # both ends of the pipe are closed
            job.receive(0, SOON)
        assert job.log(0).startswith("rank 0 ends: its parent, process ")


def watches_its_parent(agent: int) -> bool:
    """Returns whether the child of a process has started to look at it."""
    (child,) = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return len(list(Path(f"/proc/{child}/task").iterdir())) > 1


def fail_and_hang(connection: Connection) -> None:
    with distributed(INTERVAL, LIMIT) as processes:
        if processes.rank == 0:
            connection.recv()
        # As a thread that waits in a collective hinders the end of its process.
        threading.Thread(target=connection.recv).start()
        raise ValueError("failed on rank 1")


def test_a_rank_that_fails_and_cannot_end_is_ended(tmp_path):
    store = host_store()
    environment = torchrun_environment(store.port, 2, 2)
    with Job(tmp_path, fail_and_hang, [()] * 2, environment) as job:
        assert [job.exit_code(rank, SOON) for rank in range(2)] == [1, 1]
        assert "no sign of life from rank 1" in job.log(0)
        assert "failed on rank 1" in job.log(1)
        assert "rank 1 ends: it failed and hasn't ended after 2 s" in job.log(1)


def test_a_request_to_stop_is_noted():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    for number in (signal.SIGTERM, signal.SIGUSR1):
        with StopRequest() as request:
            assert not request.stop_requested()
            os.kill(os.getpid(), number)
            assert request.stop_requested()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


AGENT = """
import subprocess, sys
worker = [sys.executable, "-X", "importtime", sys.argv[1], "--run_name", "run"]
print(subprocess.Popen(worker).wait(), file=sys.stderr)
"""


def test_a_worker_ends_with_its_agent_while_it_imports():
    """The kill comes as soon as the first module is imported; torch takes seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, train_classifier.__file__],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RANK": "0", "TORCHELASTIC_RUN_ID": "job"},
    ) as agent:
        assert agent.stderr is not None
        for line in agent.stderr:
            if "run_lib.parent" in line:
                agent.kill()
                break
        rest = agent.stderr.read()  # until the worker has ended as well
    assert f"rank 0 ends: its parent, process {agent.pid}, is gone" in rest
