"""Which search starts next, and when the trees of a problem are enough (`--stop`).

1. A stopping rule is asked about the first `certain` trees of a problem as soon as all of them have
   ended: the fewest with which it can be sure, whatever they answer. If it is not, `certain`
   becomes the fewest with which it can be sure now.
2. So the first `certain` trees count in any case, and may be in flight together. Of the problems
   that were begun, the first that has such a tree starts it, else the next problem starts.
3. When no problem is left to start, slots would stay empty: then trees are started ahead, those
   nearest behind `certain` first. They are not recorded until the rule has asked for them. If the
   trees before them are enough, they are cancelled, or forgotten.

Which trees count therefore depends on answers alone, not on time or `--max_concurrent`, and a run
that was killed goes on as if it had not been. Without a rule all trees are certain.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from search_lib.answer_formats import AnswerFormat
from search_lib.answer_rules import STRICT
from search_lib.benchmarks import Problem
from search_lib.grouping import Equivalence
from search_lib.results.cost import SearchCost
from search_lib.results.graded import TreeAnswers, answers_of, grade_problem
from search_lib.results.records import read_records
from search_lib.results.resampling import TreeVotes
from search_lib.results.stopping import Stopping
from search_lib.runner import SearchJob
from search_lib.strategies import Strategy

Job = SearchJob[Strategy]


class FoundTrees(NamedTuple):
    """Trees that an earlier session of the run has recorded.

    Attributes:
        answers: By problem and repetition.
        num_trees: Number of trees by problem, of those that stopped.
    """

    answers: dict[str, dict[int, TreeAnswers]]
    num_trees: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> "FoundTrees":
        """Reads a file of records, which may not be there."""
        found = cls({}, {})
        for record in read_records(path) if path.exists() else ():
            answers = found.answers.setdefault(record.problem_id, {})
            answers[record.repetition] = answers_of(record)
            if record.is_enough:
                found.num_trees[record.problem_id] = record.repetition + 1
        return found


@dataclass
class ProblemTrees:
    """How far the trees of one problem are.

    Attributes:
        problem: The problem.
        todo: Repetitions that are not started, in order.
        num_trees: Number of its trees, as far as it is known: the most, until they are enough.
        certain: Trees that count in any case; the rule is asked when they have ended.
        is_enough: Whether the rule has stopped the problem.
        num_saved: Trees that it did without since, and that nobody has counted yet.
        answers: Of the trees that have ended, by repetition.
        tasks: Searches in flight by repetition; None before their first step.
        held: Searches that have ended, and wait for the rule to ask for them or for their record.
        lock: Held while the rule is asked.
    """

    problem: Problem
    todo: list[int]
    num_trees: int
    certain: int
    is_enough: bool = False
    num_saved: int = 0
    answers: dict[int, TreeAnswers] = field(default_factory=dict)
    tasks: dict[int, asyncio.Task | None] = field(default_factory=dict)
    held: dict[int, tuple[Job, SearchCost]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def to_ask(self) -> list[TreeAnswers] | None:
        """Returns the trees that the rule is to be asked about now; None if there are none."""
        numbers = range(self.certain)
        if self.certain == self.num_trees or any(n not in self.answers for n in numbers):
            return None
        return [self.answers[number] for number in numbers]

    def settle(self, stopping: Stopping, votes: TreeVotes) -> None:
        """Takes the rule's answer about the certain trees."""
        if stopping.is_sure(votes):
            self.is_enough = True
            self.num_saved = self.num_trees - self.certain
            self.num_trees = self.certain
        else:
            self.certain = stopping.earliest(votes)

    def is_settled(self, repetition: int) -> bool:
        """Returns whether a tree counts, and whether it is the last one is known."""
        return repetition + 1 < self.certain or repetition < self.num_trees == self.certain


class Judge:
    """Asks a stopping rule while a run goes on: answers are compared beside the event loop.

    Args:
        stopping: The rule.
        equivalent: Compares answers by the strict rules; may block.
        executor: Where it is called.
    """

    def __init__(self, stopping: Stopping, equivalent: Equivalence, executor: Executor):
        self.stopping = stopping
        self._equivalent = equivalent
        self._executor = executor

    async def settle(self, trees: ProblemTrees) -> None:
        """Asks about the trees of a problem, as far as they have ended."""
        loop = asyncio.get_running_loop()
        async with trees.lock:
            while (asked := trees.to_ask()) is not None:
                reference = trees.problem.answer
                votes = await loop.run_in_executor(self._executor, self._grade, asked, reference)
                trees.settle(self.stopping, votes)

    def _grade(self, trees: list[TreeAnswers], reference: str | None) -> TreeVotes:
        return TreeVotes(grade_problem(trees, reference, self._equivalent))


@contextmanager
def open_judge(stopping: Stopping | None, answer_format: AnswerFormat) -> Iterator[Judge | None]:
    """Opens what asks a rule, with the workers that compare answers; None without a rule."""
    if stopping is None:
        yield None
        return
    comparer = answer_format.open_comparer(2, STRICT.comparison)
    with comparer as opened, ThreadPoolExecutor(1) as executor:
        yield Judge(stopping, opened.equivalent, executor)


