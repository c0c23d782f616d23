"""Who gets in, how much a request may bring, and what happens when its client goes."""

import asyncio
import logging

import pytest

from tests.support.serving import (
    CHAT,
    InProcess,
    at_once,
    events_of,
    never,
    outcome_of,
    running,
    until,
)

KEY = "a-long-secret"


def get(path, headers=None, **server):
    async def work():
        return await InProcess(**server).client.get(path, headers=headers)

    return asyncio.run(work())


@pytest.mark.parametrize(
    "authorization",
    [None, "", KEY, f"Basic {KEY}", "Bearer", "Bearer wrong", f"Bearer {KEY}x", "Bearer \xe9"],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nothing", CHAT])
def test_without_the_key_nothing_is_told(path, authorization):
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    reply = get(path, headers, api_key=KEY)
    assert reply.status_code == 401
    assert reply.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer {KEY}"])
def test_the_key_opens(authorization):
    assert get("/v1/models", {"authorization": authorization}, api_key=KEY).status_code == 200


def test_health_needs_no_key():
    assert get("/health", api_key=KEY).json() == {"status": "ok"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000"]
)
def test_without_a_key_the_names_of_this_machine_are_answered(host):
    assert get("/v1/models", {"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example.org", "127.0.0.1.evil.org:8000", "", "10.0.0.1"])
@pytest.mark.parametrize("path", ["/v1/models", "/health"])
def test_without_a_key_no_other_name_is_answered(host, path):
    reply = get(path, {"host": host})
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")


def test_with_a_key_any_name_is_answered():
    headers = {"host": "vgs.example.org", "authorization": f"Bearer {KEY}"}
    assert get("/v1/models", headers, api_key=KEY).status_code == 200


class Wire:
    """A request, message by message.

    Attributes:
        sent: Messages of the reply.
        num_received: Messages of the request that were read.
    """

    def __init__(self, parts, headers=None, goes=None):
        self.sent, self.num_received = [], 0
        self._parts = list(parts)
        self._goes = goes or asyncio.Event()
        headers = {"host": "localhost", "content-type": "application/json"} | (headers or {})
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "raw_path": CHAT.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }

    async def receive(self):
        if self.num_received < len(self._parts):
            self.num_received += 1
            more = self.num_received < len(self._parts)
            part = self._parts[self.num_received - 1]
            return {"type": "http.request", "body": part, "more_body": more}
        await self._goes.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    async def ask(self, server):
        await server.gate(self.scope, self.receive, self.send)
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])


BODY = b'{"model": "policy", "messages": [{"role": "user", "content": "start 1 +3"}], "user": "'


def large_body(size):
    return BODY + b"x" * (size - len(BODY) - 2) + b'"}'


def parts_of(body):
    return [body[start : start + 100] for start in range(0, len(body), 100)]


def ask(parts, headers=None):
    async def work():
        wire = Wire(parts, headers)
        return await wire.ask(InProcess(max_body_bytes=1000)), wire

    return asyncio.run(work())


def test_a_body_of_the_limit_is_read():
    assert ask(parts_of(large_body(1000)))[0] == 200


@pytest.mark.parametrize("declares", [True, False])
def test_a_larger_body_is_refused_whether_it_tells_its_length_or_not(declares):
    body = large_body(1001)
    status, wire = ask(parts_of(body), {"content-length": str(len(body))} if declares else None)
    assert status == 413
    # All of it was read: most clients read no reply before they have sent their request.
    assert wire.num_received == len(parts_of(body))
    assert b"connection" not in wire.headers


def test_a_body_without_end_is_not_read_to_its_end():
    part = b"x" * 2**20
    status, wire = ask([part] * 100)
    assert status == 413
    assert wire.num_received < 12
    assert wire.headers[b"connection"] == b"close"


def test_a_client_that_asks_first_sends_nothing_in_vain():
    status, wire = ask([b"x"] * 9, {"content-length": "5000", "expect": "100-continue"})
    assert (status, wire.num_received) == (413, 0)


