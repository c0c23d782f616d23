"""A client of model servers over HTTP that survives their faults."""

import asyncio
import hashlib
import http.client
import json
import logging
import math
import random
import resource
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp

from run_lib.text import printable, shorten
from search_lib.engines.addresses import check_url
from search_lib.engines.base import BadReply, EngineUnavailable

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

CONNECT_SECONDS = 10.0
FIRST_DELAY, LONGEST_DELAY = 0.25, 20.0
"""Seconds before the first retry, and the most before later ones."""
MAX_BAD_REPLIES = 5
MAX_BODY = 64 * 2**20
"""Most bytes of a reply, unpacked. One with 100,000 token ids has less than one MiB."""
LEAST_BODY_SECONDS = 1.0
"""Seconds that the body of a reply may take, however small the patience."""
ROUTING_HEADER = "X-SMG-Routing-Key"
"""Header by which SGLang's router keeps requests on one server without reading their text."""
SPARE_FILES = 256
"""Open files that connections leave to the rest of the process."""


class _Fault(Exception):
    """A fault of one attempt that the next one may not have.

    Args:
        message: Message for the user.
        away: Whether the server may be gone, so that other requests try another one first.
        wait: Seconds that the server asks for.
    """

    def __init__(self, message: str, away: bool = False, wait: float = 0.0):
        super().__init__(message)
        self.away = away
        self.wait = wait


class HttpService:
    """One service behind one or several base URLs: a server, a router, or equal servers.

    A request that fails for reasons that may pass (refused, reset, timed out, 429, 5xx) is made
    again, at the next URL or after a pause that grows, for `patience` seconds. With several URLs
    each key has a URL of its own as long as that answers, so that requests that share a prefix find
    it in that server's cache. Opening a service raises the process's limit of open files.

    A server may keep a request in its queue for `request_timeout`. From the first line of its reply
    on it has `patience`, so that one whose reply drips is a fault. Redirections aren't followed:
    neither prompts nor the key go to a server that wasn't named.

    Args:
        urls: `http://host:port`, one or several.
        patience: Seconds from a request's first failure until it is given up.
        request_timeout: Seconds for one attempt, the time in the server's queue included.
        max_connections: Requests in flight; the others wait here. Lowered to the number that the
            limit of open files allows.
        api_key: Key of the servers, sent as `Authorization: Bearer`; None without one.

    Raises:
        ValueError: If one of them is no URL of a server.
    """

    def __init__(
        self,
        urls: Sequence[str],
        patience: float = 600.0,
        request_timeout: float = 3600.0,
        max_connections: int = 4096,
        api_key: str | None = None,
    ):
        self.urls = [check_url(url) for url in urls]
        self.patience = patience
        self.request_timeout = request_timeout
        self._slots = asyncio.Semaphore(allow_connections(max_connections))
        self._headers = {"Content-Type": "application/json", **_authorization(api_key)}
        self._session: aiohttp.ClientSession | None = None
        self._away_until = dict.fromkeys(self.urls, 0.0)

    async def post(
        self, path: str, payload: Any, parse: Callable[[Any], Result], key: str = ""
    ) -> Result:
        """Sends JSON, and returns the parsed JSON of the reply.

        Args:
            path: Path below the URL, with its slash.
            payload: The request, of JSON types.
            parse: Turns the reply into the result; raises `BadReply` for one that the server must
                not give. The request is then made again, `MAX_BAD_REPLIES` times in all.
            key: Requests with equal keys go to the same URL, and behind a router with the policy
                `manual` to the same server.

        Raises:
            EngineUnavailable: If the service stays away longer than `patience`.
            BadReply: If bad replies don't stop.
            ValueError: If the server refuses the request (4xx), with its message.
        """
        body = json.dumps(payload).encode()
        deadline = 0.0  # until the first failure
        delay = FIRST_DELAY
        bad_replies = 0
        while True:
            wait = 0.0
            for url in self._in_order(key):
                try:
                    reply = await self._post_once(url, path, body, key)
                    return _parse(reply, parse)
                except BadReply as error:
                    bad_replies += 1
                    last = f"{url}{path}: {error}"
                    if bad_replies == MAX_BAD_REPLIES:
                        raise BadReply(f"{last} ({bad_replies} bad replies)") from error
                except _Fault as fault:
                    last = f"{url}{path}: {fault}"
                    wait = max(wait, fault.wait)
                    self._note(url, fault)
                deadline = deadline or time.monotonic() + self.patience
            # Jitter, so that the requests of one outage don't come back as one wave.
            pause = max(wait, delay * random.uniform(0.5, 1.0))
            left = deadline - time.monotonic()
            if left <= 0:
                raise EngineUnavailable(f"{last}; given up after {self.patience:.0f} s")
            # The last attempt is made when the patience ends, whatever the server asks for.
            await asyncio.sleep(min(pause, left))
            delay = min(2 * delay, LONGEST_DELAY)

    async def close(self) -> None:
        """Closes all connections; requests in flight fail."""
        if self._session is not None:
            await self._session.close()

    def _in_order(self, key: str) -> list[str]:
        """Returns the URLs in the key's order (rendezvous hashing), absent servers last."""
        now = time.monotonic()

        def rank(url: str) -> tuple[bool, bytes]:
            return self._away_until[url] > now, hashlib.blake2b(f"{url} {key}".encode()).digest()

        return sorted(self.urls, key=rank)

    async def _post_once(self, url: str, path: str, body: bytes, key: str) -> Any:
        async with self._slots:
            if self._session is None:
                self._session = aiohttp.ClientSession(
                    # The slots are the limit.
                    connector=aiohttp.TCPConnector(limit=0, socket_factory=make_socket),
                    headers=self._headers,
                    timeout=aiohttp.ClientTimeout(
                        total=self.request_timeout, sock_connect=CONNECT_SECONDS
                    ),
                )
            try:
                async with self._session.post(
                    f"{url}{path}",
                    data=body,
                    headers={ROUTING_HEADER: key} if key else None,
                    allow_redirects=False,
                ) as response:
                    status, headers = response.status, response.headers
                    content = await self._read_body(response)
            except TimeoutError as error:
                raise _Fault(
                    str(error) or f"no answer within {self.request_timeout:g} s", away=True
                ) from error
            except (aiohttp.ClientError, ConnectionError) as error:
                raise _Fault(f"{type(error).__name__}: {error}", away=True) from error
        self._away_until[url] = 0.0
        if status in (408, 429) or status >= 500:
            raise _Fault(
                f"status {status}: {shorten(content)}",
                away=status in (502, 503, 504),
                wait=seconds_of(headers.get("Retry-After", "")),
            )
        if status >= 400:
            raise ValueError(f"{url}{path} refuses, status {status}: {shorten(content)}")
        if status >= 300:
            raise _Fault(f"status {status}, to {shorten(headers.get('Location'))}: not followed")
        try:
            return parse_json(content)
        except ValueError as error:
            raise BadReply(f"no JSON: {shorten(content)}") from error

    async def _read_body(self, response: aiohttp.ClientResponse) -> bytes:
        """Returns the unpacked body of a reply.

        Raises:
            BadReply: If it has more than `MAX_BODY` bytes.
            _Fault: If it doesn't end within the patience.
        """
        seconds = max(self.patience, LEAST_BODY_SECONDS)
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                async for piece in response.content.iter_any():
                    body += piece
                    if max(len(body), response.content_length or 0) > MAX_BODY:
                        raise BadReply(
                            f"more than {MAX_BODY:,} bytes: {shorten(bytes(body[:1000]))}"
                        )
        except TimeoutError as error:
            raise _Fault(f"a reply that did not end within {seconds:g} s", away=True) from error
        return bytes(body)

    def _note(self, url: str, fault: _Fault) -> None:
        now = time.monotonic()
        if fault.away and self._away_until[url] <= now:
            logger.warning("%s: %s; trying for up to %.0f s", url, printable(fault), self.patience)
        if fault.away:
            self._away_until[url] = now + 2 * LONGEST_DELAY


