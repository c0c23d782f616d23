"""The processes of a run: joining them, noticing that one is lost, and being asked to stop.

Collectives only fail after their time-out, which has to be long (a slow disk, a compilation). The
`Watchdog` ends the job within a minute instead when a process is killed, stopped or unreachable, so
that whatever started it can start it again.
"""

import atexit
import contextlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from run_lib.commands import InputError, RunStopped
from run_lib.parent import end_process, end_with_parent
from run_lib.text import one_line

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""The others wait while rank 0 checks the data or writes a checkpoint: minutes on a slow disk."""

JOIN_TIMEOUT = timedelta(minutes=10)
"""Processes come at different times: importing packages from a busy file system takes minutes."""

WATCHDOG_INTERVAL = 5.0
"""Seconds between two signs of life."""
WATCHDOG_LIMIT = 45.0
"""Seconds without a sign of life that end the job."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send ahead of a kill; of these torchrun passes on SIGTERM only."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: 0 to world_size - 1; rank 0 writes files and messages.
        world_size: Number of processes.
        device: Device of this process.
        local_world_size: Number of processes on this machine.
        checkpoint_group: Gloo group of all processes that only checkpoints use, from their own
            thread; None with one process.
    """

    rank: int
    world_size: int
    device: torch.device
    local_world_size: int = 1
    checkpoint_group: dist.ProcessGroup | None = None

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the sum of a tensor over all processes; it is added up in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_gather_objects(self, value: T) -> list[T]:
        """Returns the (pickled) values of all processes, in the order of their ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        # Not on `checkpoint_group`: a save in flight may be using it.
        dist.all_gather_object(values, value)
        return values

    def from_main(self, value: T) -> T:
        """Returns rank 0's (pickled) value on every process.

        What a shared file system shows may differ between machines for some seconds: let rank 0
        look, and decide by what it saw.
        """
        values: list[Any] = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def start_any(self, is_set: Callable[[], bool]) -> Callable[[], bool]:
        """Starts to ask whether something holds on any process; every process calls this.

        Processes need not wait for each other: they ask before a part of their work, and read the
        answer after it.

        Args:
            is_set: Tells whether it holds on this process.

        Returns:
            Waits until all processes have asked, and returns the answer, the same on all of them.
        """
        if self.world_size == 1:
            return is_set
        count = torch.tensor([int(is_set())])  # over gloo: does not wait for the work of a GPU
        asked = dist.all_reduce(count, async_op=True)

        def answer() -> bool:
            asked.wait()
            return bool(count)

        return answer

    def on_main(self, action: Callable[[], T]) -> T:
        """Acts on rank 0, and returns the (pickled) result on every process.

        Raises:
            InputError: On every process, if the action raises it.
            RunStopped: On the others, if the action raises anything else, which rank 0 raises.
        """
        result = error = None
        if self.rank == 0:
            try:
                result = action()
            except Exception as caught:
                error = caught
        failure = error and (isinstance(error, InputError), one_line(error))
        result, failure = self.from_main((result, failure))
        if error:
            raise error
        if failure:
            is_input, message = failure
            raise (InputError if is_input else RunStopped)(message)
        return cast(T, result)