def test_too_large_a_body_never_reaches_a_search():
    async def work():
        server = InProcess(max_body_bytes=1000)
        await Wire(parts_of(large_body(2000))).ask(server)
        return server.asker.asked

    assert asyncio.run(work()) == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/health", 405), ("GET", "/health", 200), ("GET", CHAT, 405)],
)
def test_a_body_that_no_path_takes_is_not_waited_for(method, path, status, monkeypatch):
    # Who has no key would hold the places of those who have one.
    monkeypatch.setattr("search_lib.serve.gate.BODY_SECONDS", 0.0)

    async def work():
        wire = Wire([])
        wire.scope |= {"method": method, "path": path, "raw_path": path.encode()}
        return await wire.ask(InProcess())

    assert asyncio.run(work()) == status


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_goes_away_cancels_its_searches(stream):
    body = BODY + f'", "n": 3, "stream": {stream}}}'.encode()

    async def work():
        server, goes = InProcess(never), asyncio.Event()
        async with running(Wire([body], goes=goes).ask(server)) as request:
            await until(lambda: server.asker.num_running == 3)
            goes.set()
            await request
        gone = await server.metric(f'vgs_requests_total{{endpoint="{CHAT}",status="499"}}')
        return server.asker.num_running, gone, await server.metric("vgs_requests_in_flight")

    assert asyncio.run(work()) == (0, 1.0, 0.0)


def test_a_client_that_goes_while_it_waits_leaves_the_queue():
    async def work():
        server, goes = InProcess(never, max_requests=1), asyncio.Event()
        async with running(Wire([BODY + b'"}']).ask(server)):
            await until(lambda: server.asker.num_running == 1)
            async with running(Wire([BODY + b'"}'], goes=goes).ask(server)) as waiting:
                while await server.metric("vgs_requests_queued") < 1:
                    await asyncio.sleep(0)
                goes.set()
                await waiting
            return await server.metric("vgs_requests_queued"), server.asker.num_running

    assert asyncio.run(work()) == (0.0, 1)


def test_a_client_that_goes_before_its_body_has_come_asks_nothing():
    async def work():
        server, goes = InProcess(), asyncio.Event()
        goes.set()
        wire = Wire([BODY, b""], goes=goes)
        wire._parts.pop()
        wire._parts.append(b"")
        wire.num_received = 2
        return await wire.ask(server), server.asker.asked

    assert asyncio.run(work()) == (None, [])


def test_beyond_the_queue_is_429_with_a_time_to_come_again():
    async def work():
        server = InProcess(never, max_requests=1, max_queued=1)
        async with running(server.post()), running(server.post(stream=True)):
            await until(lambda: server.asker.num_running == 1)
            while await server.metric("vgs_requests_queued") < 1:
                await asyncio.sleep(0)
            return [await server.post(), await server.post(stream=True)]

    for reply in asyncio.run(work()):
        assert reply.status_code == 429
        assert reply.json()["error"]["type"] == "rate_limit_error"
        assert int(reply.headers["retry-after"]) >= 1


def test_who_waits_is_answered_in_turn():
    async def work():
        server = InProcess(max_requests=1, max_queued=50)
        replies = await asyncio.gather(*[server.post(seed=seed) for seed in range(40)])
        asked = [flags.seed for _, flags, _ in server.asker.asked]
        return {reply.status_code for reply in replies}, asked

    assert asyncio.run(work()) == ({200}, list(range(40)))


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_ended(stream):
    async def work():
        server = InProcess(never, request_timeout=0.01)
        return await server.post(stream=stream), server.asker.num_running

    reply, num_running = asyncio.run(work())
    assert num_running == 0
    error = events_of(reply.text)[-1]["error"] if stream else reply.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "timeout")
    if not stream:
        assert reply.status_code == 504
        assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
