"""The HTTP server, in the event loop of the models."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from run_lib.commands import InputError
from search_lib.serve.admission import Deadlines
from search_lib.serve.connections import Connection, Room

GRACE_SECONDS = 5.0
"""Requests may end within this time when the server is told to end; then they get an error."""

MORE_SECONDS = 7
"""After which connections are closed whose clients don't take their replies."""


def open_socket(host: str, port: int) -> socket.socket:
    """Returns a socket with an address, on which nobody listens yet.

    Raises:
        InputError: If the address can't be had.
    """
    listener = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # localhost is two addresses; clients know the older one.
        family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Returns the address of a socket as clients write it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def log_to_stdout() -> None:
    """Has requests logged on standard output, a line each, with the time."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("search_lib.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class LoopServer(uvicorn.Server):
    """A server in a loop that is another's, whose signals it leaves alone.

    Args:
        config: Its settings.
        on_start: Called once it listens.
    """

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]):
        super().__init__(config)
        self._on_start = on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone: uvicorn would send itself those that it got, when it has ended."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        self._on_start()


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    deadlines: Deadlines,
    max_open: int,
    on_start: Callable[[], None],
) -> None:
    """Serves until SIGTERM or Ctrl-C; a second one ends it without waiting for requests.

    Args:
        app: What is served.
        listener: Where.
        deadlines: Of the requests: they end before the server does.
        max_open: Requests that may be open.
        on_start: Called once it listens.
    """
    room = Room.for_requests(max_open)
    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], partial(Connection, room)),
        backlog=room.backlog,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(GRACE_SECONDS) + MORE_SECONDS,
    )
    server = LoopServer(config, on_start)

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True
        deadlines.close(GRACE_SECONDS)

    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        await server.serve([listener])
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