def problem_trees(
    missing: Iterable[tuple[Problem, int]],
    num_trees: int,
    found: FoundTrees,
    stopping: Stopping | None,
) -> Iterator[ProblemTrees]:
    """Yields the problems that are to be searched, one by one.

    Args:
        missing: Searches without a record that the run may need, problem by problem.
        num_trees: Most trees of a problem.
        found: Trees that have a record.
        stopping: The rule; None to take all trees.
    """
    first_certain = stopping.earliest() if stopping else num_trees
    for problem, searches in groupby(missing, key=itemgetter(0)):
        most = found.num_trees.get(problem.id, num_trees)
        answers = found.answers.pop(problem.id, {})
        # A tree is recorded when it is certain that another one follows, or that it is the last.
        recorded = max(answers, default=-2) + 2
        certain = min(most, max(first_certain, recorded))
        yield ProblemTrees(
            problem, [repetition for _, repetition in searches], most, certain, answers=answers
        )


class EndedSearch(NamedTuple):
    """A search that counts.

    Attributes:
        job: The search.
        cost: Its cost.
        is_enough: Whether the trees of its problem end with it, by the rule.
    """

    job: Job
    cost: SearchCost
    is_enough: bool


class TreeQueue(Iterator[Job | None]):
    """The searches that are to run, in the order in which they start; see above.

    It gives None while no search can start, or none is left.

    Args:
        waiting: The problems, from `problem_trees`.
        new_job: Makes a search: (problem, repetition) -> its job.
        answers_of: Returns the answers and values of a search that has ended.
        judge: Asks the rule; None without one.

    Attributes:
        num_saved: Searches that problems did without.
        num_dropped: Searches that were started ahead, and were not needed.
    """

    def __init__(
        self,
        waiting: Iterator[ProblemTrees],
        new_job: Callable[[Problem, int], Job],
        answers_of: Callable[[Job], TreeAnswers],
        judge: Judge | None = None,
    ):
        self.num_saved = 0
        self.num_dropped = 0
        self._waiting = waiting
        self._new_job = new_job
        self._answers_of = answers_of
        self._judge = judge
        self._begun: dict[str, ProblemTrees] = {}

    def __next__(self) -> Job | None:
        trees = self._next_certain() or self._next_ahead()
        if trees is None:
            return None
        repetition = trees.todo.pop(0)
        trees.tasks[repetition] = None
        job = self._new_job(trees.problem, repetition)
        job.turn = self._turn(trees, job, job.turn)
        return job

    def _next_certain(self) -> ProblemTrees | None:
        for trees in self._begun.values():
            if trees.todo and trees.todo[0] < trees.certain:
                return trees
        begun = next(self._waiting, None)
        if begun is not None:
            self._begun[begun.problem.id] = begun
        return begun

    def _next_ahead(self) -> ProblemTrees | None:
        behind = [trees for trees in self._begun.values() if trees.todo]
        return min(behind, key=lambda trees: trees.todo[0] - trees.certain, default=None)

    def finish(self, job: Job, cost: SearchCost) -> list[EndedSearch]:
        """Takes a search that has ended; returns those that can be recorded now, in their order."""
        trees = self._begun[job.problem.id]
        del trees.tasks[job.repetition]
        if job.repetition < trees.num_trees:
            trees.held[job.repetition] = job, cost
        else:
            self.num_dropped += 1
        settled = [
            EndedSearch(*trees.held.pop(number), trees.is_enough and number + 1 == trees.num_trees)
            for number in sorted(trees.held)
            if trees.is_settled(number)
        ]
        self._end(trees)
        return settled

    @asynccontextmanager
    async def _turn(
        self, trees: ProblemTrees, job: Job, own: AbstractAsyncContextManager[None]
    ) -> AsyncIterator[None]:
        repetition = job.repetition
        try:
            if repetition >= trees.num_trees:
                raise asyncio.CancelledError  # it was dropped before its first step
            trees.tasks[repetition] = asyncio.current_task()
            async with own:
                yield
            if self._judge is not None:
                trees.answers[repetition] = self._read(job, self._judge.stopping.most_responses)
                await self._judge.settle(trees)
                self._drop(trees)
        except BaseException:
            self._lose(trees, repetition)
            raise

    def _read(self, job: Job, most_responses: int) -> TreeAnswers:
        answers = self._answers_of(job)
        if len(answers) > most_responses:
            raise ValueError(
                f"{len(answers)} responses are more than --stop counts on: {most_responses} a tree"
            )
        return answers

    def _drop(self, trees: ProblemTrees) -> None:
        """Ends what was started ahead, once the trees of a problem are enough."""
        # Of several trees that wait for the rule at once, the first counts them.
        self.num_saved += trees.num_saved
        trees.num_saved = 0
        trees.todo = [number for number in trees.todo if number < trees.num_trees]
        ahead = [task for number, task in trees.tasks.items() if number >= trees.num_trees]
        for task in ahead:
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        for number in [number for number in trees.held if number >= trees.num_trees]:
            del trees.held[number]
            self.num_dropped += 1

    def _lose(self, trees: ProblemTrees, repetition: int) -> None:
        """Forgets a search that failed, or is not needed. Those behind it can't be settled."""
        del trees.tasks[repetition]
        if repetition < trees.num_trees:
            trees.todo = [number for number in trees.todo if number < trees.certain]
        else:
            self.num_dropped += 1
        self._end(trees)

    def _end(self, trees: ProblemTrees) -> None:
        if not trees.todo and not trees.tasks:
            del self._begun[trees.problem.id]
