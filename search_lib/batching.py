"""The thread that runs models, and the one queue of all requests that wait for it."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from search_lib.urgency import Urgency, current_urgency

Request = TypeVar("Request")
Result = TypeVar("Result")

TURNS_TO_ASK = 12
"""Turns of the event loop from an answer to a search's next request, or to that of a new search."""


@dataclass(eq=False)
class Entry(Generic[Request, Result]):
    """A request, and who waits for its result.

    Attributes:
        request: The request.
        future: Its result.
        urgency: Of the search that asks.
    """

    request: Request
    future: "asyncio.Future[Result]"
    urgency: Urgency

    @classmethod
    def of(cls, request: Request) -> "Entry[Request, Result]":
        """Returns an entry of the running task."""
        return cls(request, asyncio.get_running_loop().create_future(), current_urgency())

    def answer(self, result: Result | Exception) -> None:
        """Gives the result, or an error, to who waits for it."""
        if self.future.done():
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Answers:
    """Brings results from the thread to the event loop, which wakes up once for all that are there.

    Args:
        loop: The event loop of who waits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._given: deque[tuple[Entry[Any, Any], Any]] = deque()
        self._is_awake = False

    def give(self, entry: Entry[Request, Result], result: Result | Exception) -> None:
        """Answers a request; called in the thread."""
        self._given.append((entry, result))
        if not self._is_awake:
            self._is_awake = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # First of all: what is given from here on may come too late for this time.
        self._is_awake = False
        while self._given:
            entry, result = self._given.popleft()
            entry.answer(result)


class Standing(NamedTuple):
    """How soon a client of a `ModelThread` gets its turn: the least one is next.

    Attributes:
        guessed: Whether all of its requests may turn out to be of no use.
        runs_on: Whether its turn is one of many that its requests need, and not their only one.
        num_waiting: Minus the searches that wait for it.
        rank: Rank of the most urgent request.
    """

    guessed: bool
    runs_on: bool
    num_waiting: int
    rank: tuple[bool, int]

    @classmethod
    def of(cls, entries: Sequence[Entry[Any, Any]], runs_on: bool) -> "Standing | None":
        """Returns the standing of requests; None if there are none."""
        if not entries:
            return None
        rank = min(entry.urgency.rank for entry in entries)
        certain = {entry.urgency for entry in entries if not entry.urgency.guessed}
        return cls(not certain, runs_on, -len(certain), rank)


class ModelThread:
    """A thread in which models compute, and the queue of all requests to them.

    On a CPU the models of a run share one, since they would only slow each other down; on a GPU
    each has its own, and they overlap. What runs next is what lets most searches go on. A search
    needs its turn in a pass over values once, and then it can ask for its next blocks, which are
    decoded for many steps: so passes go first, those that most searches wait for before others, and
    a decoding batch is joined by all that it has room for before it goes on, so that each of its
    steps serves as many searches as possible. A decoding batch is interrupted once the searches
    that wait have lost as much time as the interruption costs those that run (see
    `ContinuousBatcher`). Among equals, early searches go first; guesses always go last.

    Args:
        executor: Runs the work, one piece at a time; None for a thread of its own.
    """

    def __init__(self, executor: Executor | None = None):
        self._executor = executor or ThreadPoolExecutor(1)
        self._clients: list[Queue[Any, Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._arrived: list[Urgency] = []

    def arrived(self) -> set[Urgency]:
        """Returns who has asked since the turn began; can be called in any thread."""
        return set(self._arrived[:])

    def wake(self, client: "Queue[Any, Any]", urgency: Urgency) -> None:
        """Gives a client turns until it has nothing more to run; it has a new request."""
        self._arrived.append(urgency)
        if client not in self._clients:
            self._clients.append(client)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())

    async def run(self, work: Callable[[], Result]) -> Result:
        """Runs work in the thread; for clients, in their turn."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def leave(self, client: "Queue[Any, Any]") -> None:
        """Gives a client no more turns. Its work in the thread, if any, runs on unheeded."""
        if client in self._clients:
            self._clients.remove(client)
        if self._task is not None and not self._clients:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def close(self) -> None:
        """Ends the thread, after what it runs now."""
        self._executor.shutdown(wait=False)

    async def _serve(self) -> None:
        # The task ends when nothing waits: an idle thread holds none.
        while True:
            # Every search that is ready to ask does so first.
            for _ in range(TURNS_TO_ASK):
                await asyncio.sleep(0)
            standings = [(client.standing(), client) for client in self._clients]
            ready = [(standing, client) for standing, client in standings if standing]
            self._clients = [client for _, client in ready]
            if not ready:
                return
            _, client = min(ready, key=lambda pair: pair[0])
            self._arrived = []
            await client.take_turn()


