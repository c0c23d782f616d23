"""Answers questions with the models of a run, as many at once as come."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from run_lib.commands import RunStopped
from run_lib.text import one_line
from search_lib.answer_formats import AnswerFormat, Comparer
from search_lib.answer_rules import STRICT
from search_lib.asking.live import LiveQuestion, LiveTree
from search_lib.asking.outcome import (
    Outcome,
    VoteName,
    choose_response,
    count_vote,
    is_right,
    usual_vote,
)
from search_lib.asking.window import Share, SharedWindow
from search_lib.benchmarks import Problem
from search_lib.engines.base import Engine
from search_lib.jobs import Policy, find_stopping, job_factory
from search_lib.open_models import OpenModels
from search_lib.recording import Recorder
from search_lib.results.blocks import RecordedBlocks
from search_lib.results.cost import SearchCost
from search_lib.results.graded import GradedProblem, answers_of, grade_problem
from search_lib.results.records import Record
from search_lib.runner import SearchJob, run_searches
from search_lib.scorers.base import Scorer
from search_lib.scorers.texts import TextScorer
from search_lib.search_flags import SearchFlags
from search_lib.strategies import Strategy
from search_lib.tree_queue import FoundTrees, Judge, TreeQueue, problem_trees

NUM_GRADERS = 2


class NoSearchEnded(RunStopped):
    """All searches of a question have failed; the message says how the first did."""


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        text: The question.
        prompt_ids: The prompt that holds it, in tokens of the policy.
        reference: The right answer; None if nobody knows it.
        id: Its name in records and messages, and a part of its seeds.
    """

    text: str
    prompt_ids: list[int]
    reference: str | None = None
    id: str = "question"


class Asker:
    """Answers questions, each with searches of its own; see `open_asker`.

    Args:
        policy: The policy.
        engine: Source of blocks.
        scorer: Source of values; None if there is none.
        answer_format: How answers are written.
        comparer: Compares answers of that format.
        executor: Where it is called.
        window: What all questions share.
    """

    def __init__(
        self,
        policy: Policy,
        engine: Engine,
        scorer: Scorer | TextScorer | None,
        answer_format: AnswerFormat,
        comparer: Comparer,
        executor: Executor,
        window: SharedWindow,
    ):
        self.window = window
        self._policy = policy
        self._engine = engine
        self._scorer = scorer
        self._answer_format = answer_format
        self._comparer = comparer
        self._executor = executor

    async def ask(
        self,
        question: Question,
        flags: SearchFlags,
        vote: VoteName | None = None,
        on_change: Callable[[LiveQuestion], None] | None = None,
        keep: Callable[[RecordedBlocks], None] | None = None,
        share: Share | None = None,
    ) -> Outcome:
        """Searches a question and counts the vote.

        Cancelled, it gives up all that it has asked of the engine.

        Args:
            question: The question.
            flags: Its search; the models are those that are open, whatever it names.
            vote: How answers vote; by default as `usual_vote` says.
            on_change: Called as its trees grow, and as the vote changes.
            keep: Takes the blocks of every search that ends.
            share: Its share of the window, if others have it, too: those that are asked together
                get no more slots than one that is asked alone.

        Raises:
            NoSearchEnded: If every search failed; from the error of the first.
            TooManyFailures: If many failed one after the other, and none before ended.
        """
        started = time.monotonic()
        problem = Problem(question.id, question.text, question.reference)
        prompts = {problem.id: question.prompt_ids}
        recorder = Recorder(self._policy, prompts, self._answer_format, flags.confidence)
        new_job = job_factory(flags, self._policy, prompts, self._scorer, keep is not None)
        share = share or self.window.share(flags.num_blocks)
        live = LiveQuestion(flags.num_repetitions)
        records: dict[int, Record] = {}
        new_answers = asyncio.Event()

        def follow(problem: Problem, repetition: int) -> SearchJob[Strategy]:
            job = new_job(problem, repetition)
            job.turn = share.turn()
            job.name = f"tree {repetition + 1}"
            if on_change is not None:
                notify = partial(on_change, live)
                job.watch = LiveTree(repetition, job.strategy, flags.max_length, notify)
                live.trees[repetition] = job.watch
            return job

        def on_finished(job: SearchJob[Strategy], cost: SearchCost) -> None:
            for ended in queue.finish(job, cost):
                if keep is not None and (blocks := recorder.blocks(ended.job, ended.cost)):
                    keep(blocks)
                records[ended.job.repetition] = recorder.record(*ended)
            if on_change is not None:
                live.trees[job.repetition].finish()
            new_answers.set()

        async def show_vote() -> None:
            while await new_answers.wait():
                new_answers.clear()
                if records and on_change is not None:
                    live.vote = count_vote(await self._grade(problem, records), how)
                    on_change(live)

        how = vote or usual_vote(self._scorer is not None)
        stopping = find_stopping(flags)
        judge = Judge(stopping, self._comparer.equivalent, self._executor) if stopping else None
        missing = [(problem, repetition) for repetition in range(flags.num_repetitions)]
        waiting = problem_trees(missing, flags.num_repetitions, FoundTrees({}, {}), stopping)
        queue = TreeQueue(waiting, follow, recorder.answers, judge)
        showing = asyncio.create_task(show_vote()) if on_change is not None else None
        try:
            failures = await run_searches(
                *(queue, self._engine, None, flags.sampling, flags.max_concurrent, on_finished),
                room=flags.num_blocks if flags.speculate else 0,
            )
        finally:
            if showing is not None:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
        if not records:
            first = failures[0]
            raise NoSearchEnded(f"{first.name}: {one_line(first.error)}") from first.error
        graded = await self._grade(problem, records)
        candidates = count_vote(graded, how)
        ended = [records[repetition] for repetition in sorted(records)]
        return Outcome(
            how,
            candidates,
            ended,
            choose_response(ended, candidates),
            is_right(graded, candidates),
            time.monotonic() - started,
            [f"{failure.name}: {one_line(failure.error)}" for failure in failures],
        )

    async def _grade(self, problem: Problem, records: Mapping[int, Record]) -> GradedProblem:
        """Groups the answers of the searches that have ended, beside the event loop."""
        trees = [answers_of(records[repetition]) for repetition in sorted(records)]
        grade = partial(grade_problem, trees, problem.answer, self._comparer.equivalent, STRICT)
        return await asyncio.get_running_loop().run_in_executor(self._executor, grade)


@asynccontextmanager
async def open_asker(
    flags: SearchFlags,
    policy: Policy,
    answer_format: AnswerFormat,
    models: OpenModels,
    log_folder: Path,
) -> AsyncIterator[Asker]:
    """Opens the models, and what compares answers.

    Args:
        flags: Name the models; `max_concurrent` of them are searches in flight.
        policy: The policy.
        answer_format: How answers are written.
        models: Where the models are opened, and closed.
        log_folder: Where a value server writes what it says.

    Raises:
        InputError: Naming the flag of a model that can't be opened.
    """
    with (
        answer_format.open_comparer(NUM_GRADERS, STRICT.comparison) as comparer,
        ThreadPoolExecutor(NUM_GRADERS) as executor,
    ):
        engine, scorer = await models.open(flags, log_folder)
        window = SharedWindow(flags.max_concurrent)
        yield Asker(policy, engine, scorer, answer_format, comparer, executor, window)
