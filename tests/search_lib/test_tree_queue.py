"""Trees that start in order and stop, with a fake engine that ends searches in any order."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from search_lib.benchmarks import Problem
from search_lib.engines.base import Block, Sampling
from search_lib.results.graded import CountedResponse
from search_lib.results.resampling import TreeVotes
from search_lib.results.stopping import STOPPING_RULES, Stopping, replay, stopping_rule
from search_lib.runner import SearchJob, TooManyFailures, run_searches
from search_lib.strategies import Limits, strategy_factory
from search_lib.tree_queue import FoundTrees, Judge, ProblemTrees, TreeQueue, problem_trees
from tests.support.executors import Inline

NUM_TREES, PROBLEMS = 8, [Problem(f"p{number}", "", "0") for number in range(12)]
LIMITS = Limits(max_length=2, block_size=2, stop_token_ids=(9,))
NEW_SEARCH = strategy_factory("bon", 1, LIMITS)


def answers_of(job):
    """One response a tree: problems differ in how much their trees agree."""
    draw = random.Random(f"{job.problem.id} {job.repetition}")
    number = PROBLEMS.index(job.problem)
    answer = draw.choice(["0", "0", "1", None]) if number % 3 else "0"
    return [CountedResponse(answer, draw.choice([0.25, 0.5, 1.0]))]


def equal_strings(pairs):
    return [one == other for one, other in pairs]


@dataclass
class SteppedEngine:
    """Ends one request at a time, at random; notes how many were in flight before each end."""

    seed: int
    fail_on: tuple[str, ...] = ()
    in_flight: dict[str, asyncio.Future] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    levels: list[tuple[int, int]] = field(default_factory=list)

    async def generate(self, expansion, sampling):
        problem, tree = expansion.prefix_ids
        name = f"p{problem} {tree}"
        self.starts.append(name)
        self.in_flight[name] = asyncio.get_running_loop().create_future()
        try:
            await self.in_flight[name]
        finally:
            del self.in_flight[name]
        if name in self.fail_on:
            raise ValueError("fault")
        return [Block([9], "stop")]

    async def drive(self):
        draw = random.Random(self.seed)
        while True:
            for _ in range(30):  # turns of the loop in which slots are filled again
                await asyncio.sleep(0)
            waiting = sorted(name for name, one in self.in_flight.items() if not one.done())
            if waiting:
                self.levels.append((len(waiting), len(self.starts)))
                self.in_flight[draw.choice(waiting)].set_result(None)


@dataclass
class Ran:
    recorded: dict
    last: dict
    failures: list
    queue: TreeQueue
    engine: SteppedEngine


def run(stopping, max_concurrent=4, seed=0, found=None, fail_on=()):
    found = found or FoundTrees({}, {})
    missing = [
        (problem, tree)
        for problem in PROBLEMS
        for tree in range(found.num_trees.get(problem.id, NUM_TREES))
        if tree not in found.answers.get(problem.id, {})
    ]

    def new_job(problem, repetition):
        prompt = [PROBLEMS.index(problem), repetition]
        return SearchJob(problem, repetition, 0, NEW_SEARCH(prompt, 0))

    judge = Judge(stopping, equal_strings, Inline()) if stopping else None
    queue = TreeQueue(
        problem_trees(missing, NUM_TREES, found, stopping), new_job, answers_of, judge
    )
    engine = SteppedEngine(seed, fail_on)
    recorded, last = {}, {}

    def on_finished(job, cost):
        for ended in queue.finish(job, cost):
            assert ended.job.repetition not in recorded.setdefault(ended.job.problem.id, set())
            recorded[ended.job.problem.id].add(ended.job.repetition)
            if ended.is_enough:
                last[ended.job.problem.id] = ended.job.repetition

    async def body():
        driver = asyncio.create_task(engine.drive())
        try:
            return await run_searches(queue, engine, None, Sampling(), max_concurrent, on_finished)
        finally:
            driver.cancel()

    failures = asyncio.run(body())
    return Ran(recorded, last, failures, queue, engine)


def make_stopping(name, has_values=True):
    rule = stopping_rule(name, has_values)
    return Stopping(rule, 0.7 if name == "value" else rule.usual, NUM_TREES, 1)


def replayed(stopping):
    """Number of trees by problem, from the answers of all of them."""
    found = {}
    for problem in PROBLEMS:
        jobs = [SearchJob(problem, tree, 0, None) for tree in range(NUM_TREES)]
        votes = Judge(stopping, equal_strings, Inline())._grade(list(map(answers_of, jobs)), "0")
        order = np.arange(NUM_TREES)[None]
        stopped = replay(votes, stopping.rule, (stopping.threshold,), order, 1)
        found[problem.id] = int(stopped.num_trees[0, 0])
    return found


@pytest.mark.parametrize("name", [name for name in STOPPING_RULES if name != "dirichlet"])
@pytest.mark.parametrize("max_concurrent", [1, 5, 200])
def test_the_trees_that_count_are_those_of_the_replay_in_whatever_order_they_end(
    name, max_concurrent
):
    stopping = make_stopping(name)
    expected = replayed(stopping)
    assert len(set(expected.values())) > 2
    for seed in range(3):
        ran = run(stopping, max_concurrent, seed)
        assert ran.recorded == {own: set(range(count)) for own, count in expected.items()}
        stopped = {own: count - 1 for own, count in expected.items() if count < NUM_TREES}
        assert ran.last == stopped
        assert ran.queue.num_saved == NUM_TREES * len(PROBLEMS) - sum(expected.values())
    if max_concurrent == 1:  # none is started that is not needed
        assert ran.queue.num_dropped == 0


def test_the_window_is_full_until_everything_has_started():
    ran = run(make_stopping("beta"), max_concurrent=6)
    levels = [level for level, starts in ran.engine.levels if starts < len(ran.engine.starts)]
    assert len(levels) > 20
    assert set(levels) == {6}
    assert len(ran.engine.starts) < NUM_TREES * len(PROBLEMS)


def test_the_trees_that_count_in_any_case_start_together_and_others_only_behind_all_problems():
    stopping = make_stopping("beta")
    assert stopping.earliest() == 4
    starts = run(stopping, max_concurrent=6).engine.starts
    assert starts[:6] == ["p0 0", "p0 1", "p0 2", "p0 3", "p1 0", "p1 1"]
    begun = {name.split()[0] for name in starts[: starts.index("p11 0")]}
    assert len(begun) == len(PROBLEMS) - 1


def test_a_tree_that_is_not_needed_is_cancelled():
    ran = run(make_stopping("beta"), max_concurrent=200)
    counted = sum(map(len, ran.recorded.values()))
    assert ran.queue.num_dropped == len(ran.engine.starts) - counted > 0
    assert len(ran.engine.levels) < len(ran.engine.starts)  # some were never answered


def test_without_a_rule_all_trees_start_in_order_and_none_waits():
    ran = run(None, max_concurrent=3)
    names = [f"{problem.id} {tree}" for problem in PROBLEMS for tree in range(NUM_TREES)]
    assert ran.engine.starts == names
    assert ran.recorded == {problem.id: set(range(NUM_TREES)) for problem in PROBLEMS}
    assert (ran.last, ran.queue.num_saved) == ({}, 0)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_run_that_goes_on_has_the_trees_of_one_that_was_not_killed(share):
    stopping = make_stopping("beta")
    whole = run(stopping, max_concurrent=5)
    draw = random.Random(0)
    answers, num_trees = {}, {}
    for problem in PROBLEMS:
        for tree in sorted(whole.recorded[problem.id]):
            # Trees behind the first four are recorded one after the other.
            is_next = tree < 4 or tree - 1 in answers.get(problem.id, {})
            if is_next and draw.random() < share:
                job = SearchJob(problem, tree, 0, None)
                answers.setdefault(problem.id, {})[tree] = answers_of(job)
                if whole.last.get(problem.id) == tree:
                    num_trees[problem.id] = tree + 1
    before = {own: set(trees) for own, trees in answers.items()}
    rest = run(stopping, seed=1, found=FoundTrees(answers, num_trees))
    both = {
        problem.id: before.get(problem.id, set()) | rest.recorded.get(problem.id, set())
        for problem in PROBLEMS
    }
    assert both == whole.recorded
    assert {own: count - 1 for own, count in num_trees.items()} | rest.last == whole.last


def test_a_search_that_failed_leaves_what_hangs_on_it_to_the_next_run():
    stopping = make_stopping("beta")
    expected = replayed(stopping)
    ran = run(stopping, fail_on=("p0 1", "p1 5"))
    assert expected["p0"] == 4
    assert ran.recorded["p0"] == {0, 2}  # of 3 it isn't known whether it is the last one
    assert "problem p0, repetition 1" in {failure.name for failure in ran.failures}
    others = [problem.id for problem in PROBLEMS[2:]]
    assert {own: len(ran.recorded[own]) for own in others} == {own: expected[own] for own in others}


def test_more_responses_than_the_rule_counts_on_are_a_failure():
    stopping = replace(make_stopping("decided"), most_responses=0)
    with pytest.raises(TooManyFailures, match="1 responses are more than --stop counts on: 0 a"):
        run(stopping)


class SureTheSecondTime:
    """A rule that wants five trees when it is first asked, and is sure then."""

    most_responses = 1

    def __init__(self):
        self.num_asked = 0

    def is_sure(self, votes):
        self.num_asked += 1
        return self.num_asked == 2

    def earliest(self, votes):
        return 5


def test_trees_that_wait_for_the_rule_together_are_saved_once():
    trees = ProblemTrees(PROBLEMS[0], list(range(NUM_TREES)), NUM_TREES, certain=2)

    def new_job(problem, repetition):
        return SearchJob(problem, repetition, 0, NEW_SEARCH([1], 0))

    async def end(job):
        async with job.turn:
            pass

    async def end_together(executor):
        judge = Judge(SureTheSecondTime(), equal_strings, executor)
        queue = TreeQueue(iter([trees]), new_job, answers_of, judge)
        # While the rule is asked about the first two, the other three end.
        await asyncio.gather(*[end(next(queue)) for _ in range(5)])
        return queue.num_saved

    with ThreadPoolExecutor(1) as executor:
        assert asyncio.run(end_together(executor)) == NUM_TREES - 5
    assert trees.is_enough


def test_the_votes_of_a_judge_are_those_of_the_metrics():
    judge = Judge(make_stopping("value"), equal_strings, Inline())
    votes = judge._grade(
        [[CountedResponse("0", 0.5), CountedResponse(None, 1.0)], [CountedResponse("1", 0.25)]], "0"
    )
    assert isinstance(votes, TreeVotes)
    (found,) = votes.votes("WMV", np.arange(2)[None])
    assert found.totals.tolist() == [[[0.5, 0.0], [0.5, 0.25]]]
