"""The runner with a fake engine and scorer: scheduling, costs and failures."""

import asyncio

import pytest

from search_lib.benchmarks import Problem
from search_lib.engines.base import Block
from search_lib.runner import SearchJob, TooManyFailures, run_search, run_searches
from search_lib.strategies import Limits, strategy_factory

LIMITS = Limits(max_length=6, block_size=2, stop_token_ids=(9,))


class CountingEngine:
    """Answers at once with tokens of 1, and knows how many requests it had and has."""

    def __init__(self, fail_on=()):
        self.requests = 0
        self.fail_on = fail_on
        self.prompts_in_order = []

    async def generate(self, prefix_ids, n, sampling):
        self.requests += 1
        self.prompts_in_order.append(prefix_ids[0])
        await asyncio.sleep(0)
        if prefix_ids[0] in self.fail_on:
            raise RuntimeError("engine fault")
        return [Block([1] * sampling.max_new_tokens, "length") for _ in range(n)]


class HalfScorer:
    async def score(self, prefix_ids, blocks):
        return [0.5] * len(blocks)


def make_jobs(count, search_type="beam2"):
    new = strategy_factory(search_type, 4, LIMITS)
    for index in range(count):
        yield SearchJob(Problem(f"p{index}", "", ""), 0, index, new([index], index))


def run(jobs, engine, max_concurrent=4):
    finished = []

    async def body():
        return await run_searches(
            jobs,
            engine,
            HalfScorer(),
            1.0,
            1.0,
            max_concurrent,
            lambda job, cost: finished.append(job),
        )

    return asyncio.run(body()), finished


def test_costs_count_every_block():
    (job,) = make_jobs(1)
    cost = asyncio.run(run_search(job.strategy, CountingEngine(), HalfScorer(), 1.0, 1.0))
    assert cost.tokens_generated == 3 * 2 * 2 * 2  # rounds x beams x blocks x tokens


def test_every_search_ends_and_a_job_is_made_only_when_a_slot_is_free():
    made, in_flight_at_making, finished_count = [], [], [0]

    def jobs():
        for job in make_jobs(20):
            in_flight_at_making.append(len(made) - finished_count[0])
            made.append(job)
            yield job

    async def body():
        def on_finished(job, cost):
            finished_count[0] += 1

        return await run_searches(jobs(), CountingEngine(), HalfScorer(), 1.0, 1.0, 3, on_finished)

    assert asyncio.run(body()) == []
    assert finished_count == [20]
    assert max(in_flight_at_making) == 2


def test_a_failed_search_is_named_and_the_others_go_on():
    failures, finished = run(make_jobs(20), CountingEngine(fail_on=(3, 11)))
    assert [failure.name for failure in failures] == [
        "problem p3, repetition 0",
        "problem p11, repetition 0",
    ]
    assert "engine fault" in str(failures[0].error)
    assert {job.problem.id for job in finished} == {f"p{i}" for i in range(20)} - {"p3", "p11"}


def test_an_engine_that_always_fails_stops_the_run():
    engine = CountingEngine(fail_on=range(1000))
    with pytest.raises(TooManyFailures, match=r"8 searches failed in a row.*engine fault"):
        run(make_jobs(1000), engine)
    assert engine.requests < 40


def test_a_strategy_that_never_asks_is_an_error_not_a_hang():
    class Stuck:
        done = False

        def ask(self):
            return []

    with pytest.raises(RuntimeError, match="Stuck is not done, yet asks for nothing"):
        asyncio.run(run_search(Stuck(), CountingEngine(), HalfScorer(), 1.0, 1.0))


def test_early_problems_finish_early():
    _, finished = run(make_jobs(30), CountingEngine(), max_concurrent=5)
    order = [int(job.problem.id[1:]) for job in finished]
    assert all(abs(position - index) < 10 for position, index in enumerate(order))
