"""Who is answered, who waits, and until when."""

import asyncio

import pytest

from search_lib.serve.admission import Admission, Deadlines
from search_lib.serve.errors import ApiError


def with_loop(work):
    async def run():
        return work()

    return asyncio.run(run())


def test_requests_beyond_the_places_wait_and_further_ones_are_refused():
    def work():
        admission = Admission(max_running=2, max_queued=1)
        places = [admission.take() for _ in range(3)]
        assert [place.ready.done() for place in places] == [True, True, False]
        with pytest.raises(ApiError) as refused:
            admission.take()
        assert refused.value.status_code == 429

    with_loop(work)


def test_who_has_waited_longest_is_next():
    def work():
        admission = Admission(max_running=1, max_queued=2)
        first, second, third = (admission.take() for _ in range(3))
        admission.leave(first)
        assert (second.ready.done(), third.ready.done()) == (True, False)

    with_loop(work)


def test_who_leaves_the_queue_frees_no_place_of_another():
    def work():
        admission = Admission(max_running=1, max_queued=2)
        _, second, third = (admission.take() for _ in range(3))
        admission.leave(second)
        assert not third.ready.done()
        assert (admission.num_running, admission.num_queued) == (1, 1)

    with_loop(work)


def test_a_place_given_to_a_request_that_is_just_cancelled_is_left_by_it():
    def work():
        admission = Admission(max_running=1, max_queued=1)
        first, second = admission.take(), admission.take()
        second.ready.cancel()  # as the cancellation of whoever awaits it does
        admission.leave(first)
        admission.leave(second)
        assert (admission.num_running, admission.num_queued) == (0, 0)

    with_loop(work)


@pytest.mark.parametrize(
    ("durations", "seconds"), [([], 1), ([0.1], 1), ([10.0, 20.0], 15), ([10.0**6], 3600)]
)
def test_retry_after_is_when_a_place_is_likely_to_be_free(durations, seconds, monkeypatch):
    def work():
        now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: now)
        admission = Admission(max_running=2, max_queued=1)
        for duration in durations:
            place = admission.take()
            now += duration
            admission.leave(place)
        for _ in range(3):
            admission.take()
        return int(admission.refusal().headers["retry-after"])

    # Two are answered at once, and one waits already.
    assert with_loop(work) == seconds


def test_a_request_that_takes_too_long_gets_504():
    async def work():
        with pytest.raises(ApiError) as ended:
            async with Deadlines(0.0).limit():
                await asyncio.Event().wait()
        return ended.value.status_code

    assert asyncio.run(work()) == 504


def test_a_time_out_within_the_work_is_not_that_of_the_request():
    async def work():
        async with Deadlines(1000.0).limit():
            raise TimeoutError("of a socket")

    with pytest.raises(TimeoutError, match="of a socket"):
        asyncio.run(work())


def test_the_end_of_the_server_ends_requests_and_lets_no_new_ones_in():
    async def work():
        deadlines = Deadlines(1000.0)

        async def request():
            async with deadlines.limit():
                await asyncio.Event().wait()

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        deadlines.close(0.0)
        found = await asyncio.gather(task, request(), return_exceptions=True)
        return [error.status_code for error in found]

    assert asyncio.run(work()) == [503, 503]