@contextlib.contextmanager
def distributed(
    interval: float = WATCHDOG_INTERVAL, limit: float = WATCHDOG_LIMIT
) -> Iterator[Processes]:
    """Joins the processes that torchrun started (gloo on CPUs, nccl on GPUs), or runs alone.

    A block that ends without an error waits on rank 0 until it has ended on all other ranks.

    Args:
        interval: See `Watchdog`, which guards the block when there are several processes.
        limit: See `Watchdog`.

    Yields:
        This process among them.

    Raises:
        InputError: If a machine has fewer GPUs than processes.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"local rank {local_rank} has no GPU: {torch.cuda.device_count()} here; "
                "lower --nproc_per_node"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Processes(0, 1, device)
        return
    end_with_parent()  # torchrun's agent
    is_cuda = device.type == "cuda"
    store, rank, world_size = next(iter(dist.rendezvous("env://", timeout=JOIN_TIMEOUT)))
    attempt = _join(store, rank, world_size)
    dist.init_process_group(
        # Objects travel over gloo, which needs no memory or stream of the GPU.
        "cpu:gloo,cuda:nccl" if is_cuda else "gloo",
        store=dist.PrefixStore(attempt, store),
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if is_cuda else None,
    )
    watchdog = group = None
    if world_size > 1:
        watchdog = Watchdog(
            lambda: dist.PrefixStore(f"{attempt}/watchdog", _connect_store(interval)),
            rank,
            world_size,
            interval,
            limit,
        )
        watchdog.start()
        group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    processes = Processes(rank, world_size, device, local_world_size, group)
    try:
        yield processes
    except BaseException:
        # The group is left as it is: the others may wait in a collective, and this process's end
        # is what ends them.
        if watchdog:
            watchdog.fail()
        raise
    if watchdog:
        watchdog.stop()
    dist.destroy_process_group()


def _join(store: dist.Store, rank: int, world_size: int) -> str:
    """Waits for all processes of this attempt and returns a name for it that is new in the store.

    torchrun starts processes again with the store of the last attempt, in which torch would find
    addresses of processes that are gone. TORCHELASTIC_RESTART_COUNT is no name for an attempt: it
    differs between machines, as joining again because of another machine isn't counted.

    Raises:
        TimeoutError: On rank 0, if some don't come within `JOIN_TIMEOUT`.
        DistStoreError: On the others, if rank 0 doesn't.
    """
    if rank > 0:
        ticket = uuid.uuid4().hex
        store.set(f"ticket/{rank}", ticket)
        attempt = store.get(f"attempt/{ticket}").decode()  # waits
        store.set(f"{attempt}/joined/{rank}", "")
        return attempt
    attempt = uuid.uuid4().hex
    missing = set(range(1, world_size))
    deadline = time.monotonic() + JOIN_TIMEOUT.total_seconds()
    while missing:
        for other in sorted(missing):
            if store.check([f"{attempt}/joined/{other}"]):
                missing.remove(other)
            elif store.check([f"ticket/{other}"]):
                # Perhaps of the last attempt: then nobody will look, and a new one will come.
                ticket = store.get(f"ticket/{other}").decode()
                store.set(f"attempt/{ticket}", attempt)
        if time.monotonic() > deadline:
            ranks = ", ".join(map(str, sorted(missing)))
            raise TimeoutError(f"no process came for ranks {ranks} within {JOIN_TIMEOUT}")
        time.sleep(0.02)
    return attempt


def _connect_store(timeout: float) -> dist.Store:
    """Returns a connection of its own to the store of the job, which torchrun's agent hosts."""
    return dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=timeout),
        wait_for_workers=False,
    )


_DONE = "done"