class Queue(ABC, Generic[Request, Result]):
    """Requests that wait for a `ModelThread`, or run in it: what its clients have in common.

    Args:
        thread: The thread, which its giver closes; None for one of the queue's own.
    """

    def __init__(self, thread: ModelThread | None):
        self._owns_thread = thread is None
        self._thread = thread or ModelThread()
        self._waiting: list[Entry[Request, Result]] = []

    async def submit(self, request: Request) -> Result:
        """Returns the result of one request, once it is there; raises the error of its batch."""
        entry: Entry[Request, Result] = Entry.of(request)
        self._waiting.append(entry)
        self._thread.wake(self, entry.urgency)
        return await entry.future

    async def close(self) -> None:
        """Cancels all requests. What runs in the thread ends there, its results unused.

        Nothing can be submitted any more to a queue that has a thread of its own.
        """
        for entry in self._entries():
            entry.future.cancel()
        self._waiting.clear()
        await self._thread.leave(self)
        if self._owns_thread:
            self._thread.close()

    @abstractmethod
    def standing(self) -> Standing | None:
        """Returns how soon it shall get a turn; None if it has nothing to run."""

    @abstractmethod
    async def take_turn(self) -> None:
        """Runs some of its requests in the thread; raises only if it is cancelled."""

    @abstractmethod
    def _entries(self) -> list[Entry[Request, Result]]:
        """Returns all requests that are not answered."""


class Batcher(Queue[Request, Result]):
    """Runs a batch function, in a thread that models may share, over the waiting requests.

    While the thread is busy, new requests queue up and form the next batch. A batch starts with the
    oldest request of the most urgent search (see `Urgency`): early searches end early; since they
    do end, no request waits for ever. The batch is filled with the requests nearest to the first
    one in length, so that there is little padding; of equals the earliest comes first. A batch that
    fails is tried again in halves: a faulty request fails alone, and a batch that outgrows the
    memory does not end the run.

    Args:
        run_batch: Yields (index of a request, its result) as soon as it is there, in any order.
            Called in the thread.
        thread: The thread, which its giver closes; None for one of the batcher's own.
        max_size: Most requests in a batch, weighed by `size_of`.
        key_of: Key of a request: only requests with equal keys share a batch.
        size_of: Weight of a request. One heavier than `max_size` runs alone.
        length_of: Length that a request is padded to, in tokens.
    """

    def __init__(
        self,
        run_batch: Callable[[Sequence[Request]], Iterable[tuple[int, Result]]],
        thread: ModelThread | None,
        max_size: float,
        key_of: Callable[[Request], Hashable] = lambda request: None,
        size_of: Callable[[Request], float] = lambda request: 1,
        length_of: Callable[[Request], int] = lambda request: 0,
    ):
        super().__init__(thread)
        self._run_batch = run_batch
        self._max_size = max_size
        self._key_of = key_of
        self._size_of = size_of
        self._length_of = length_of
        self._running: list[Entry[Request, Result]] = []

    def standing(self) -> Standing | None:
        """Returns how soon the batcher shall get a turn."""
        self._waiting = [entry for entry in self._waiting if not entry.future.cancelled()]
        return Standing.of(self._waiting, runs_on=False)

    async def take_turn(self) -> None:
        """Runs one batch."""
        self._running = self._take_batch()
        await self._run(self._running)
        self._running = []

    def _entries(self) -> list[Entry[Request, Result]]:
        return self._waiting + self._running

    async def _run(self, batch: list[Entry[Request, Result]]) -> None:
        answers = Answers(asyncio.get_running_loop())

        def work() -> None:
            for index, result in self._run_batch([entry.request for entry in batch]):
                answers.give(batch[index], result)

        try:
            await self._thread.run(work)
            failed = [entry for entry in batch if not entry.future.done()]
            if failed:
                raise RuntimeError(
                    f"of a batch of {len(batch)} requests, {len(failed)} got no result"
                )
        except asyncio.CancelledError:
            for entry in batch:
                entry.future.cancel()
            raise
        except Exception as error:
            failed = [entry for entry in batch if not entry.future.done()]
            if len(batch) == 1:
                for entry in failed:
                    entry.answer(error)
                return
            # One request is at fault, or all of them are too much at once: halves tell.
            for half in (failed[: len(failed) // 2], failed[len(failed) // 2 :]):
                if half:
                    await self._run(half)

    def _take_batch(self) -> list[Entry[Request, Result]]:
        self._waiting.sort(key=lambda entry: entry.urgency.rank)  # stable: else the oldest first
        first = self._waiting[0]
        length, key = self._length_of(first.request), self._key_of(first.request)
        by_distance = sorted(
            (abs(self._length_of(entry.request) - length), index)
            for index, entry in enumerate(self._waiting)
            if self._key_of(entry.request) == key
        )
        taken: set[int] = set()
        size = 0.0
        for _, index in by_distance:
            size += self._size_of(self._waiting[index].request)
            if taken and size > self._max_size:
                break
            taken.add(index)
        batch = [entry for index, entry in enumerate(self._waiting) if index in taken]
        self._waiting = [entry for index, entry in enumerate(self._waiting) if index not in taken]
        return batch
