"""What every request passes: who may ask, how much, and until when."""

import asyncio
import hmac
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from run_lib.text import printable, shorten
from search_lib.serve.errors import ApiError, unexpected
from search_lib.serve.exchange import KEY, Exchange

LOG = logging.getLogger("search_lib.serve")

BODY_SECONDS = 60.0
"""A body that takes longer to arrive is given up."""

READ_AHEAD = 8 * 2**20
"""Bytes beyond the limit that are read and thrown away: most clients read no reply before they have
sent all of their request."""

OPEN_PATHS = frozenset({"/health"})
"""Paths that need no key."""


class ClientGone(Exception):
    """Nobody waits for the reply any more."""


@dataclass(frozen=True)
class Rules:
    """Whom the gate lets through.

    Attributes:
        key: What clients must send; None if they need no key.
        hosts: Names that a request may give this server; None for any. A page of another site can
            have its own name lead here.
        max_body_bytes: Most bytes of a body.
        max_open: Requests with a body that may be open.
    """

    key: str | None
    hosts: frozenset[str] | None
    max_body_bytes: int
    max_open: int


class Gate:
    """An ASGI app around another one.

    It reads the whole body first. While the app works, it watches whether the client is still
    there, and cancels the app's task if not: the searches end with it, down to the engine.

    Args:
        app: Answers what passes.
        rules: What passes.
        busy: Makes the error of a request for which there is no room.
        on_end: Called with every exchange that has ended, its path, and its seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        rules: Rules,
        busy: Callable[[], ApiError],
        on_end: Callable[[Exchange, str, float], None],
    ):
        self._app = app
        self._rules = rules
        self._busy = busy
        self._on_end = on_end
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return
        exchange = scope[KEY] = Exchange(send)
        started = time.monotonic()
        # Nobody without the key keeps a place, nor has anything kept.
        has_body = scope["method"] == "POST" and scope["path"] not in OPEN_PATHS
        self._num_open += has_body
        try:
            self._check(scope, has_body)
            limit = self._rules.max_body_bytes
            body = await read_body(scope, receive, limit, exchange) if has_body else b""
            await self._answer(scope, body, receive, exchange)
        except ClientGone:
            exchange.status = 499
        except ApiError as error:
            await refuse(scope, exchange, error)
        except Exception as error:
            LOG.exception("%s failed", exchange.id, exc_info=error)
            if not exchange.has_begun:
                await refuse(scope, exchange, unexpected(exchange.id))
        finally:
            self._num_open -= has_body
            seconds = time.monotonic() - started
            log_request(scope, exchange, seconds)
            self._on_end(exchange, scope["path"], seconds)

    def _check(self, scope: Scope, has_body: bool) -> None:
        """Raises ApiError for a request that may not pass."""
        headers = Headers(scope=scope)
        hosts = self._rules.hosts
        if hosts is not None:
            name = re.sub(r":[0-9]*$", "", headers.get("host", "")).lower()
            if name not in hosts:
                raise ApiError(403, "This server does not answer to that name.", code="wrong_host")
        if self._rules.key is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(key.strip().encode(), self._rules.key.encode())
            if scheme.lower() != "bearer" or not is_right:
                raise ApiError(
                    *(401, "The API key is missing or wrong.", None, "invalid_api_key"),
                    headers={"www-authenticate": "Bearer"},
                )
        if has_body and self._num_open > self._rules.max_open:
            raise self._busy()

    async def _answer(
        self, scope: Scope, body: bytes, receive: Receive, exchange: Exchange
    ) -> None:
        bodies = [body]

        async def read_again() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await asyncio.Event().wait()  # the gate itself watches for the end
            raise AssertionError

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        async def answer() -> None:
            await self._app(scope, read_again, exchange.reply)

        work = asyncio.create_task(answer())
        gone = asyncio.create_task(watch())
        try:
            await asyncio.wait([work, gone], return_when="FIRST_COMPLETED")
            if not work.done():
                raise ClientGone
            work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)


async def read_body(scope: Scope, receive: Receive, limit: int, exchange: Exchange) -> bytes:
    """Returns the body of a request, however its length is told.

    Raises:
        ApiError: If it is longer than the limit, or does not arrive.
        ClientGone: If the client is gone.
    """
    headers = Headers(scope=scope)
    declared = headers.get("content-length", "0")
    too_large = not declared.isdecimal() or int(declared) > limit
    parts: list[bytes] = []
    size = 0
    more = not (too_large and "expect" in headers)
    exchange.closes = True  # unless all of it has come
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more and size <= limit + READ_AHEAD:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    too_large = True
                    parts.clear()
                elif not too_large:
                    parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {BODY_SECONDS:g} seconds.") from None
    exchange.closes = more
    if too_large:
        raise ApiError(
            413, f"The body is larger than {limit} bytes, the server's limit.", code="too_large"
        )
    return b"".join(parts)


async def refuse(scope: Scope, exchange: Exchange, error: ApiError) -> None:
    """Sends an error, if nothing was sent yet."""

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    if not exchange.has_begun:
        response = JSONResponse(error.body(), error.status_code, error.headers)
        await response(scope, nothing, exchange.reply)


def log_request(scope: Scope, exchange: Exchange, seconds: float) -> None:
    """Writes the line of a request: nothing of what was asked or answered, and no key."""
    client = scope.get("client")
    notes = "".join(f" {name}={printable(value)}" for name, value in exchange.notes.items())
    LOG.info(
        "%s %s %s %d %.3fs %s%s",
        client[0] if client else "-",
        scope["method"],
        shorten(scope["path"], 100),
        exchange.status,
        seconds,
        exchange.id,
        notes,
    )