class Watchdog:
    """Ends this process with exit code 1 when another one of the job is lost.

    Every process counts up a number in the store of the job. A process is lost when its number
    stands still for `limit` seconds; so is the job when its store can't be reached for that long.
    One line on standard error says which. A process that hangs in its main thread alone is not
    noticed.

    Args:
        connect: Opens a connection to the store, under a prefix that is new in this attempt.
        rank: Rank of this process.
        world_size: Number of processes.
        interval: Seconds between two signs of life.
        limit: Seconds without one that end the job; several intervals.
    """

    def __init__(
        self,
        connect: Callable[[], dist.Store],
        rank: int,
        world_size: int,
        interval: float = WATCHDOG_INTERVAL,
        limit: float = WATCHDOG_LIMIT,
    ):
        self._connect = connect
        self._rank = rank
        self._world_size = world_size
        self._interval = interval
        self._limit = limit
        # Silence is counted in ticks of this process, not read from a clock: one that was stopped
        # itself for a while (a paused virtual machine) must not blame the others for it.
        self._tick = interval / 5
        self._silent_ticks = [0] * world_size
        self._silent_store_ticks = 0
        self._done = [False] * world_size
        self._leaving = False
        self._failed = threading.Event()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._left = threading.Event()
        # Two threads, as a call to a store whose machine is gone may never return. Daemons, as
        # they must not keep a process alive.
        self._beats = threading.Thread(target=self._beat, name="watchdog-beat", daemon=True)
        self._judge = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Starts to send and to expect signs of life; all processes start at about this time."""
        # A daemon thread that comes back from C++ while the interpreter ends aborts the process.
        atexit.register(self._close)
        self._beats.start()
        self._judge.start()

    def stop(self) -> None:
        """Takes leave of the others, which go on without this process.

        Rank 0, whose process may host the store, waits until all others have left.
        """
        self._leaving = True
        self._wake.set()
        self._left.wait()
        self._close()
        atexit.unregister(self._close)

    def fail(self) -> None:
        """Stops the signs of life; a process that then hangs in its clean-up is ended as well."""
        self._failed.set()
        self._wake.set()

    def _close(self) -> None:
        self._closed.set()
        self._wake.set()
        for thread in (self._judge, self._beats):
            # Not for ever: see above.
            thread.join(timeout=2)

    def _beat(self) -> None:
        """Exchanges signs of life through the store until this process is done."""
        keys = [str(rank) for rank in range(self._world_size)]
        seen: list[bytes | None] = [None] * self._world_size
        all_known = False
        store: dist.Store | None = None
        count = 0
        while not (self._closed.is_set() or self._failed.is_set()):
            leaving = self._leaving
            count += 1
            try:
                if store is None:
                    store = self._connect()
                store.set(keys[self._rank], _DONE if leaving else str(count))
                # To get a key that isn't there yet would wait for it.
                all_known = all_known or store.check(keys)
                known = list(range(self._world_size))
                if not all_known:
                    known = [rank for rank in known if store.check([keys[rank]])]
                values = store.multi_get([keys[rank] for rank in known])
            except RuntimeError:  # all errors of a store
                store = None
            else:
                self._silent_store_ticks = 0
                for rank, value in zip(known, values, strict=True):
                    if value != seen[rank]:
                        seen[rank] = value
                        self._silent_ticks[rank] = 0
                        self._done[rank] = value == _DONE.encode()
                if leaving and (self._rank > 0 or all(self._done)):
                    self._left.set()
                    return
            if not self._leaving:
                self._wake.wait(self._interval)
            else:
                self._closed.wait(min(self._interval, 0.1))

    def _watch(self) -> None:
        """Counts how long the others have been silent, and ends this process."""
        limit = self._limit / self._tick
        failed_ticks = 0
        while not self._closed.wait(self._tick):
            if self._failed.is_set():
                failed_ticks += 1
                if failed_ticks > limit:
                    self._end(f"it failed and hasn't ended after {self._limit:g} s")
                continue
            if self._left.is_set():
                continue
            self._silent_store_ticks += 1
            if self._silent_store_ticks > limit:
                self._end(f"the store of the job hasn't answered for {self._limit:g} s")
            lost = []
            for rank, done in enumerate(self._done):
                if rank != self._rank and not done:
                    self._silent_ticks[rank] += 1
                    if self._silent_ticks[rank] > limit:
                        lost.append(str(rank))
            if lost:
                ranks = f"rank{'s' * (len(lost) > 1)} {', '.join(lost)}"
                self._end(f"no sign of life from {ranks} for {self._limit:g} s")

    def _end(self, reason: str) -> None:
        end_process(f"rank {self._rank} ends: {reason}")


class ToldToStop(Exception):
    """A process of the run was asked to stop; raised on all of them."""


class StopRequest:
    """Notes, while entered, that this process was asked to stop, instead of being ended.

    Only the main thread can enter it. The handlers that were there before come back on exit.

    Args:
        signals: Signals that ask to stop.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = STOP_SIGNALS):
        self._signals = signals
        self._previous: list[Any] = []
        self._requested = False

    def __enter__(self) -> "StopRequest":
        self._previous = [signal.signal(number, self._note) for number in self._signals]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._signals, self._previous, strict=True):
            # None stands for a handler that wasn't installed by Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def stop_requested(self) -> bool:
        """Returns whether one of the signals has arrived."""
        return self._requested

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._requested = True
