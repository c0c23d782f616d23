"""Slots for searches in flight that many questions share fairly."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from search_lib.urgency import Urgency, urgency


class SharedWindow:
    """A number of searches that may be in flight together, of all questions.

    A free slot goes to the question with the fewest blocks in flight, among equals to the one that
    has waited longest since it was given one: none of them starves another, however large.

    Args:
        size: Searches in flight.
    """

    def __init__(self, size: int):
        self._size = self._free = size
        self._waiting: list[Share] = []
        self._turns = 0

    @property
    def num_running(self) -> int:
        """Searches in flight."""
        return self._size - self._free

    @property
    def num_waiting(self) -> int:
        """Searches that wait for a slot."""
        return sum(len(share.waiting) for share in self._waiting)

    def share(self, blocks: int) -> "Share":
        """Returns the share of a question whose searches have so many blocks in flight."""
        self._turns += 1
        return Share(self, blocks, last_turn=self._turns)

    async def acquire(self, share: "Share") -> int:
        """Returns when the share has one more slot: the number of all that were given."""
        slot = asyncio.get_running_loop().create_future()
        share.waiting.append(slot)
        if share not in self._waiting:
            self._waiting.append(share)
        self._give()
        try:
            return await slot
        except asyncio.CancelledError:
            if slot in share.waiting:
                self._forget(share, slot)
            elif not slot.cancelled():
                self.release(share)  # it was given just before
            raise

    def release(self, share: "Share") -> None:
        """Takes a slot of a share back."""
        share.slots -= 1
        self._free += 1
        self._give()

    def _give(self) -> None:
        while self._free and self._waiting:
            share = min(self._waiting, key=lambda one: (one.slots * one.blocks, one.last_turn))
            slot = share.waiting[0]
            self._forget(share, slot)
            if slot.done():
                continue  # its search has been cancelled
            self._free -= 1
            share.slots += 1
            self._turns += 1
            share.last_turn = self._turns
            slot.set_result(self._turns)

    def _forget(self, share: "Share", slot: "asyncio.Future[int]") -> None:
        share.waiting.remove(slot)
        if not share.waiting:
            self._waiting.remove(share)


@dataclass(eq=False)
class Share:
    """What one question has of a `SharedWindow`.

    Attributes:
        window: The window.
        blocks: Blocks that one of its searches has in flight.
        last_turn: When it was given a slot, or began to ask for one.
        slots: Its searches in flight.
        waiting: Its searches that wait for a slot.
    """

    window: SharedWindow
    blocks: int
    last_turn: int
    slots: int = 0
    waiting: "deque[asyncio.Future[int]]" = field(default_factory=deque)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Holds a slot within the block, once there is one.

        Its place among the searches of all questions is what its requests go by: by that among its
        own question's, the first searches of new questions would overtake it for ever.
        """
        urgency.set(Urgency(await self.window.acquire(self)))
        try:
            yield
        finally:
            self.window.release(self)
