"""Rows of several chunks in flight at once, chunks whole and in order within."""

import asyncio
import random

import pytest

from data_prep.stages import Chunk
from data_prep.window import HELD_WINDOWS, run_rows


def make_chunks(sizes: list[int]) -> list[Chunk]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        Chunk("train", number, len(sizes), start, start + size)
        for number, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


class Work:
    """Answers rows in any order; knows how many are in flight and in memory."""

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.started: list[int] = []
        self.running = self.most_running = self.held = self.most_held = 0
        self.chunks: list[tuple[Chunk, list[int]]] = []

    async def __call__(self, row: int) -> int:
        self.started.append(row)
        self.running += 1
        self.held += 1
        self.most_running = max(self.most_running, self.running)
        self.most_held = max(self.most_held, self.held)
        for _ in range(self.rng.randrange(30)):
            await asyncio.sleep(0)
        self.running -= 1
        return -row

    def on_chunk(self, chunk: Chunk, results: list[int]) -> None:
        self.held -= len(results)
        self.chunks.append((chunk, results))


def run(work: Work, sizes: list[int], window: int) -> None:
    chunks = make_chunks(sizes)
    asyncio.run(
        run_rows(chunks, lambda c: range(c.start, c.stop), work, work.on_chunk, window=window)
    )


@pytest.mark.parametrize("window", [4, 7, 100])
def test_every_chunk_gets_its_results_in_order(window):
    sizes = [4, 3, 0, 4, 1, 4, 4, 2]
    work = Work(seed=window)
    run(work, sizes, window)
    assert sorted(work.chunks, key=lambda pair: pair[0].number) == [
        (chunk, [-row for row in range(chunk.start, chunk.stop)]) for chunk in make_chunks(sizes)
    ]
    assert work.started == list(range(sum(sizes)))
    assert work.most_running <= window
    assert work.most_held <= HELD_WINDOWS * window


def test_the_window_stays_full_across_chunks():
    """Fixed batches would leave ever fewer rows in flight at each batch's end."""
    work = Work(seed=0)
    sampled: list[int] = []

    async def sample(row: int) -> int:
        result = await work(row)
        sampled.append(work.running)
        return result

    chunks = make_chunks([4] * 50)
    asyncio.run(run_rows(chunks, lambda c: range(c.start, c.stop), sample, work.on_chunk, 32))
    assert work.most_running == 32
    middle = sampled[40:-40]
    assert sum(middle) / len(middle) > 26  # of 32; batches of 32 would have 16
    assert work.most_held <= HELD_WINDOWS * 32


def test_chunks_are_read_as_there_is_room():
    """Memory is bounded: every chunk has a slow row, and so waits in memory for it."""
    read: list[int] = []
    done = asyncio.Event()

    async def work(row: int) -> int:
        if row % 4 == 0:
            await done.wait()
        elif row == 11:
            for _ in range(50):
                await asyncio.sleep(0)
            assert read == [0, 1, 2]  # three windows of rows, only three of them in flight
            done.set()
        return row

    def read_chunk(chunk: Chunk) -> range:
        read.append(chunk.number)
        return range(chunk.start, chunk.stop)

    asyncio.run(run_rows(make_chunks([4] * 10), read_chunk, work, lambda *_: None, window=4))
    assert read == list(range(10))


def test_an_error_ends_the_run_and_nothing_goes_on():
    work = Work(seed=1)
    cancelled = []

    async def fail(row: int) -> int:
        if row == 5:
            raise RuntimeError("row 5")
        try:
            return await work(row)
        except asyncio.CancelledError:
            cancelled.append(row)
            raise

    with pytest.raises(RuntimeError, match="row 5"):
        asyncio.run(
            run_rows(
                make_chunks([3] * 4),
                lambda c: range(c.start, c.stop),
                fail,
                work.on_chunk,
                window=6,
            )
        )
    assert cancelled
    assert len(work.started) <= 6


def test_a_window_too_small_for_a_chunk_is_refused():
    with pytest.raises(ValueError, match="a chunk of 3 rows in a window of 2"):
        run(Work(0), [3], window=2)
