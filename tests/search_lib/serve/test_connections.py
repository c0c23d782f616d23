"""Connections on which nothing is asked give way to others."""

import asyncio
import contextlib
from functools import partial

import uvicorn
from uvicorn.server import ServerState

from search_lib.serve import connections
from search_lib.serve.connections import Connection, Room

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@contextlib.asynccontextmanager
async def serving(room, app=answer):
    """A server with room for some connections; gives what opens one."""
    state = ServerState()
    config = uvicorn.Config(app, log_config=None)
    protocol = partial(Connection, room, config=config, server_state=state, app_state={})
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    writers = []

    async def connect(sent=b""):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writers.append(writer)
        writer.write(sent)
        return reader

    try:
        yield connect
    finally:
        for writer in writers:
            writer.close()
        server.close()


def run(work):
    async def in_time():
        async with asyncio.timeout(20):
            return await work()

    return asyncio.run(in_time())


async def end_of(reader):
    """All that comes until the connection is closed."""
    with contextlib.suppress(ConnectionResetError):
        return await reader.read()
    return b""


def test_the_connection_that_has_waited_longest_gives_way():
    async def work():
        async with serving(Room(2, 9)) as connect:
            longest = await connect()
            other = await connect(b"GET / HTTP/1.1\r\nX: ")
            asking = await connect(REQUEST)
            return await asking.readline(), await end_of(longest), other.at_eof()

    assert run(work) == (b"HTTP/1.1 204 No Content\r\n", b"", False)


def test_a_connection_between_two_requests_gives_way():
    async def work():
        async with serving(Room(1, 9)) as connect:
            before = await connect(REQUEST)
            await before.readuntil(b"\r\n\r\n")
            asking = await connect(REQUEST)
            return await asking.readline(), await end_of(before)

    assert run(work) == (b"HTTP/1.1 204 No Content\r\n", b"")


def test_a_request_that_is_answered_gives_no_way():
    async def work():
        asked, ready = asyncio.Event(), asyncio.Event()

        async def wait(scope, receive, send):
            asked.set()
            await ready.wait()
            await answer(scope, receive, send)

        async with serving(Room(1, 9), wait) as connect:
            asking = await connect(REQUEST)
            await asked.wait()
            late = await end_of(await connect(REQUEST))
            ready.set()
            return await asking.readline(), late

    assert run(work) == (b"HTTP/1.1 204 No Content\r\n", b"")


def test_a_request_that_never_gets_to_its_end_is_given_up(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.01)

    async def work():
        async with serving(Room(9, 9)) as connect:
            return [await end_of(await connect(sent)) for sent in (b"", b"GET / HTTP/1.1\r\nX: ")]

    assert run(work) == [b"", b""]


def test_a_request_that_is_answered_is_not_given_up():
    waiting = []
    room = Room(9, 9)

    async def look(scope, receive, send):
        waiting.append(len(room.idle))
        await answer(scope, receive, send)

    async def work():
        async with serving(room, look) as connect:
            await (await connect(REQUEST)).readuntil(b"\r\n\r\n")
            waiting.append(len(room.idle))

    run(work)
    assert waiting == [0, 1]


def test_connections_leave_files_to_those_that_come_at_once(monkeypatch):
    monkeypatch.setattr(connections, "allow_connections", lambda wanted: min(wanted, 768))
    room = Room.for_requests(384)
    assert room.most + connections.TURNS * room.backlog == 768
    assert room.most >= 500