def make_socket(address: tuple[Any, ...]) -> socket.socket:
    """Returns a socket that notices within two minutes that the other machine is gone."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    return made


def parse_json(content: bytes) -> Any:
    """Returns the content of JSON of finite numbers.

    Raises:
        ValueError: If it is anything else: not UTF-8, nested too deeply, with NaN or infinity.
    """

    def read_float(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(f"{text} is not finite")
        return number

    try:
        return json.loads(content, parse_float=read_float, parse_constant=read_float)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _parse(reply: Any, parse: Callable[[Any], Result]) -> Result:
    try:
        return parse(reply)
    except RecursionError as error:  # of a message that quotes a deep reply
        raise BadReply("nested too deeply") from error


def _authorization(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Makes the redirection an error of its status."""


def get_json(url: str, api_key: str | None = None) -> Any:
    """Returns the JSON of a page, asked for once; None where there is no such page.

    Args:
        url: Address of the page.
        api_key: See `HttpService`.

    Raises:
        EngineUnavailable: If nothing listens there, the server fails or redirects, wants another
            key, or sends more than `MAX_BODY` bytes or more slowly than in `CONNECT_SECONDS`.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    request = urllib.request.Request(url, headers=_authorization(api_key))
    try:
        with opener.open(request, timeout=CONNECT_SECONDS) as reply:
            return parse_json(_read_page(reply))
    except urllib.error.HTTPError as error:
        if 400 <= error.code < 500 and error.code not in (401, 403):
            return None
        said = shorten(error.headers.get("Location") or error.read(1000))
        raise EngineUnavailable(f"{url}: status {error.code}: {said}") from error
    except ValueError:
        return None
    except (OSError, http.client.HTTPException) as error:
        raise EngineUnavailable(f"{url}: {getattr(error, 'reason', error)}") from error


def _read_page(reply: http.client.HTTPResponse) -> bytes:
    """Returns a body; raises OSError for one that is too large or too slow."""
    give_up = time.monotonic() + CONNECT_SECONDS
    body = bytearray()
    while piece := reply.read1(2**16):
        body += piece
        if len(body) > MAX_BODY:
            raise OSError(f"more than {MAX_BODY:,} bytes")
        if time.monotonic() > give_up:
            raise OSError(f"a reply that did not end within {CONNECT_SECONDS:g} s")
    return bytes(body)


def allow_connections(wanted: int) -> int:
    """Raises the limit of open files for `wanted` connections; returns how many it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + SPARE_FILES:
        raised = wanted + SPARE_FILES
        soft = raised if hard == resource.RLIM_INFINITY else min(raised, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - SPARE_FILES))


def seconds_of(retry_after: str) -> float:
    """Returns the seconds that a Retry-After header asks for, a number or a date; else 0."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
