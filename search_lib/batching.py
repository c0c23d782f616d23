"""Groups what concurrent searches wait for, so that a model sees batches."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Batcher(Generic[Request, Result]):
    """Runs a blocking batch function in a worker thread over whatever requests are waiting.

    While one batch runs, new requests queue up and form the next. First come, first served: a
    batch starts with the oldest request and takes the oldest others that may share its batch.

    Args:
        run_batch: maps requests to their results, in order. Called in ``executor``.
        executor: one thread. Two batchers that share it never run at the same time, which is
            what a CPU wants; on a GPU each has its own.
        max_size: requests in a batch at most, weighed by ``size_of``.
        key_of: only requests with equal keys share a batch.
        size_of: weight of one request. A request heavier than ``max_size`` runs alone.
    """

    def __init__(
        self,
        run_batch: Callable[[Sequence[Request]], Sequence[Result]],
        executor: ThreadPoolExecutor,
        max_size: int,
        key_of: Callable[[Request], Hashable] = lambda request: None,
        size_of: Callable[[Request], int] = lambda request: 1,
    ):
        self._run_batch = run_batch
        self._executor = executor
        self._max_size = max_size
        self._key_of = key_of
        self._size_of = size_of
        self._waiting: list[tuple[Request, asyncio.Future[Result]]] = []
        self._loop_task: asyncio.Task[None] | None = None

    async def submit(self, request: Request) -> Result:
        """Waits for the result of one request; raises what its batch raised."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._serve())
        return await future

    async def close(self) -> None:
        """Cancels what still waits. A batch that is running ends in its thread, unheard."""
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
            self._loop_task = None

    async def _serve(self) -> None:
        # Lives while something waits, then ends: an idle batcher holds no task.
        loop = asyncio.get_running_loop()
        while True:
            # One turn of the loop lets every search that is ready to ask do so first.
            await asyncio.sleep(0)
            batch = self._take_batch()
            if not batch:
                self._loop_task = None
                return
            try:
                results = await loop.run_in_executor(
                    self._executor, self._run_batch, [request for request, _ in batch]
                )
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)

    def _take_batch(self) -> list[tuple[Request, asyncio.Future[Result]]]:
        batch: list[tuple[Request, asyncio.Future[Result]]] = []
        rest: list[tuple[Request, asyncio.Future[Result]]] = []
        size = 0
        for request, future in self._waiting:
            if future.cancelled():
                continue
            fits = not batch or (
                self._key_of(request) == self._key_of(batch[0][0])
                and size + self._size_of(request) <= self._max_size
            )
            if fits:
                batch.append((request, future))
                size += self._size_of(request)
            else:
                rest.append((request, future))
        self._waiting = rest
        return batch
