"""The running batch: who joins it, who leaves it, when it is interrupted, and its failures."""

import asyncio
from contextlib import closing

import pytest

from search_lib.batching import Batcher, ModelThread
from search_lib.continuous import MAX_STEPS, ContinuousBatcher, Load
from search_lib.urgency import Urgency, urgency
from tests.support.executors import Inline


class Countdown:
    """A process whose requests are (name, steps that they need). Its log has a name a row."""

    def __init__(self, faulty="", refused="", room=100):
        self.left = {}
        self.log = []
        self.faulty = faulty
        self.refused = refused
        self.room = room

    def join(self, requests):
        if any(name in self.refused for name, _ in requests):
            raise KeyError(requests)
        if len(self.left) + len(requests) > self.room:
            raise MemoryError
        self.left |= {request: request[1] for request in requests}

    def step(self):
        self.log.append("".join(name for name, _ in self.left))
        if any(name in self.faulty for name, _ in self.left):
            raise ZeroDivisionError
        self.left = {request: steps - 1 for request, steps in self.left.items()}
        ended = [request for request, steps in self.left.items() if not steps]
        self.remove(ended)
        return [(request, request[0].upper()) for request in ended]

    def remove(self, requests):
        for request in list(requests):
            del self.left[request]


def run(process, searches, interruption=0.0, max_rows=100, max_tokens=10_000):
    """Runs searches that ask for one (name, steps) after the other; returns the last answers."""

    async def search(batcher, asked, who):
        urgency.set(who)
        for request in asked:
            answer = await batcher.submit(request)
        return answer

    async def body():
        batcher = ContinuousBatcher(
            process,
            ModelThread(Inline()),
            lambda request: Load(1, request[1]),
            max_rows,
            max_tokens,
            interruption,
        )
        tasks = [
            search(batcher, asked, who)
            for asked, who in (
                one if isinstance(one, tuple) else (one, Urgency(order))
                for order, one in enumerate(searches)
            )
        ]
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(body())


def test_each_request_leaves_when_its_own_steps_are_done():
    process = Countdown()
    assert run(process, [[("a", 3)], [("b", 1)]]) == ["A", "B"]
    assert process.log == ["ab", "a", "a"]


@pytest.mark.parametrize(("interruption", "alone"), [(0.0, 0), (2.0, 1), (5.0, 4), (90.0, 15)])
def test_a_search_joins_once_it_has_lost_what_the_interruption_costs(interruption, alone):
    process = Countdown()
    answers = run(process, [[("a", 20)], [("b", 1), ("c", 2)]], interruption)
    assert answers == ["A", "C"]
    assert alone < MAX_STEPS
    assert process.log == ["ab", *["a"] * alone, "ac", "ac", *["a"] * (17 - alone)]


def test_the_more_searches_wait_the_sooner_they_join():
    searches = [[("a", 9)], [("b", 1), ("d", 1)], [("c", 1), ("e", 1)]]
    process = Countdown()
    run(process, searches, interruption=4.0)
    assert process.log[:3] == ["abc", "a", "ade"]


def test_nothing_is_interrupted_for_a_search_that_still_runs():
    process, own = Countdown(), Urgency(0)
    run(process, [([("a", 9)], own), ([("b", 1), ("c", 1)], own), [("d", 9)]])
    assert process.log == ["abd", *["ad"] * 8, "c"]


def test_guesses_join_with_others_and_interrupt_nothing():
    guess = ([("b", 1), ("c", 1)], Urgency(1, guessed=True))
    process = Countdown()
    run(process, [[("a", 9)], guess], max_rows=9)
    assert process.log == ["ab", *["a"] * 8, "c"]


def test_no_batch_has_more_rows_or_tokens_than_allowed_and_none_overtakes_the_first():
    process = Countdown()
    run(process, [[("a", 2)], [("b", 4)], [("c", 1)]], max_rows=2)
    assert process.log == ["ac", "ab", "b", "b", "b"]  # those of about one length together
    process = Countdown()
    run(process, [[("a", 2)], [("b", 9)], [("c", 2)], [("d", 2)]], max_tokens=6)
    assert process.log == ["acd", "acd", *["b"] * 9]


def test_early_searches_go_first():
    process = Countdown()
    run(process, [([(name, 1)], Urgency(order)) for name, order in [("a", 3), ("b", 1)]], 0.0, 1)
    assert process.log == ["b", "a"]


@pytest.mark.parametrize("where", ["faulty", "refused"])
def test_a_faulty_request_fails_alone(where):
    answers = run(Countdown(**{where: "c"}), [[(name, 3)] for name in "abcde"])
    assert [a for a in answers if isinstance(a, str)] == list("ABDE")
    assert isinstance(answers[2], ZeroDivisionError if where == "faulty" else KeyError)


def test_a_request_whose_joining_fails_disturbs_none_that_run():
    process = Countdown(refused="c")
    answers = run(process, [[("a", 5)], [("b", 1), ("c", 1)], [("d", 1), ("e", 1)]])
    assert answers[::2] == ["A", "E"]
    assert isinstance(answers[1], KeyError)
    assert process.log == ["abd", *["a"] * 4, "e"]


def test_what_is_too_much_at_once_runs_in_parts_and_none_is_lost():
    names = "abcdefghi"
    process = Countdown(room=2)
    assert run(process, [[(name, 2)] for name in names]) == list(names.upper())
    assert max(map(len, process.log)) <= 2


def test_a_cancelled_request_leaves():
    process = Countdown()

    async def body():
        with closing(ModelThread(Inline())) as thread:
            batcher = ContinuousBatcher(process, thread, lambda _: Load(1, 1), 9, 99, 0.0)
            long = asyncio.create_task(batcher.submit(("a", 10)))
            step = process.step

            def step_and_cancel():
                if len(process.log) == 3:
                    long.cancel()
                    process.step = step
                return step()

            process.step = step_and_cancel
            assert await batcher.submit(("b", 6)) == "B"
            with pytest.raises(asyncio.CancelledError):
                await long

    asyncio.run(body())
    assert process.log == ["ba"] * 4 + ["b"] * 2


def test_close_cancels_what_runs_and_what_waits():
    process = Countdown()

    async def body():
        batcher = ContinuousBatcher(process, None, lambda _: Load(1, 1), 1, 1, 0.0)
        tasks = [asyncio.create_task(batcher.submit((name, 10**9))) for name in "ab"]
        while not process.log:
            await asyncio.sleep(0)
        await batcher.close()
        for task in tasks:
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(body())


def test_values_have_their_turn_while_a_batch_runs_and_before_others_join():
    process = Countdown()

    async def body():
        with closing(ModelThread(Inline())) as thread:
            blocks = ContinuousBatcher(process, thread, lambda _: Load(1, 1), 9, 99, 2.0)

            def score(batch):
                process.log.append(f"values of {''.join(sorted(batch))}")
                return enumerate(batch)

            values = Batcher(score, thread, 9)

            async def search(order, *requests):
                urgency.set(Urgency(order))
                for request in requests:
                    await values.submit(await blocks.submit(request))

            await asyncio.gather(
                search(0, ("a", 6)), search(1, ("b", 1), ("d", 1)), search(2, ("c", 2), ("e", 1))
            )

    asyncio.run(body())
    assert process.log == [
        *["abc", "ac", "values of BC", "ade", "values of DE", "a", "a", "a", "values of A"]
    ]
