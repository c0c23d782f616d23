"""Runs a function of a test file in several processes, as torchrun would start them.

The processes are forked from a server that has imported torch and transformers once: a start costs
a fraction of a second instead of eight.
"""

import contextlib
import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from run_lib.processes import Processes

TIMEOUT = 120.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torch.distributed.checkpoint.state_dict",
        "torch.distributed.fsdp",
        "transformers.models.qwen2.modeling_qwen2",
        "train_classifier",
    ]
)


@dataclass(frozen=True)
class Played(Processes):
    """One of several processes, the others of which have nothing to add."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def start_any(self, is_set: Callable[[], bool]) -> Callable[[], bool]:
        return is_set


class Job:
    """Processes that run one function, each with its own arguments.

    The function gets a connection to this process first. What the processes write to standard error
    is kept in `folder`, one file each. As a context manager it ends what still runs.
    """

    def __init__(
        self,
        folder: Path,
        function: Callable[..., Any],
        arguments: list[tuple[Any, ...]],
        environment: dict[str, str],
    ):
        self.connections: list[Connection] = []
        self.processes: list[Any] = []
        self.logs: list[Path] = []
        for rank, args in enumerate(arguments):
            ours, theirs = _context.Pipe()
            log = folder / f"{function.__name__}_{rank}.log"
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = _context.Process(
                target=_run,
                args=(_source(function, args), theirs, {**environment, **ranks}, log),
            )
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)
            self.logs.append(log)

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def receive(self, rank: int, timeout: float = TIMEOUT) -> Any:
        """Returns the next object that a process sends."""
        if not self.connections[rank].poll(timeout):
            raise TimeoutError(f"rank {rank} has sent nothing for {timeout} s")
        return self.connections[rank].recv()

    def signal(self, rank: int, number: signal.Signals) -> None:
        """Sends a signal to a process; one that has just ended by itself doesn't hear it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.processes[rank].pid, number)

    def exit_code(self, rank: int, timeout: float = TIMEOUT) -> int | None:
        """Returns a process's exit code when it ends; None if it runs on for `timeout` seconds."""
        self.processes[rank].join(timeout)
        return self.processes[rank].exitcode

    def log(self, rank: int) -> str:
        """Returns what a process has written to standard error."""
        return self.logs[rank].read_text()


def host_store() -> Any:
    """Returns a store on a free port of this machine, as torchrun's agent hosts it."""
    return dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


def torchrun_environment(port: int, world_size: int, local_world_size: int) -> dict[str, str]:
    """Returns the variables that torchrun sets, but for those of a rank."""
    return {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def run_distributed(
    folder: Path,
    function: Callable[..., Any],
    *args: Any,
    world_size: int = 2,
    local_world_size: int | None = None,
    timeout: float = TIMEOUT,
) -> list[Any]:
    """Runs `function(*args)` in several processes, in which `distributed()` works.

    Args:
        folder: Where to put what they write to standard error.
        function: A function on the top level of a file.
        *args: Its arguments; they are pickled, as are its results.
        world_size: Number of processes.
        local_world_size: What they take for the number of processes on a machine; all by default.
        timeout: Seconds until they are killed.

    Returns:
        What the function returned, by rank.

    Raises:
        AssertionError: If it failed or didn't end in one of them, with tracebacks and messages.
    """
    store = host_store()
    environment = torchrun_environment(store.port, world_size, local_world_size or world_size)
    deadline = time.monotonic() + timeout
    with Job(folder, _report, [_source(function, args)] * world_size, environment) as job:
        results: list[Any] = [None] * world_size
        failures: dict[int, str] = {}
        waiting = dict(zip(job.connections, range(world_size), strict=True))
        while waiting:
            left = deadline - time.monotonic()
            ready = multiprocessing.connection.wait(list(waiting), max(left, 0))
            if not ready:
                break
            for connection in ready:
                rank = waiting.pop(connection)  # type: ignore[call-overload]
                try:
                    results[rank], message = pickle.loads(job.connections[rank].recv_bytes())
                except EOFError:
                    message = f"ended with exit code {job.exit_code(rank)}"
                if message:
                    failures[rank] = message
                    # The others may wait for this one.
                    deadline = min(deadline, time.monotonic() + 10)
        for rank in waiting.values():
            failures[rank] = "didn't end"
        assert not failures, "\n".join(
            f"rank {rank} {message}\n{job.log(rank)}" for rank, message in failures.items()
        )
        codes = [job.exit_code(rank) for rank in range(world_size)]
        assert codes == [0] * world_size, [job.log(rank) for rank in range(world_size)]
    return results


def _source(
    function: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[str, str, tuple[Any, ...]]:
    """Returns file, name and arguments: a test file can't be imported by the name it has here."""
    return str(sys.modules[function.__module__].__file__), function.__qualname__, args


def _report(connection: Connection, path: str, name: str, args: tuple[Any, ...]) -> None:
    try:
        result = _load(path, name)(*args)
    except BaseException:
        connection.send_bytes(pickle.dumps((None, f"failed: {traceback.format_exc()}")))
        raise
    # Not `send`: it would leave tensors in the memory of a process that ends.
    connection.send_bytes(pickle.dumps((result, None)))


def _load(path: str, name: str) -> Callable[..., Any]:
    if path == __file__:
        return globals()[name]
    module = sys.modules.get("tested")
    if module is None:
        spec = importlib.util.spec_from_file_location("tested", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["tested"] = module
        spec.loader.exec_module(module)
    return getattr(module, name)


def _run(
    source: tuple[str, str, tuple[Any, ...]],
    connection: Connection,
    environment: dict[str, str],
    log: Path,
) -> None:
    os.environ.update(environment)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    path, name, args = source
    _load(path, name)(connection, *args)
