"""Small HTTP servers with every fault."""

import asyncio
import contextlib
import socket
import time
from contextlib import asynccontextmanager

from aiohttp import web

from run_lib.ports import free_port


def free_ports(count: int) -> int:
    """The first of so many neighbouring ports that nobody has."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


@asynccontextmanager
async def serving(answer, port=0):
    """A server that gives each request to `answer`; yields its URL.

    An error of `answer` ends the block, and is raised: a client would ask again for ever.
    """
    user = asyncio.current_task()
    errors = []

    async def handle(request):
        try:
            return await answer(request)
        except (web.HTTPException, OSError):  # a status, or a client that is gone
            raise
        except Exception as error:
            errors.append(error)
            user.cancel()
            raise

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        if errors:
            raise errors[0]


def in_turn(*answers):
    """A server's answers one after another, the last one for ever, and when they were given."""
    times = []

    async def answer(request):
        times.append(time.monotonic())
        kind = answers[min(len(times), len(answers)) - 1]
        return await kind(request) if callable(kind) else web.Response(**kind)

    return answer, times
