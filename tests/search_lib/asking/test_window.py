"""Slots that questions share: how many there are, and who gets a free one."""

import asyncio
import random

import pytest

from search_lib.asking.window import SharedWindow
from search_lib.urgency import current_urgency


async def settle():
    """Lets all tasks go as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Searches:
    """Searches of several questions, which end when they are told to."""

    def __init__(self, window):
        self.window = window
        self.in_flight = []
        self.tasks = []

    def start(self, share, name, count):
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._search(share, name)))

    async def _search(self, share, name):
        async with share.turn():
            end = asyncio.get_running_loop().create_future()
            self.in_flight.append((name, end))
            try:
                await end
            finally:
                self.in_flight.remove((name, end))

    @property
    def names(self):
        return [name for name, _ in self.in_flight]

    async def end(self, name):
        next(end for one, end in self.in_flight if one == name).set_result(None)
        await settle()


def test_no_more_searches_are_in_flight_than_there_are_slots():
    async def body():
        window, draw, most = SharedWindow(3), random.Random(0), 0
        searches = Searches(window)
        shares = {name: window.share(draw.randrange(1, 9)) for name in "abcd"}
        for name in "abcd" * 5:
            searches.start(shares[name], name, draw.randrange(1, 3))
            await settle()
            most = max(most, len(searches.in_flight))
            if draw.random() < 0.5:
                await searches.end(draw.choice(searches.names))
        while searches.in_flight:
            most = max(most, len(searches.in_flight))
            await searches.end(draw.choice(searches.names))
        assert most == 3
        assert all(task.done() for task in searches.tasks)

    asyncio.run(body())


def test_a_small_question_does_not_wait_for_all_of_a_large_one():
    async def body():
        searches = Searches(SharedWindow(2))
        searches.start(searches.window.share(4), "large", 10)
        await settle()
        searches.start(searches.window.share(4), "small", 1)
        await searches.end("large")
        assert sorted(searches.names) == ["large", "small"]
        for task in searches.tasks:
            task.cancel()

    asyncio.run(body())


def test_slots_go_to_who_has_the_fewest_blocks_in_flight():
    async def body():
        searches = Searches(SharedWindow(6))
        wide, narrow = searches.window.share(8), searches.window.share(2)
        blocker = searches.window.share(1)
        searches.start(blocker, "blocker", 6)
        await settle()
        searches.start(wide, "wide", 6)
        searches.start(narrow, "narrow", 6)
        for _ in range(6):
            await searches.end("blocker")
        # The sixth slot is free when both have eight blocks.
        assert searches.names.count("wide") == 2
        assert searches.names.count("narrow") == 4
        for task in searches.tasks:
            task.cancel()

    asyncio.run(body())


def test_equal_questions_take_turns():
    async def body():
        searches = Searches(SharedWindow(1))
        order = []
        for name in "abc":
            searches.start(searches.window.share(4), name, 3)
        await settle()
        while searches.in_flight:
            order += searches.names
            await searches.end(searches.names[0])
        assert order == list("abcabcabc")

    asyncio.run(body())


@pytest.mark.parametrize("num_turns", range(6))
def test_a_cancelled_search_leaves_its_slot_to_others_whenever_that_is(num_turns):
    async def body():
        window = SharedWindow(1)
        first, second, third = (window.share(1) for _ in range(3))

        async def hold(share, reached):
            async with share.turn():
                reached.set()
                await asyncio.sleep(0)

        reached = [asyncio.Event() for _ in range(3)]
        tasks = [
            asyncio.create_task(hold(share, event))
            for share, event in zip((first, second, third), reached, strict=True)
        ]
        for _ in range(num_turns):
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert reached[2].is_set()
        assert (first.slots, second.slots, third.slots, window.num_waiting) == (0, 0, 0, 0)
        async with asyncio.timeout(5), window.share(1).turn():
            pass

    asyncio.run(body())


def test_requests_go_by_the_order_in_which_searches_got_their_slots():
    async def body():
        window, orders = SharedWindow(2), []

        async def search(share):
            async with share.turn():
                orders.append(current_urgency().order)
                await settle()

        first, second = window.share(4), window.share(4)
        # The later question's first search comes behind two of the earlier one.
        await asyncio.gather(search(first), search(first), search(second))
        return orders

    orders = asyncio.run(body())
    assert orders == sorted(orders)
    assert len({*orders}) == 3
