"""Keeps an engine busy: rows of several chunks at once, each chunk handed over when complete.

Rows start in order as soon as there is room, whichever chunk they belong to, so that no engine
waits for the slowest row of a batch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar, cast

from data_prep.stages import Chunk

HELD_WINDOWS = 3
"""Most rows in memory, in windows: in flight, or waiting for the rest of their chunk."""

Row = TypeVar("Row")
Result = TypeVar("Result")


class _OpenChunk(Generic[Result]):
    """A chunk some of whose rows have no result yet."""

    def __init__(self, chunk: Chunk, num_rows: int):
        self.chunk = chunk
        self.results: list[Result | None] = [None] * num_rows
        self.num_missing = num_rows


def _open_chunks(
    chunks: Iterable[Chunk],
    read: Callable[[Chunk], Sequence[Row]],
    hand_over: Callable[[_OpenChunk[Result]], None],
    window: int,
) -> Iterator[tuple[_OpenChunk[Result], int, Row]]:
    """Yields each row with its place; hands over chunks without rows."""
    for chunk in chunks:
        rows = read(chunk)
        if len(rows) > window:
            raise ValueError(f"a chunk of {len(rows)} rows in a window of {window}")
        opened: _OpenChunk[Result] = _OpenChunk(chunk, len(rows))
        if not rows:
            hand_over(opened)
        for index, row in enumerate(rows):
            yield opened, index, row


async def run_rows(
    chunks: Iterable[Chunk],
    read: Callable[[Chunk], Sequence[Row]],
    work: Callable[[Row], Awaitable[Result]],
    on_chunk: Callable[[Chunk, list[Result]], None],
    window: int,
) -> None:
    """Works on the rows of chunks, many at once.

    Args:
        chunks: The chunks; they are taken one by one, as there is room.
        read: Returns the rows of a chunk.
        work: Returns the result of a row. An error ends the run; chunks that were handed over
            before stay so.
        on_chunk: Takes each chunk with the results of its rows, in order, as soon as all of them
            are there. Chunks may come in another order than they were taken in.
        window: Rows in flight at once. At most `HELD_WINDOWS` times as many are in memory: one
            slow row doesn't hold back the others at once, and they don't pile up behind it.

    Raises:
        ValueError: If a chunk has more rows than a window.
    """
    running: dict[asyncio.Task[Result], tuple[_OpenChunk[Result], int]] = {}
    held = 0

    def hand_over(opened: _OpenChunk[Result]) -> None:
        nonlocal held
        held -= len(opened.results)
        on_chunk(opened.chunk, cast(list[Result], opened.results))

    waiting = _open_chunks(chunks, read, hand_over, window)
    try:
        while True:
            while len(running) < window and held < HELD_WINDOWS * window:
                place = next(waiting, None)
                if place is None:
                    break
                opened, index, row = place
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
