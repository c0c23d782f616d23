"""Requests of a search that are sent before it asks for them, so that it waits less.

This is `--speculate`. A round of a search ends with its slowest block. Meanwhile the search says
what it will, or may, ask for next (`Guessing`); that is sent already. Once the search asks for it,
the answer is there, or under way. Requests that are only guessed go behind all others (`Urgency`),
and a search never has more blocks in flight than without them: a guess takes the room of a block
that has ended. What turns out wrong is cancelled, and counted as waste. Since the blocks of a
request depend on the request alone, the search ends as it would without.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from classifier_lib.scoring import Scores
from search_lib.engines.base import Block, Expansion
from search_lib.meter import SearchMeter
from search_lib.strategies.base import Guess, Guessing, Search, Value
from search_lib.urgency import Urgency

LEAST_PROBABILITY = 0.5
"""Of a guess that is sent. Of rarer ones, more than half would be wasted."""

UNDER_WAY = 0.25
"""By so much more likely a guess counts once it is sent, so that none is given up lightly."""


@dataclass(eq=False)
class Request:
    """One expansion on its way.

    Attributes:
        expansion: The expansion.
        urgency: Its place in queues.
        task: Fills in the answer.
        blocks: Its blocks, once they are generated.
        scores: Their scores, once they are there; None if nothing scores them.
    """

    expansion: Expansion
    urgency: Urgency
    task: asyncio.Task[None] = field(init=False)
    blocks: list[Block] | None = None
    scores: Scores | None = None

    @property
    def answer(self) -> tuple[Sequence[Block], Sequence[Value]]:
        """The blocks and their values, once its task has ended well."""
        blocks = self.blocks or []
        return blocks, [None] * len(blocks) if self.scores is None else self.scores.values

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer that fits; another is an error once it is asked for."""
        if not self.task.done():
            return False
        return all(len(part) == self.expansion.n for part in self.answer)

    @property
    def num_blocks(self) -> int:
        """Blocks that the engine has in hand."""
        return 0 if self.blocks is not None else self.expansion.n


class Speculation:
    """The requests that a search has not asked for yet.

    Args:
        search: The search. Nothing is sent ahead for one that can't guess.
        send: Sends an expansion: (the expansion, whether it is only guessed) -> its request.
        room: Blocks that the search may have at the engine, those that it has asked for included; 0
            to send nothing ahead.
        meter: Counts what is wasted.
    """

    def __init__(
        self,
        search: Search,
        send: Callable[[Expansion, bool], Request],
        room: int,
        meter: SearchMeter,
    ):
        self._search = search if room and isinstance(search, Guessing) else None
        self._send = send
        self._room = room
        self._meter = meter
        self._ahead: dict[int, Request] = {}  # by seed
        self._failed: set[int] = set()
        self._given_up: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """The tasks of requests that are not answered yet."""
        return [request.task for request in self._ahead.values() if not request.task.done()]

    def take(self, expansion: Expansion) -> Request | None:
        """Returns the request for an expansion that the search asks for now, if it was sent."""
        self._forget_failed()
        request = self._ahead.get(expansion.seed)
        if request is None or replace(request.expansion, path_id=expansion.path_id) != expansion:
            return None
        del self._ahead[expansion.seed]
        request.expansion = expansion
        request.urgency.guessed = False
        return request

    def renew(self, blocks_asked: int) -> None:
        """Sends what the search will probably ask for, while there is room; gives up the rest.

        Args:
            blocks_asked: Blocks that the engine has in hand, of those that the search asked for.
        """
        if self._search is None:
            return
        self._forget_failed()
        answered = {
            seed: list(zip(*request.answer, strict=True))
            for seed, request in self._ahead.items()
            if request.is_answered
        }
        guesses = {
            guess.expansion.seed: guess
            for guess in self._search.guess(answered)
            if guess.expansion.seed not in self._failed
        }
        for seed in self._ahead.keys() - guesses.keys():
            self._give_up(seed)
        room = self._room - blocks_asked
        for guess in sorted(guesses.values(), key=self._weight, reverse=True):
            seed, request = guess.expansion.seed, self._ahead.get(guess.expansion.seed)
            if request is not None and not request.num_blocks:
                continue
            is_sent = self._weight(guess) >= LEAST_PROBABILITY and guess.expansion.n <= room
            if is_sent:
                room -= guess.expansion.n
            if request is not None and not is_sent:
                self._give_up(seed)
            if request is None and is_sent:
                request = self._ahead[seed] = self._send(guess.expansion, True)
            if request is not None and guess.probability == 1:
                request.urgency.guessed = False

    async def close(self) -> None:
        """Gives up everything, and waits until it has ended."""
        self._forget_failed()
        for seed in list(self._ahead):
            self._give_up(seed)
        await asyncio.gather(*self._given_up, return_exceptions=True)

    def _weight(self, guess: Guess) -> float:
        return guess.probability + (UNDER_WAY if guess.expansion.seed in self._ahead else 0.0)

    def _give_up(self, seed: int) -> None:
        request = self._ahead.pop(seed)
        self._meter.add_waste(request.expansion.n, request.blocks)
        if not request.task.done():
            request.task.cancel()
            self._given_up.add(request.task)
            request.task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()  # nobody else will ask for it

    def _forget_failed(self) -> None:
        """Forgets guesses that failed: the search may never ask for them, or asks once more."""
        for seed, request in list(self._ahead.items()):
            task = request.task
            if task.done() and (task.cancelled() or task.exception() is not None):
                del self._ahead[seed]
                self._failed.add(seed)
