"""How many requests are answered, how many wait, and how long one may take."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from search_lib.serve.errors import ApiError, shutting_down, timed_out, too_busy

KEPT_DURATIONS = 64
"""Requests whose durations tell how soon another one ends."""

MOST_RETRY_SECONDS = 3600


@dataclass(eq=False)
class Place:
    """The place of a request among those that are answered, or that wait.

    Attributes:
        ready: Done once it is answered.
        began: Since when, in seconds of the monotonic clock.
    """

    ready: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    began: float = 0.0


class Admission:
    """Lets some requests be answered at once, and some wait; first come, first served.

    Args:
        max_running: Requests that are answered at once.
        max_queued: Requests that wait.
    """

    def __init__(self, max_running: int, max_queued: int):
        self._max_running = max_running
        self._max_queued = max_queued
        self._running: set[Place] = set()
        self._queue: deque[Place] = deque()
        self._durations: deque[float] = deque(maxlen=KEPT_DURATIONS)

    @property
    def num_running(self) -> int:
        """Requests that are answered."""
        return len(self._running)

    @property
    def num_queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    def take(self) -> Place:
        """Returns a place, which must be left; raises ApiError if there is none."""
        place = Place()
        if len(self._running) < self._max_running:
            self._begin(place)
        elif len(self._queue) < self._max_queued:
            self._queue.append(place)
        else:
            raise self.refusal()
        return place

    def leave(self, place: Place) -> None:
        """Gives a place to the request that has waited longest."""
        if place not in self._running:
            self._queue.remove(place)
            return
        self._running.remove(place)
        self._durations.append(time.monotonic() - place.began)
        if self._queue:
            self._begin(self._queue.popleft())

    def refusal(self) -> ApiError:
        """Returns the error of a request that comes when all places are taken."""
        return too_busy(
            f"The server answers {self.num_running} requests, and {self.num_queued} wait.",
            self._retry_seconds(),
        )

    def _begin(self, place: Place) -> None:
        place.began = time.monotonic()
        self._running.add(place)
        if not place.ready.done():  # who waited may have gone just now
            place.ready.set_result(None)

    def _retry_seconds(self) -> int:
        """Returns when a new request would be answered, by the durations of the last ones."""
        now = time.monotonic()
        known = self._durations or [now - place.began for place in self._running]
        mean = sum(known) / len(known) if known else 0.0
        seconds = mean * (self.num_queued + 1) / self._max_running
        return min(max(math.ceil(seconds), 1), MOST_RETRY_SECONDS)


class Deadlines:
    """Ends requests that take too long, and all of them when the server ends.

    Args:
        seconds: Most seconds of a request.

    Attributes:
        is_closing: Whether the server ends.
    """

    def __init__(self, seconds: float):
        self.is_closing = False
        self._seconds = seconds
        self._open: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Raises ApiError if the block takes too long, or the server ends meanwhile."""
        if self.is_closing:
            raise shutting_down()
        timeout = asyncio.timeout(self._seconds)
        try:
            async with timeout:
                self._open.add(timeout)
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise (shutting_down() if self.is_closing else timed_out(self._seconds)) from None
        finally:
            self._open.discard(timeout)

    def close(self, seconds: float) -> None:
        """Has all requests end within some seconds, and refuses new ones."""
        self.is_closing = True
        latest = asyncio.get_running_loop().time() + seconds
        for timeout in [timeout for timeout in self._open if not timeout.expired()]:
            when = timeout.when()
            timeout.reschedule(latest if when is None else min(when, latest))
