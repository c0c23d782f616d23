"""Keeps an engine busy: rows of several chunks at once, each chunk handed over when it is whole.

Rows start in order as soon as there is room, whatever chunk they are of, so that no engine waits
for the slowest row of a batch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar, cast

from data_prep.stages import Chunk

HELD_WINDOWS = 3
"""Rows in memory at most, in windows: in flight, or waiting for the rest of their chunk."""

Row = TypeVar("Row")
Result = TypeVar("Result")


class _OpenChunk(Generic[Result]):
    """A chunk some of whose rows have no result yet."""

    def __init__(self, chunk: Chunk, num_rows: int):
        self.chunk = chunk
        self.results: list[Result | None] = [None] * num_rows
        self.num_missing = num_rows


async def run_rows(
    chunks: Iterable[Chunk],
    read: Callable[[Chunk], Sequence[Row]],
    work: Callable[[Row], Awaitable[Result]],
    on_chunk: Callable[[Chunk, list[Result]], None],
    window: int,
) -> None:
    """Works on the rows of chunks, many at once.

    Args:
        chunks: taken one by one, as there is room.
        read: gives the rows of a chunk.
        work: gives the result of a row. What it raises ends the run; chunks that were handed over
            stay so.
        on_chunk: is handed each chunk with the results of its rows, in order, as soon as it has
            them all. Chunks may come in another order than they were taken in.
        window: rows in flight at once. ``HELD_WINDOWS`` times as many are in memory at most: one
            slow row doesn't hold back the others at once, and not for ever.

    Raises:
        ValueError: if a chunk has more rows than a window.
    """
    waiting = iter(chunks)
    started: list[tuple[_OpenChunk[Result], int, Row]] = []  # of the chunk read last, to be started
    running: dict[asyncio.Task[Result], tuple[_OpenChunk[Result], int]] = {}
    held = 0

    def hand_over(opened: _OpenChunk[Result]) -> None:
        nonlocal held
        held -= len(opened.results)
        on_chunk(opened.chunk, cast(list[Result], opened.results))

    try:
        while True:
            while len(running) < window and held < HELD_WINDOWS * window:
                if not started:
                    chunk = next(waiting, None)
                    if chunk is None:
                        break
                    rows = read(chunk)
                    if len(rows) > window:
                        raise ValueError(f"a chunk of {len(rows)} rows in a window of {window}")
                    opened: _OpenChunk[Result] = _OpenChunk(chunk, len(rows))
                    if not rows:
                        hand_over(opened)
                    started = [(opened, index, row) for index, row in enumerate(rows)][::-1]
                    continue
                opened, index, row = started.pop()
                held += 1
                running[asyncio.ensure_future(work(row))] = opened, index
            if not running:
                return
            ended, _ = await asyncio.wait(running, return_when="FIRST_COMPLETED")
            for task in ended:
                opened, index = running.pop(task)
                opened.results[index] = task.result()
                opened.num_missing -= 1
                if not opened.num_missing:
                    hand_over(opened)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
