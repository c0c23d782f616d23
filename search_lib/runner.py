"""Drives many searches at once over one engine and one scorer."""

import asyncio
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Generic, Protocol, TypeVar

from classifier_lib.scoring import Scores
from run_lib.commands import RunStopped
from run_lib.text import one_line
from search_lib.benchmarks import Problem
from search_lib.engines.base import BadReply, Block, Engine, Expansion, Sampling
from search_lib.kept_blocks import KeptBlocks
from search_lib.meter import SearchMeter, SessionClock
from search_lib.results.cost import SearchCost
from search_lib.scorers.base import Scorer
from search_lib.speculation import Request, Speculation
from search_lib.strategies import Search
from search_lib.urgency import Urgency, current_urgency, urgency

AnySearch = TypeVar("AnySearch", bound=Search)


class Watch(Protocol):
    """Follows a search: whoever keeps its blocks, or shows it."""

    def asked(self, expansion: Expansion) -> None:
        """Takes what the search asks for now."""
        ...

    def told(self, path_id: int, blocks: Sequence[Block], scores: Scores | None) -> None:
        """Takes the answer to one expansion, once the search has been told it."""
        ...


@dataclass
class SearchJob(Generic[AnySearch]):
    """One search: one tree on one problem.

    Attributes:
        problem: The question.
        repetition: Number of the tree among the problem's, from 0.
        seed: Seed of this search.
        strategy: The fresh state of the search.
        scorer: Source of the values of this search alone, such as a judge who knows its reference.
            None: that of the run, if it has one.
        kept: Keeps the blocks of this search, of which the strategy forgets those it drops. None:
            nobody needs them.
        turn: Entered before the search and left after it, while it holds its slot.
        watch: Follows the search; None if nobody does.
        name: What messages call it.
    """

    problem: Problem
    repetition: int
    seed: int
    strategy: AnySearch
    scorer: Scorer | None = None
    kept: KeptBlocks | None = None
    turn: AbstractAsyncContextManager[None] = field(default_factory=nullcontext)
    watch: Watch | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Names a search that has no name."""
        self.name = self.name or f"problem {self.problem.id}, repetition {self.repetition}"

    def asked(self, expansion: Expansion) -> None:
        """Passes on what the search asks for."""
        if self.watch is not None:
            self.watch.asked(expansion)

    def told(self, path_id: int, blocks: Sequence[Block], scores: Scores | None) -> None:
        """Passes on, and keeps, an answer that the search has been told."""
        if self.kept is not None:
            self.kept.add(path_id, blocks, scores and scores.token_values)
        if self.watch is not None:
            self.watch.told(path_id, blocks, scores)


@dataclass(frozen=True)
class SearchFailure:
    """A search that ended in an error, and is left out of the records."""

    name: str
    error: Exception


def report_failures(failures: Sequence[SearchFailure]) -> int:
    """Prints the searches that failed, if any, and returns the exit status of the command."""
    for failure in failures:
        print(one_line(f"failed: {failure.name}: {type(failure.error).__name__}: {failure.error}"))
    if failures:
        print(f"{len(failures)} searches failed; the same command tries them again")
    return 1 if failures else 0


class TooManyFailures(RunStopped):
    """Consecutive searches fail: the cause is not in the problems."""


MAX_CONSECUTIVE_FAILURES = 8
"""Consecutive failures before the run aborts."""


async def run_search(
    strategy: Search,
    engine: Engine,
    scorer: Scorer | None,
    sampling: Sampling,
    clock: SessionClock | None = None,
    watch: Watch | None = None,
    room: int = 0,
) -> SearchCost:
    """Runs one search to its end: asks, generates, scores and tells, nothing in lock step.

    Every block is scored once; the value of a response is that of its last block.

    Args:
        strategy: The search; it is told every answer as soon as it is there.
        engine: Source of blocks.
        scorer: Source of their values. None: the search is told None for each.
        sampling: How tokens are drawn.
        clock: Measures when the engine has a request; by default one of this search alone.
        watch: Follows the search, such as its job.
        room: Blocks that it may have at the engine with those that are sent ahead, see
            `speculation`; 0 to send none ahead.
    """
    clock = clock or SessionClock()
    meter = SearchMeter(clock)
    greedy = replace(sampling, temperature=0.0)

    async def answer(request: Request) -> None:
        urgency.set(request.urgency)  # within this request's task
        expansion = request.expansion
        with clock.request():
            how = greedy if expansion.greedy else sampling
            request.blocks = await engine.generate(expansion, how)
        if scorer is not None:
            request.scores = await scorer.score(expansion.prefix_ids, request.blocks)

    def send(expansion: Expansion, guessed: bool = False) -> Request:
        request = Request(expansion, replace(own, guessed=True) if guessed else own)
        request.task = asyncio.create_task(answer(request))
        return request

    own = current_urgency()
    ahead = Speculation(strategy, send, room, meter)
    running: dict[asyncio.Task[None], Request] = {}
    try:
        while not strategy.done:
            for expansion in strategy.ask():
                if watch is not None:
                    watch.asked(expansion)
                request = ahead.take(expansion) or send(expansion)
                running[request.task] = request
            if not running:
                raise RuntimeError(f"{type(strategy).__name__} is not done, yet asks for nothing")
            if not any(task.done() for task in running):
                ahead.renew(sum(request.num_blocks for request in running.values()))
                await asyncio.wait([*running, *ahead.running], return_when="FIRST_COMPLETED")
            for task in [task for task in running if task.done()]:
                task.result()
                request = running.pop(task)
                expansion, scores = request.expansion, request.scores
                blocks, values = request.answer
                meter.add(len(expansion.prefix_ids), blocks, scores)
                strategy.tell(expansion.path_id, blocks, values)
                if watch is not None:
                    watch.told(expansion.path_id, blocks, scores)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await ahead.close()
    return meter.cost()


async def run_searches(
    jobs: Iterable[SearchJob[AnySearch] | None],
    engine: Engine,
    scorer: Scorer | None,
    sampling: Sampling,
    max_concurrent: int,
    on_finished: Callable[[SearchJob[AnySearch], SearchCost], None],
    room: int = 0,
) -> list[SearchFailure]:
    """Keeps `max_concurrent` searches in flight until `jobs` runs out.

    Batches serve the requests of earlier searches first. A search whose task is cancelled is not
    needed any more: nothing becomes of it.

    Args:
        jobs: Searches, taken as slots become free, so that memory does not grow with their number.
            None means that there is none now: they are asked again when a search has ended.
        engine: Source of blocks, shared by all searches.
        scorer: Source of values, shared by all searches that have none of their own. None: their
            blocks have no values.
        sampling: How tokens are drawn.
        max_concurrent: Searches in flight.
        on_finished: Called with every search as it ends, in the order in which they end.
        room: Of each search, see `run_search`.

    Returns:
        The searches that failed; the others went on.

    Raises:
        TooManyFailures: When `MAX_CONSECUTIVE_FAILURES` end in an error and none succeeds.
    """
    clock = SessionClock()

    async def run(order: int, job: SearchJob[AnySearch]) -> SearchCost:
        urgency.set(Urgency(order))  # within this search's task
        own = job.scorer or scorer
        async with job.turn:
            return await run_search(job.strategy, engine, own, sampling, clock, job, room)

    waiting = iter(jobs)
    places = count()
    failures: list[SearchFailure] = []
    consecutive_failures = 0
    running: dict[asyncio.Task[SearchCost], SearchJob[AnySearch]] = {}
    try:
        while True:
            while len(running) < max_concurrent and (job := next(waiting, None)) is not None:
                running[asyncio.create_task(run(next(places), job))] = job
            if not running:
                return failures
            ended, _ = await asyncio.wait(running, return_when="FIRST_COMPLETED")
            for task in filter(asyncio.Task.cancelled, ended):
                del running[task]
            finished = (task for task in ended if not task.cancelled())
            # Successes first: they are recorded whatever the failures lead to.
            for task in sorted(finished, key=lambda task: task.exception() is not None):
                job = running.pop(task)
                error = task.exception()
                if error is None:
                    consecutive_failures = 0
                    on_finished(job, task.result())
                elif isinstance(error, Exception):
                    # For the cause, of the first one. A ValueError names it, by our convention.
                    if not failures and not isinstance(error, (ValueError, BadReply, RunStopped)):
                        traceback.print_exception(error)
                    # Without the frames, which hold the search.
                    failures.append(SearchFailure(job.name, error.with_traceback(None)))
                    consecutive_failures += 1
                    if consecutive_failures == MAX_CONSECUTIVE_FAILURES:
                        raise TooManyFailures(
                            f"{consecutive_failures} consecutive searches failed, the last one "
                            f"({job.name}) with {type(error).__name__}: {error}"
                        ) from error
                else:
                    raise error
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
