"""Connections of the server: which of them are kept while nothing is asked on them."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from search_lib.engines.http_service import allow_connections

HEAD_SECONDS = 30.0
"""Within which a client must ask something; uvicorn's own time-out ends with the first byte."""

IDLE_CONNECTIONS = 1024
"""Connections beside those of all requests that may be open."""

BACKLOG = 512
"""Connections that may come at once."""

TURNS = 4
"""Of the event loop, from a connection that comes to the end of one that makes room for it."""


class Room:
    """How many connections there may be.

    Args:
        most: Most connections.
        backlog: Connections that may come at once.

    Attributes:
        most: Most connections.
        backlog: Connections that may come at once.
        idle: Those on which nothing is asked, the one that has waited longest first.
    """

    def __init__(self, most: int, backlog: int):
        self.most = most
        self.backlog = backlog
        self.idle: dict[Connection, None] = {}

    @classmethod
    def for_requests(cls, most: int) -> "Room":
        """Returns the room for so many requests, as far as the limit of open files allows.

        Some files are left to connections that come before others have ended to make room for them:
        without any, asyncio would write thousands of lines a second.
        """
        allowed = allow_connections(most + IDLE_CONNECTIONS + TURNS * BACKLOG)
        backlog = max(1, min(BACKLOG, allowed // (4 * TURNS)))
        return cls(max(1, allowed - TURNS * backlog), backlog)


class Connection(H11Protocol):
    """A connection that makes room for others while nothing is asked on it.

    Anybody may open connections, with a key or without one. So one on which nobody asks anything is
    closed after some time; if there are too many, the one that has waited longest is closed at
    once. No request that is read or answered gives way.

    Args:
        room: Shared by all connections.
        **settings: Those of uvicorn.
    """

    def __init__(self, room: Room, **settings: Any):
        super().__init__(**settings)
        self._room = room
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._note()
        if len(self.connections) > self._room.most:
            longest = next(iter(self._room.idle))
            longest.connections.discard(longest)  # it is counted until the loop comes to its end
            longest._forget()
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waiting."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads what has come."""
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        self._note()

    def _note(self) -> None:
        """Notes whether something is asked."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self not in self._room.idle:
            self._room.idle[self] = None
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _forget(self) -> None:
        self._room.idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