def test_the_end_of_the_server_ends_its_requests(stream):
    async def work():
        server = InProcess(never)
        async with running(server.post(stream=stream)) as request:
            await until(lambda: server.asker.num_running == 1)
            server.deadlines.close(0.0)
            return await request, await server.post(), await server.client.get("/health")

    reply, *later = asyncio.run(work())
    error = events_of(reply.text)[-1]["error"] if stream else reply.json()["error"]
    assert error["code"] == "shutting_down"
    assert [one.status_code for one in later] == [503, 503]


def test_the_log_has_a_line_a_request_and_nothing_of_what_was_said(caplog):
    caplog.set_level(logging.INFO, "search_lib.serve")

    async def work():
        server = InProcess(api_key=KEY)
        headers = {"authorization": f"Bearer {KEY}"}
        body = {"model": "policy", "messages": [{"role": "user", "content": "my question"}]}
        await server.client.post(CHAT, json=body, headers=headers)
        await server.client.get("/v1/models?key=mine%0A", headers={"authorization": "Bearer guess"})

    asyncio.run(work())
    good, bad = caplog.messages
    assert f"POST {CHAT} 200 " in good
    assert good.endswith("model=policy:beam2-4x2 choices=1 tokens=40")
    assert "GET /v1/models 401 " in bad
    for secret in (KEY, "guess", "mine", "question", "boxed"):
        assert secret not in caplog.text


def test_metrics_count_requests_and_tokens():
    async def work():
        server = InProcess()
        await server.post()
        await server.post(n=2, stream=True)
        await server.client.get("/no/such/path")
        names = [
            f'vgs_requests_total{{endpoint="{CHAT}",status="200"}}',
            'vgs_requests_total{endpoint="other",status="404"}',
            "vgs_tokens_generated_total",
            f'vgs_request_seconds_count{{endpoint="{CHAT}"}}',
        ]
        return [await server.metric(name) for name in names]

    assert asyncio.run(work()) == [2.0, 1.0, 120.0, 2.0]


def test_one_choice_that_fails_ends_the_others_of_its_request():
    async def second_fails(question, flags):
        if flags.seed != 5:
            raise KeyError("x")
        return await never(question, flags)

    async def work():
        server = InProcess(second_fails)
        return (await server.post(seed=5, n=2)).status_code, server.asker.num_running

    assert asyncio.run(work()) == (500, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_for_many_choices_has_one_share_of_the_window(stream):
    async def work():
        server = InProcess()
        await server.post(n=3, stream=stream)
        await server.post(stream=stream)
        return server.asker.shares

    *many, one = asyncio.run(work())
    assert len({*many}) == 1
    assert one not in many


def test_a_stream_says_something_while_nothing_happens(monkeypatch):
    monkeypatch.setattr("search_lib.serve.service.SILENCE_SECONDS", 0.0)
    monkeypatch.setattr("search_lib.serve.service.PROGRESS_SECONDS", 0.001)

    async def work():
        ready = asyncio.Event()

        async def later(question, flags):
            await ready.wait()
            return outcome_of()

        server = InProcess(later)
        wire = Wire([BODY + b'", "stream": true}'])
        async with running(wire.ask(server)) as request:
            await until(lambda: any(one.get("body") == b": waiting\n\n" for one in wire.sent))
            ready.set()
            await request
        return wire.sent[-2]["body"]

    assert asyncio.run(work()) == b"data: [DONE]\n\n"


def test_choices_of_a_stream_are_told_apart():
    async def work():
        return await InProcess(at_once).post(n=2, stream=True, stream_options={"include_usage": 1})

    assert asyncio.run(work()).status_code == 400  # 1 is no boolean

    async def right():
        options = {"include_usage": True}
        return await InProcess(at_once).post(n=2, stream=True, stream_options=options)

    events = events_of(asyncio.run(right()).text)
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"]["completion_tokens"] == 80
    ended = [event["choices"][0] for event in events[:-2] if event["choices"][0]["finish_reason"]]
    assert sorted(choice["index"] for choice in ended) == [0, 1]
