"""Groups the requests of concurrent searches, so that a model sees batches."""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

from search_lib.urgency import Urgency, current_urgency

Request = TypeVar("Request")
Result = TypeVar("Result")


class _Entry(NamedTuple):
    """A waiting request, with the properties that choose its batch."""

    request: Any
    future: asyncio.Future
    key: Hashable
    size: float
    length: int
    urgency: Urgency


class Batcher(Generic[Request, Result]):
    """Runs a blocking batch function in a worker thread over the waiting requests.

    While one batch runs, new requests queue up and form the next. A batch starts with the oldest
    request of the most urgent search (see `Urgency`): early searches end early; since they do end,
    no request waits for ever. The batch is filled with the requests nearest to the first one
    in length, so that there is little padding; of equals the earliest comes first. A batch that
    fails is tried again in halves: a faulty request fails alone, and a batch that outgrows the
    memory does not end the run.

    Args:
        run_batch: Yields (index of a request, its result) as soon as it is there, in any order.
            Called in `executor`.
        executor: One thread, which its giver ends. Two batchers that share it never run at the same
            time, as a CPU prefers. None: one of the batcher's own, as on a GPU.
        max_size: Most requests in a batch, weighed by `size_of`.
        key_of: Key of a request: only requests with equal keys share a batch.
        size_of: Weight of a request. One heavier than `max_size` runs alone.
        length_of: Length that a request is padded to, in tokens.
    """

    def __init__(
        self,
        run_batch: Callable[[Sequence[Request]], Iterable[tuple[int, Result]]],
        executor: ThreadPoolExecutor | None,
        max_size: float,
        key_of: Callable[[Request], Hashable] = lambda request: None,
        size_of: Callable[[Request], float] = lambda request: 1,
        length_of: Callable[[Request], int] = lambda request: 0,
    ):
        self._run_batch = run_batch
        self._own_executor = None if executor else ThreadPoolExecutor(1)
        self._executor = executor or self._own_executor
        self._max_size = max_size
        self._key_of = key_of
        self._size_of = size_of
        self._length_of = length_of
        self._waiting: list[_Entry] = []
        self._loop_task: asyncio.Task[None] | None = None

    async def submit(self, request: Request) -> Result:
        """Returns the result of one request, once it is there; raises the error of its batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(
            _Entry(
                request,
                future,
                self._key_of(request),
                self._size_of(request),
                self._length_of(request),
                current_urgency(),
            )
        )
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._serve())
        return await future

    async def close(self) -> None:
        """Cancels the waiting requests. A running batch ends in its thread, its results unused.

        Nothing can be submitted any more to a batcher that has a thread of its own.
        """
        for entry in self._waiting:
            entry.future.cancel()
        self._waiting.clear()
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
            self._loop_task = None
        if self._own_executor is not None:
            self._own_executor.shutdown(wait=False)

    async def _serve(self) -> None:
        # The task ends when nothing waits: an idle batcher holds none.
        while True:
            # One turn of the loop lets every search that is ready to ask do so first.
            await asyncio.sleep(0)
            batch = self._take_batch()
            if not batch:
                self._loop_task = None
                return
            await self._run(batch)

    async def _run(self, batch: list[_Entry]) -> None:
        loop = asyncio.get_running_loop()

        def answer(entry: _Entry, result: Result) -> None:
            if not entry.future.done():
                entry.future.set_result(result)

        def work() -> None:
            for index, result in self._run_batch([entry.request for entry in batch]):
                loop.call_soon_threadsafe(answer, batch[index], result)

        try:
            await loop.run_in_executor(self._executor, work)
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
                    entry.future.set_exception(error)
                return
            # One request is at fault, or all of them are too much at once: halves tell.
            for half in (failed[: len(failed) // 2], failed[len(failed) // 2 :]):
                if half:
                    await self._run(half)

    def _take_batch(self) -> list[_Entry]:
        self._waiting = [entry for entry in self._waiting if not entry.future.cancelled()]
        if not self._waiting:
            return []
        self._waiting.sort(key=lambda entry: entry.urgency.rank)  # stable: else the oldest first
        first = self._waiting[0]
        by_distance = sorted(
            (abs(entry.length - first.length), index)
            for index, entry in enumerate(self._waiting)
            if entry.key == first.key
        )
        taken: set[int] = set()
        size = 0.0
        for _, index in by_distance:
            size += self._waiting[index].size
            if taken and size > self._max_size:
                break
            taken.add(index)
        batch = [entry for index, entry in enumerate(self._waiting) if index in taken]
        self._waiting = [entry for index, entry in enumerate(self._waiting) if index not in taken]
        return batch
