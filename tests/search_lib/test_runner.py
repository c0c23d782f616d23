"""The runner with a fake engine and scorer: scheduling, costs and failures."""

import asyncio
import gc
import random
import weakref
from collections import Counter

import pytest

from classifier_lib.scoring import Scores
from search_lib.batching import Batcher, ModelThread
from search_lib.benchmarks import Problem
from search_lib.engines.base import Block, EngineUnavailable, Sampling
from search_lib.engines.http_service import BadReply
from search_lib.runner import SearchJob, TooManyFailures, run_search, run_searches
from search_lib.strategies import Limits, strategy_factory
from search_lib.urgency import current_urgency
from tests.support.executors import Inline

SAMPLING = Sampling()
LIMITS = Limits(max_length=6, block_size=2, stop_token_ids=(9,))


class CountingEngine:
    """Answers at once with tokens of 1, and knows how many requests it had and has."""

    def __init__(self, fail_on=(), error=RuntimeError):
        self.requests = 0
        self.fail_on = fail_on
        self.error = error
        self.prompts_in_order = []

    async def generate(self, expansion, sampling):
        self.requests += 1
        self.prompts_in_order.append(expansion.prefix_ids[0])
        await asyncio.sleep(0)
        if expansion.prefix_ids[0] in self.fail_on:
            raise self.error("engine fault")
        return [Block([1] * expansion.max_new_tokens, "length") for _ in range(expansion.n)]


class HalfScorer:
    async def score(self, prefix_ids, blocks):
        return Scores([0.5] * len(blocks), len(prefix_ids) * len(blocks))


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
            SAMPLING,
            max_concurrent,
            lambda job, cost: finished.append(job.problem.id),
        )

    return asyncio.run(body()), finished


def test_costs_count_every_block():
    (job,) = make_jobs(1)
    cost = asyncio.run(run_search(job.strategy, CountingEngine(), HalfScorer(), SAMPLING))
    assert cost.tokens_generated == 3 * 2 * 2 * 2  # rounds x beams x blocks x tokens
    assert cost.tokens_scored == cost.tokens_generated
    assert cost.tokens_cached == sum(2 * 2 * prefix for prefix in (1, 3, 5))


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

        return await run_searches(jobs(), CountingEngine(), HalfScorer(), SAMPLING, 3, on_finished)

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
    assert set(finished) == {f"p{i}" for i in range(20)} - {"p3", "p11"}


@pytest.mark.parametrize(
    ("error", "is_shown"),
    [(RuntimeError, True), (ValueError, False), (BadReply, False), (EngineUnavailable, False)],
)
def test_only_an_error_that_does_not_name_its_cause_has_a_traceback(error, is_shown, capsys):
    failures, _ = run(make_jobs(3), CountingEngine(fail_on=[1], error=error))
    assert [type(failure.error) for failure in failures] == [error]
    assert ("Traceback" in capsys.readouterr().err) == is_shown


def test_an_engine_that_always_fails_stops_the_run():
    engine = CountingEngine(fail_on=range(1000))
    with pytest.raises(TooManyFailures, match=r"8 consecutive searches failed.*engine fault"):
        run(make_jobs(1000), engine)
    assert engine.requests < 40


def test_a_strategy_that_never_asks_is_an_error_not_a_hang():
    class Stuck:
        done = False

        def ask(self):
            return []

    with pytest.raises(RuntimeError, match="Stuck is not done, yet asks for nothing"):
        asyncio.run(run_search(Stuck(), CountingEngine(), HalfScorer(), SAMPLING))


class SmallEngine:
    """Two requests a batch, of whatever length; counts batches and checks who is served."""

    def __init__(self):
        self.batcher = Batcher(self._run, ModelThread(Inline()), max_size=2)
        self.waiting = Counter()
        self.batches = 0
        self.served_at = {}

    async def generate(self, expansion, sampling):
        self.waiting[current_urgency().order] += 1
        return await self.batcher.submit((current_urgency().order, expansion))

    def _run(self, batch):
        orders = [order for order, _ in batch]
        assert orders == sorted(self.waiting.elements())[: len(batch)]
        self.waiting -= Counter(orders)
        self.batches += 1
        for order in orders:
            self.served_at.setdefault(order, []).append(self.batches)
        for index, (_, asked) in enumerate(batch):
            yield index, [Block([1] * asked.max_new_tokens, "length") for _ in range(asked.n)]


def test_searches_end_in_their_order_and_none_starves():
    engine = SmallEngine()
    failures, finished = run(make_jobs(40), engine, max_concurrent=8)
    assert not failures
    assert finished == [f"p{i}" for i in range(40)]
    # Every search has 3 rounds of 2 requests, one batch each: the first does not wait for others.
    assert engine.batches == 40 * 3
    assert engine.served_at[0][-1] <= 2 * 3
    # A search waits for the ones before it in the window, and no longer.
    for order, batches in engine.served_at.items():
        started = engine.served_at.get(order - 8, [0])[-1]  # its slot fell free
        assert batches[-1] - started <= 8 * 3


