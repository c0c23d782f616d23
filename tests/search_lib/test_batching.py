"""The batcher: which requests share a batch, and the failure of a batch."""

import asyncio
import threading
from contextlib import closing

import pytest

from search_lib.batching import Answers, Batcher, Entry, ModelThread
from search_lib.urgency import Urgency, urgency


def in_order(run_batch):
    return lambda batch: enumerate(run_batch(batch))


def submit_all(requests, run_batch, **options):
    async def body():
        with closing(ModelThread()) as thread:
            batcher = Batcher(in_order(run_batch), thread, **options)
            return await asyncio.gather(
                *(batcher.submit(request) for request in requests), return_exceptions=True
            )

    return asyncio.run(body())


def test_what_waits_shares_a_batch_up_to_its_size():
    batches = []

    def double(batch):
        batches.append(list(batch))
        return [2 * x for x in batch]

    assert submit_all(range(10), double, max_size=4) == [2 * x for x in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_only_equal_keys_share_a_batch_and_the_oldest_goes_first():
    batches = []

    def record(batch):
        batches.append(list(batch))
        return batch

    submit_all([1, 10, 2, 20, 3], record, max_size=9, key_of=lambda x: x >= 10)
    assert batches == [[1, 2, 3], [10, 20]]


def test_a_batch_is_the_oldest_request_and_those_nearest_to_it_in_length():
    batches = []

    def record(batch):
        batches.append(list(batch))
        return batch

    submit_all([50, 1, 52, 2, 49, 51, 3], record, max_size=3, length_of=lambda x: x)
    assert batches == [[50, 49, 51], [1, 2, 3], [52]]


def test_the_earliest_search_goes_first_whoever_asked_first():
    batches = []

    def record(batch):
        batches.append(list(batch))
        return batch

    async def body():
        async def ask(order, request):
            urgency.set(Urgency(order))
            return await batcher.submit(request)

        with closing(ModelThread()) as thread:
            batcher = Batcher(in_order(record), thread, max_size=2)
            requests = ((3, "a"), (1, "b"), (2, "c"), (1, "d"), (2, "e"))
            await asyncio.gather(*(ask(*request) for request in requests))

    asyncio.run(body())
    assert batches == [["b", "d"], ["c", "e"], ["a"]]


def test_guesses_go_last_until_they_are_none():
    batches = []
    urgencies = {"guess": Urgency(0, guessed=True), "other guess": Urgency(1, guessed=True)}
    urgencies["certain"] = Urgency(2)

    def record(batch):
        batches.append(list(batch))
        if batch == ["certain"]:
            urgencies["other guess"].guessed = False
        return batch

    async def body():
        async def ask(request):
            urgency.set(urgencies[request])
            return await batcher.submit(request)

        with closing(ModelThread()) as thread:
            batcher = Batcher(in_order(record), thread, max_size=1)
            await asyncio.gather(*map(ask, urgencies))

    asyncio.run(body())
    assert batches == [["certain"], ["other guess"], ["guess"]]


def test_sizes_are_weighed_and_one_that_is_too_large_runs_alone():
    batches = []

    def record(batch):
        batches.append(list(batch))
        return batch

    submit_all([3, 3, 9, 3], record, max_size=6, size_of=lambda x: x)
    assert batches == [[3, 3], [9], [3]]


def test_a_failed_batch_fails_its_own_requests_only():
    def divide(batch):
        return [1 // x for x in batch]

    for max_size in (1, 4):
        one, zero, two = submit_all([1, 0, 1], divide, max_size=max_size)
        assert (one, two) == (1, 1)
        assert isinstance(zero, ZeroDivisionError)


def test_a_batch_that_is_too_much_at_once_is_halved():
    def small_memory(batch):
        if len(batch) > 2:
            raise MemoryError
        return batch

    assert submit_all(range(9), small_memory, max_size=9) == list(range(9))


def test_a_missing_result_is_an_error_and_not_a_hang():
    for result in submit_all([1, 2], lambda batch: [], max_size=4):
        assert "of a batch of 1 requests, 1 got no result" in str(result)


def test_a_request_is_answered_while_its_batch_still_runs():
    release = threading.Event()

    def one_by_one(batch):
        yield batch.index("quick"), "early"
        assert release.wait(10)
        yield batch.index("slow"), "late"

    async def body():
        with closing(ModelThread()) as thread:
            batcher = Batcher(one_by_one, thread, max_size=2)
            slow = asyncio.create_task(batcher.submit("slow"))
            assert await batcher.submit("quick") == "early"
            assert not slow.done()
            release.set()
            assert await slow == "late"

    asyncio.run(body())


def test_answers_that_come_together_wake_the_event_loop_once():
    async def body():
        loop = asyncio.get_running_loop()
        calls, wake = [], loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *call: (calls.append(call), wake(*call))
        answers, entries = Answers(loop), [Entry.of(number) for number in range(4)]
        for entry in entries[:3]:
            answers.give(entry, entry.request)
        first = await asyncio.gather(*(entry.future for entry in entries[:3]))
        answers.give(entries[3], 3)
        return first, await entries[3].future, len(calls)

    assert asyncio.run(body()) == ([0, 1, 2], 3, 2)


def test_after_a_failure_only_what_was_not_answered_is_tried_again():
    batches = []

    def small_memory(batch):
        batches.append(list(batch))
        yield len(batch) - 1, batch[-1]
        if len(batch) > 2:
            raise MemoryError
        yield from enumerate(batch)

    async def body():
        with closing(ModelThread()) as thread:
            batcher = Batcher(small_memory, thread, max_size=4)
            return await asyncio.gather(*(batcher.submit(x) for x in range(4)))

    assert asyncio.run(body()) == [0, 1, 2, 3]
    assert batches == [[0, 1, 2, 3], [0], [1, 2]]


def test_requests_that_come_while_a_batch_runs_form_the_next_one():
    batches = []
    running, release = threading.Event(), threading.Event()

    def slow_first(batch):
        batches.append(list(batch))
        if batch == [0]:
            running.set()
            release.wait(10)
        return batch

    async def body():
        with closing(ModelThread()) as thread:
            batcher = Batcher(in_order(slow_first), thread, max_size=9)
            first = asyncio.create_task(batcher.submit(0))
            while not running.is_set():
                await asyncio.sleep(0)
            rest = [asyncio.create_task(batcher.submit(x)) for x in (1, 2, 3)]
            await asyncio.sleep(0)
            release.set()
            await asyncio.gather(first, *rest)

    asyncio.run(body())
    assert batches == [[0], [1, 2, 3]]


def test_close_cancels_what_waits():
    release = threading.Event()

    def wait(batch):
        release.wait(10)
        return batch

    async def body():
        with closing(ModelThread()) as thread:
            batcher = Batcher(in_order(wait), thread, max_size=1)
            tasks = [asyncio.create_task(batcher.submit(x)) for x in range(3)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await batcher.close()
            release.set()
            for task in tasks:
                with pytest.raises(asyncio.CancelledError):
                    await task

    asyncio.run(body())


def test_a_thread_that_it_was_given_outlives_it_and_its_own_does_not():
    async def body(thread):
        batcher = Batcher(in_order(list), thread, max_size=1)
        assert await batcher.submit(3) == 3
        await batcher.close()
        return batcher._thread

    async def run(thread):
        return await thread.run(int)

    with closing(ModelThread()) as shared:
        assert asyncio.run(run(asyncio.run(body(shared)))) == 0
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        asyncio.run(run(asyncio.run(body(None))))
