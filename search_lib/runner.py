"""Drives many searches at once over one engine and one scorer."""

import asyncio
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from search_lib.benchmarks import Problem
from search_lib.engines.base import Block, Engine, Sampling
from search_lib.scorers import Scorer
from search_lib.strategies import Expansion, Strategy


@dataclass
class SearchJob:
    """One search: one tree on one problem.

    Args:
        problem: what is asked.
        repetition: which of the problem's trees, from 0.
        seed: of this search.
        strategy: the fresh state of the search.
    """

    problem: Problem
    repetition: int
    seed: int
    strategy: Strategy

    @property
    def name(self) -> str:
        """How messages call this search."""
        return f"problem {self.problem.id}, repetition {self.repetition}"


@dataclass(frozen=True)
class SearchCost:
    """What one search took.

    Args:
        tokens_generated: new tokens of all blocks, kept or not.
        seconds: from its first request to its last answer; other searches ran meanwhile.
    """

    tokens_generated: int
    seconds: float


@dataclass(frozen=True)
class SearchFailure:
    """A search that ended in an error, and is left out of the records."""

    name: str
    error: Exception


class TooManyFailures(RuntimeError):
    """Searches fail one after another: the cause is not in the problems."""


MAX_FAILURES_IN_A_ROW = 8


async def run_search(
    strategy: Strategy, engine: Engine, scorer: Scorer, temperature: float, top_p: float
) -> SearchCost:
    """Runs one search to its end: asks, generates, scores and tells, nothing in lock step.

    Args:
        strategy: is told every answer as soon as it is there.
        engine: gives blocks.
        scorer: gives their values.
        temperature: see ``Sampling``.
        top_p: see ``Sampling``.
    """
    started = time.monotonic()
    tokens_generated = 0

    async def expand(expansion: Expansion) -> tuple[Expansion, list[Block], list[float]]:
        sampling = Sampling(
            temperature,
            top_p,
            expansion.max_new_tokens,
            expansion.stop_token_ids,
            expansion.seed,
        )
        blocks = await engine.generate(expansion.prefix_ids, expansion.n, sampling)
        return expansion, blocks, await scorer.score(expansion.prefix_ids, blocks)

    running: set[asyncio.Task] = set()
    try:
        while not strategy.done:
            running |= {asyncio.create_task(expand(expansion)) for expansion in strategy.ask()}
            if not running:
                raise RuntimeError(f"{type(strategy).__name__} is not done, yet asks for nothing")
            answered, _ = await asyncio.wait(running, return_when="FIRST_COMPLETED")
            for task in answered:
                expansion, blocks, values = task.result()
                running.remove(task)
                tokens_generated += sum(len(block.token_ids) for block in blocks)
                strategy.tell(expansion.path_id, blocks, values)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return SearchCost(tokens_generated, time.monotonic() - started)


async def run_searches(
    jobs: Iterable[SearchJob],
    engine: Engine,
    scorer: Scorer,
    temperature: float,
    top_p: float,
    max_concurrent: int,
    on_finished: Callable[[SearchJob, SearchCost], None],
) -> list[SearchFailure]:
    """Keeps ``max_concurrent`` searches in flight until ``jobs`` runs out.

    Args:
        jobs: consumed as slots fall free, so that memory does not grow with their number.
        engine: shared by all searches.
        scorer: shared by all searches.
        temperature: see ``Sampling``.
        top_p: see ``Sampling``.
        max_concurrent: searches in flight.
        on_finished: called with every search as it ends, in the order in which they end.

    Returns:
        The searches that failed; the others went on.

    Raises:
        TooManyFailures: when ``MAX_FAILURES_IN_A_ROW`` end in an error and none succeeds.
    """
    waiting = iter(jobs)
    failures: list[SearchFailure] = []
    failed_in_a_row = 0
    running: dict[asyncio.Task[SearchCost], SearchJob] = {}
    try:
        while True:
            while len(running) < max_concurrent and (job := next(waiting, None)) is not None:
                search = run_search(job.strategy, engine, scorer, temperature, top_p)
                running[asyncio.create_task(search)] = job
            if not running:
                return failures
            ended, _ = await asyncio.wait(running, return_when="FIRST_COMPLETED")
            # Successes first: they are recorded whatever the failures lead to.
            for task in sorted(ended, key=lambda task: task.exception() is not None):
                job = running.pop(task)
                error = task.exception()
                if error is None:
                    failed_in_a_row = 0
                    on_finished(job, task.result())
                elif isinstance(error, Exception):
                    if not failures:
                        traceback.print_exception(error)  # of the first one, for the cause
                    failures.append(SearchFailure(job.name, error))
                    failed_in_a_row += 1
                    if failed_in_a_row == MAX_FAILURES_IN_A_ROW:
                        raise TooManyFailures(
                            f"{failed_in_a_row} searches failed in a row, the last one "
                            f"({job.name}) with {type(error).__name__}: {error}"
                        ) from error
                else:
                    raise error
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