def test_no_search_starves_whatever_their_lengths():
    rng = random.Random(0)

    def jobs():
        for index in range(60):
            rounds = rng.choice([1, 1, 1, 2, 30])
            limits = Limits(max_length=rounds, block_size=1, stop_token_ids=(9,))
            new = strategy_factory("beam2", 4, limits)
            yield SearchJob(Problem(f"p{index}", "", ""), 0, index, new([index], index))

    failures, finished = run(jobs(), SmallEngine(), max_concurrent=8)
    assert not failures
    assert len(finished) == 60
    for position, problem_id in enumerate(finished):
        # Of the searches before it, at most those that share its window can still run.
        assert int(problem_id[1:]) - position < 8


def test_memory_does_not_grow_with_the_number_of_problems():
    alive = weakref.WeakSet()
    most = 0

    def jobs():
        nonlocal most
        for job in make_jobs(300):
            alive.add(job.strategy)
            gc.collect()
            most = max(most, len(alive))
            yield job

    gc.freeze()  # the collections need not look at all of torch
    try:
        failures, finished = run(jobs(), CountingEngine(fail_on=range(5, 300, 5)))
    finally:
        gc.unfreeze()
    assert (len(failures), len(finished)) == (59, 241)
    assert most <= 4 + 2  # the window, and what the loop has at hand
    del finished
    gc.collect()
    assert not alive


def test_some_generate_while_others_are_scored():
    class OneAtATime(CountingEngine):
        lock = asyncio.Lock()

        async def generate(self, *request):
            async with self.lock:
                return await super().generate(*request)

    engine = OneAtATime()
    generated_meanwhile = []

    class SlowScorer(HalfScorer):
        async def score(self, prefix_ids, blocks):
            before = engine.requests
            for _ in range(20):
                await asyncio.sleep(0)
            generated_meanwhile.append(engine.requests - before)
            return await super().score(prefix_ids, blocks)

    async def body():
        return await run_searches(
            make_jobs(30), engine, SlowScorer(), SAMPLING, 6, lambda job, cost: None
        )

    assert asyncio.run(body()) == []
    assert len(generated_meanwhile) == 30 * 3 * 2
    assert sum(count > 0 for count in generated_meanwhile) > 0.9 * len(generated_meanwhile)


def test_what_is_ahead_is_greedy_and_its_tokens_are_costs():
    greedy = []

    class Engine(CountingEngine):
        async def generate(self, expansion, sampling):
            greedy.append((expansion.greedy, sampling.temperature))
            return await super().generate(expansion, sampling)

    (job,) = make_jobs(1, "lookahead2")
    cost = asyncio.run(run_search(job.strategy, Engine(), HalfScorer(), SAMPLING))
    assert set(greedy) == {(False, SAMPLING.temperature), (True, 0.0)}
    # One beam of two blocks of two tokens, in three rounds; as much ahead, in all but the last.
    assert cost.tokens_generated == cost.tokens_scored == 3 * 2 * 2 + 2 * 2 * 2
    assert sum(node.num_tokens for node in job.strategy.nodes) == cost.tokens_generated


@pytest.mark.parametrize(
    "search_type",
    [
        *("beam2", "bfs", "bon", "random2", "lookahead2", "dvts2", "stochastic2"),
        *("particles", "entropic", "prune2", "reject50"),
    ],
)
def test_no_block_is_scored_twice_and_a_response_has_its_last_blocks_value(search_type):
    rng = random.Random(0)
    scored = []

    class Engine(CountingEngine):
        async def generate(self, expansion, sampling):
            await asyncio.sleep(0)
            blocks = []
            for _ in range(expansion.n):  # no two blocks alike
                ids = [rng.randrange(10, 10**9) for _ in range(expansion.max_new_tokens)]
                stop = rng.random() < 0.3
                blocks.append(Block([*ids[:-1], 9], "stop") if stop else Block(ids, "length"))
            return blocks

    class RandomScorer:
        async def score(self, prefix_ids, blocks):
            values = [rng.random() for _ in blocks]
            for block, value in zip(blocks, values, strict=True):
                scored.append((tuple(prefix_ids + block.token_ids), value))
            return Scores(values, 0)

    jobs = list(make_jobs(10, search_type))

    async def body():
        return await run_searches(jobs, Engine(), RandomScorer(), SAMPLING, 4, lambda *_: None)

    assert asyncio.run(body()) == []
    assert len({path for path, _ in scored}) == len(scored)
    assert len(scored) == sum(len(job.strategy.nodes) for job in jobs)
    values = dict(scored)
    for job in jobs:
        prompt = (int(job.problem.id[1:]),)
        for response in job.strategy.result():
            assert response.value == values[prompt + tuple(response.token_ids)]
            assert response.value == job.strategy.nodes[response.node].value
