"""A batch that runs for many steps, and that requests join and leave between two of them."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from search_lib.batching import Answers, Entry, ModelThread, Queue, Standing
from search_lib.urgency import Urgency

Request = TypeVar("Request")
Result = TypeVar("Result")
Given = TypeVar("Given", covariant=True)

MAX_STEPS = 16
"""Most steps that a batch runs on while a search waits."""


class Process(Protocol[Request, Given]):
    """The computation of a running batch. All of it is called in one thread."""

    def join(self, requests: Sequence[Request]) -> None:
        """Takes requests into the batch; if it raises, none of them is in it."""
        ...

    def step(self) -> Iterable[tuple[Request, Given | Exception]]:
        """Runs a step, and gives the results of the requests that have left the batch with it."""
        ...

    def remove(self, requests: Iterable[Request]) -> None:
        """Lets requests leave that nobody waits for any more."""
        ...


class Load(NamedTuple):
    """What requests occupy in a batch.

    Attributes:
        rows: Sequences.
        length: Tokens of the longest one, when it has reached its limit.
    """

    rows: int
    length: int

    def __add__(self, other: tuple[object, ...]) -> "Load":
        """Returns the load of both together: rows are padded to the longest one."""
        assert isinstance(other, Load)
        return Load(self.rows + other.rows, max(self.length, other.length))


class ContinuousBatcher(Queue[Request, Result]):
    """Runs one batch over many steps, in a thread that models may share.

    Waiting requests join as soon as there is room, the most urgent one first and then those nearest
    to it in length, so that there is little padding; none of them overtakes the first. A batch is
    interrupted, to let others join and other models compute, once the searches that wait have lost
    as many steps as the interruption costs those that run: sooner, the batch would be interrupted
    again and again for one search at a time, and later, steps would serve few. So searches that are
    a few steps apart come together. Whom an interruption lets go on is every search that has asked
    or been answered meanwhile, and of which nothing runs.

    If a step fails, its requests are tried again in halves, one after the other, by themselves: a
    faulty request fails alone, and a batch that outgrows the memory does not end the run. Requests
    whose joining fails are tried again by themselves, too.

    Args:
        process: Computes the steps.
        thread: The thread, which its giver closes; None for one of the batcher's own.
        load_of: What a request occupies.
        max_rows: Most rows of the batch.
        max_tokens: Most tokens of the batch, its rows times the longest of them. A request beyond
            either limit runs alone.
        interruption: What an interruption costs a search that runs, in steps.
    """

    def __init__(
        self,
        process: Process[Request, Result],
        thread: ModelThread | None,
        load_of: Callable[[Request], Load],
        max_rows: int,
        max_tokens: int,
        interruption: float,
    ):
        super().__init__(thread)
        self._process = process
        self._load_of = load_of
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._interruption = interruption
        self._running: dict[Request, Entry[Request, Result]] = {}
        # Groups that failed together, or parts of them: each runs by itself.
        self._retries: list[list[Entry[Request, Result]]] = []
        self._is_retry = False

    def standing(self) -> Standing | None:
        """Returns how soon the batcher shall get a turn."""
        # A cancelled request that runs has to leave, too.
        return Standing.of(self._entries(), runs_on=True)

    async def take_turn(self) -> None:
        """Lets requests join, and runs the batch until it is interrupted."""
        joining, answers = self._take_joining(), Answers(asyncio.get_running_loop())
        await self._thread.run(partial(self._run, joining, answers))

    def _entries(self) -> list[Entry[Request, Result]]:
        again = [entry for group in self._retries for entry in group]
        return self._waiting + again + list(self._running.values())

    def _take_joining(self) -> list[Entry[Request, Result]]:
        if self._is_retry and self._running:
            return []
        self._is_retry = bool(self._retries)
        if self._retries:
            return [] if self._running else self._retries.pop()
        self._waiting = [entry for entry in self._waiting if not entry.future.cancelled()]
        if not self._waiting:
            return []
        self._waiting.sort(key=lambda entry: entry.urgency.rank)  # stable: else the oldest first
        loads = [self._load_of(entry.request) for entry in self._waiting]
        by_distance = sorted(
            range(len(loads)), key=lambda index: abs(loads[index].length - loads[0].length)
        )
        load = sum((self._load_of(request) for request in self._running), start=Load(0, 0))
        taken: set[int] = set()
        for index in by_distance:
            more = load + loads[index]
            fits = more.rows <= self._max_rows and more.rows * more.length <= self._max_tokens
            if load.rows and not fits:
                break
            load = more
            taken.add(index)
        joining = [entry for index, entry in enumerate(self._waiting) if index in taken]
        self._waiting = [entry for index, entry in enumerate(self._waiting) if index not in taken]
        return joining

    def _run(self, joining: list[Entry[Request, Result]], answers: Answers) -> None:
        """Runs in the thread: joins, and steps until the interruption."""
        self._remove_cancelled()
        self._join([entry for entry in joining if not entry.future.cancelled()], answers)
        answered: set[Urgency] = set()
        lost = 0
        for num_steps in range(1, sys.maxsize):
            if not self._running:
                return
            try:
                for request, result in self._process.step():
                    entry = self._running.pop(request)
                    answered.add(entry.urgency)
                    answers.give(entry, result)
            except Exception as error:
                failed = list(self._running.values())
                self._process.remove(self._running)
                self._running.clear()
                self._try_again(failed, error, answers)
                return
            self._remove_cancelled()
            running = {entry.urgency for entry in self._running.values()}
            asking = (answered | self._thread.arrived()) - running
            waiting = sum(not urgency.guessed for urgency in asking)
            lost += waiting
            is_enough = lost >= self._interruption * len(running) or num_steps >= MAX_STEPS
            if waiting and is_enough:
                return

    def _join(self, entries: list[Entry[Request, Result]], answers: Answers) -> None:
        if not entries:
            return
        try:
            self._process.join([entry.request for entry in entries])
        except Exception as error:
            self._try_again(entries, error, answers)
        else:
            self._running |= {entry.request: entry for entry in entries}

    def _try_again(
        self,
        entries: list[Entry[Request, Result]],
        error: Exception,
        answers: Answers,
    ) -> None:
        """Puts requests that have failed into groups; fails one that was by itself."""
        if self._running:
            self._retries.append(entries)
        elif len(entries) == 1:
            answers.give(entries[0], error)
        else:
            half = len(entries) // 2
            self._retries += [entries[half:], entries[:half]]

    def _remove_cancelled(self) -> None:
        gone = [request for request, entry in self._running.items() if entry.future.cancelled()]
        if gone:
            self._process.remove(gone)
            for request in gone:
                del self._running[request]
