"""The client of model servers, against small servers with every fault."""

import asyncio
import email.utils
import gzip
import json
import re
import resource
import time
import zlib

import pytest
from aiohttp import web

from run_lib.ports import free_port
from search_lib.engines import http_service
from search_lib.engines.base import EngineUnavailable
from search_lib.engines.http_service import (
    BadReply,
    HttpService,
    get_json,
    parse_json,
    seconds_of,
)
from tests.support.http_servers import in_turn, serving


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_service, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(http_service, "LONGEST_DELAY", 0.05)


async def echo(request):
    return web.json_response(await request.json())


async def hang(request):
    await asyncio.sleep(3600)


async def cut(request):
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b'{"n": 1')
    request.transport.close()
    return response


def post_once(*answers, parse=lambda reply: reply, **options):
    """The reply to one request, and the times of its attempts."""

    async def body():
        answer, times = in_turn(*answers)
        async with serving(answer) as url:
            service = HttpService([url], **options)
            try:
                return await service.post("/generate", {"n": 1}, parse), times
            finally:
                await service.close()

    return asyncio.run(body())


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_fault_that_may_pass_is_tried_again(status):
    reply, times = post_once(*[{"status": status}] * 3, echo)
    assert (reply, len(times)) == ({"n": 1}, 4)


def test_a_request_that_hangs_is_made_again():
    reply, times = post_once(hang, echo, request_timeout=0.2)
    assert (reply, len(times)) == ({"n": 1}, 2)


def test_a_reply_that_breaks_off_is_asked_for_again():
    reply, times = post_once(cut, echo)
    assert (reply, len(times)) == ({"n": 1}, 2)


def test_a_server_says_how_long_to_wait():
    _, times = post_once({"status": 429, "headers": {"Retry-After": "0.4"}}, echo)
    assert times[1] - times[0] >= 0.4


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("", 0), ("-3", 0), ("soon", 0), ("nan", 0), ("Thu, 99 Foo", 0)],
)
def test_retry_after(header, seconds):
    assert seconds_of(header) == seconds
    assert 50 < seconds_of(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60


def test_a_request_that_the_server_refuses_is_not_made_again():
    refusal = {"status": 400, "text": "input of 9 tokens\nis too long"}
    with pytest.raises(ValueError, match="/generate refuses, status 400: input of 9 tokens is too"):
        post_once(refusal, echo)


def test_a_bad_reply_is_asked_for_again():
    def parse(reply):
        if reply != {"n": 1}:
            raise BadReply("no n")
        return reply["n"]

    answers = [{"text": "<html>"}, {"body": b"\xff\xfe"}, {"text": "{}"}, {"text": ""}, echo]
    reply, times = post_once(*answers, parse=parse)
    assert (reply, len(times)) == (1, 5)


def test_bad_replies_without_end_are_an_error_that_shows_one():
    page = f"<html>{'x' * 1000}"
    with pytest.raises(
        BadReply, match=r"http://127.0.0.1:\d+/generate: no JSON: <html>x{294} \.{3}"
    ):
        post_once({"text": page}, patience=60)


def test_a_service_that_stays_away_is_named():
    async def body(url):
        service = HttpService([url], patience=0.2)
        try:
            await service.post("/generate", {}, lambda reply: reply)
        finally:
            await service.close()

    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineUnavailable, match=f"^{url}/generate: .*given up after 0 s"):
        asyncio.run(body(url))
    with pytest.raises(EngineUnavailable, match="status 503: out of memory"):
        post_once({"status": 503, "text": "out of memory"}, patience=0.2)


def test_a_service_that_comes_back_answers_what_was_asked_meanwhile():
    async def body():
        port = free_port()
        service = HttpService([f"http://127.0.0.1:{port}"])
        waiting = [
            asyncio.create_task(service.post("/", {"n": n}, lambda reply: reply["n"]))
            for n in range(20)
        ]
        await asyncio.sleep(0.1)
        answer, _ = in_turn(echo)
        async with serving(answer, port):
            first = await asyncio.gather(*waiting)
        async with serving(answer, port):  # what is kept alive of the first one is dead
            again = await service.post("/", {"n": 20}, lambda reply: reply["n"])
        await service.close()
        return [*first, again]

    assert asyncio.run(body()) == list(range(21))


def test_equal_keys_meet_at_one_server_while_it_answers():
    keys = [f"prompt {number}" for number in range(40)]

    async def body():
        def named(number):
            async def answer(request):
                return web.json_response(number)

            return answer

        async def ask(service):
            posts = (service.post("/", {}, lambda reply: reply, key) for key in keys)
            return await asyncio.gather(*posts)

        async with serving(named(0)) as first, serving(named(2)) as last:
            async with serving(named(1)) as lost:
                urls = [first, lost, last]
                service = HttpService(urls)
                before = await ask(service)
                assert await ask(service) == before
                other = HttpService(urls[::-1])
                assert await ask(other) == before
                assert set(before) == {0, 1, 2}
            during = await ask(service)
            await service.close()
            await other.close()
        return before, during

    before, during = asyncio.run(body())
    for server_before, server_during in zip(before, during, strict=True):
        assert server_during in ((0, 2) if server_before == 1 else (server_before,))


def test_a_key_goes_along_for_a_router():
    async def answer(request):
        return web.json_response(request.headers.get("X-SMG-Routing-Key"))

    async def body():
        async with serving(answer) as url:
            service = HttpService([url])
            try:
                return [await service.post("/", {}, str, key) for key in ("abc", "")]
            finally:
                await service.close()

    assert asyncio.run(body()) == ["abc", "None"]


def test_no_more_requests_are_in_flight_than_allowed():
    async def body():
        most = current = 0

        async def answer(request):
            nonlocal most, current
            current += 1
            most = max(most, current)
            await asyncio.sleep(0.01)
            current -= 1
            return web.json_response(None)

        async with serving(answer) as url:
            service = HttpService([url], max_connections=3)
            await asyncio.gather(*(service.post("/", n, lambda reply: reply) for n in range(12)))
            await service.close()
        return most

    assert asyncio.run(body()) == 3


def test_opening_a_service_raises_the_limit_of_open_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        HttpService(["http://127.0.0.1:1"], max_connections=10)
        raised = 10 + http_service.SPARE_FILES
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (raised, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:30000", "ftp://host", "http://", "http://h/?a=b", ""),
        *("http://h:99999", "http://h:-1", "http://h:0", "http://h:a", "http://[::1"),
        *("http://a b:1", "http://h\n:1", "http://u:p@h:1", "http://h:1/\0"),
    ],
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError, match="is not of the form http://host:port"):
        HttpService([url])


def test_a_question_at_the_start_fails_at_once():
    async def body():
        async def answer(request):
            name = request.path[1:]
            if name == "info":
                return web.json_response({"model": "a"})
            return web.Response(status=int(name), text="no")

        async with serving(answer) as url:
            info = await asyncio.to_thread(get_json, f"{url}/info")
            absent = await asyncio.to_thread(get_json, f"{url}/404")
            with pytest.raises(EngineUnavailable, match="/503: status 503: no"):
                await asyncio.to_thread(get_json, f"{url}/503")
        return info, absent

    assert asyncio.run(body()) == (json.loads('{"model": "a"}'), None)
    with pytest.raises(EngineUnavailable, match="refused"):
        get_json(f"http://127.0.0.1:{free_port()}/info")


def test_no_redirection_is_followed():
    visits = []

    async def elsewhere(request):
        visits.append(dict(request.headers))
        return web.json_response({"n": 1})

    async def body():
        async with serving(elsewhere) as other:

            async def redirect(request):
                status = int(request.path[1:] or 302)
                return web.Response(status=status, headers={"Location": f"{other}/there"})

            async with serving(redirect) as url:
                service = HttpService([url], patience=0.05, api_key="key")
                for status in (301, 302, 303, 307, 308):
                    message = f"^{url}/{status}: status {status}, to {other}/there: not followed"
                    with pytest.raises(EngineUnavailable, match=message):
                        await service.post(f"/{status}", {}, lambda reply: reply)
                    with pytest.raises(EngineUnavailable, match=f"{url}/{status}: status {status}"):
                        await asyncio.to_thread(get_json, f"{url}/{status}", "key")
                await service.close()

    asyncio.run(body())
    assert not visits


def packed(content, encoding):
    return {"body": content, "headers": {"Content-Encoding": encoding}}


@pytest.mark.parametrize("pack", ["none", "gzip", "deflate", "chunked"])
def test_a_body_without_end_is_not_read_to_its_end(monkeypatch, pack):
    monkeypatch.setattr(http_service, "MAX_BODY", 10_000)
    large = b"[" + b"1," * 10_000 + b"1]"
    sent = []

    async def endless(request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        while True:
            await response.write(large)
            sent.append(len(large))

    answer = {
        "none": {"body": large},
        "gzip": packed(gzip.compress(large), "gzip"),
        "deflate": packed(zlib.compress(large), "deflate"),
        "chunked": endless,
    }[pack]
    with pytest.raises(BadReply, match=r"http://\S+/generate: more than 10,000 bytes: \[1,1,"):
        post_once(answer, patience=60)
    assert sum(sent) < 10**8


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_packed_reply_is_unpacked(encoding):
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    reply, _ = post_once(packed(pack(b'{"n": 1}'), encoding))
    assert reply == {"n": 1}


async def drip(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


def test_a_reply_that_drips_is_given_up(monkeypatch):
    monkeypatch.setattr(http_service, "LEAST_BODY_SECONDS", 0.1)
    monkeypatch.setattr(http_service, "CONNECT_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(
        EngineUnavailable, match=r"/generate: a reply that did not end within 0\.2 s"
    ):
        post_once(drip, patience=0.2)
    reply, times = post_once(drip, echo, patience=0.2)
    assert (reply, len(times)) == ({"n": 1}, 2)

    async def ask():
        async with serving(drip) as url:
            with pytest.raises(EngineUnavailable, match=f"^{url}/info: a reply that did not end"):
                await asyncio.to_thread(get_json, f"{url}/info")

    asyncio.run(ask())
    assert time.monotonic() - started < 10


ODD_JSON = ["[" * 10**5 + "]" * 10**5, '{"a":' * 10**5, "[NaN]", "[-Infinity]", '{"n": 1e999}']


@pytest.mark.parametrize("text", ODD_JSON)
def test_deep_and_infinite_json_is_a_bad_reply(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text.encode())
    reply, times = post_once({"text": text}, echo)
    assert (reply, len(times)) == ({"n": 1}, 2)
    beginning = re.escape(text[:20])
    with pytest.raises(
        BadReply, match=rf"http://\S+/generate: no JSON: {beginning}.*\(5 bad replies\)"
    ):
        post_once({"text": text}, patience=60)


def test_a_reply_too_deep_to_quote_is_a_bad_reply():
    def parse(reply):
        raise RecursionError

    with pytest.raises(BadReply, match="nested too deeply"):
        post_once(echo, parse=parse, patience=60)


def test_a_key_goes_to_the_servers_that_were_named():
    seen = []

    async def answer(request):
        seen.append(request.headers.get("Authorization"))
        return web.json_response(None, status=200 if seen[-1] == "Bearer s3cret" else 401)

    async def body():
        async with serving(answer) as url:
            service = HttpService([url], api_key="s3cret")
            await service.post("/generate", {}, lambda reply: reply)
            await service.close()
            await asyncio.to_thread(get_json, f"{url}/info", "s3cret")
            keyless = HttpService([url])
            with pytest.raises(ValueError, match="refuses, status 401"):
                await keyless.post("/generate", {}, lambda reply: reply)
            await keyless.close()
            with pytest.raises(EngineUnavailable, match="/info: status 401"):
                await asyncio.to_thread(get_json, f"{url}/info")

    asyncio.run(body())
    assert seen == ["Bearer s3cret", "Bearer s3cret", None, None]


def test_a_server_that_asks_for_more_than_the_patience_is_asked_once_more():
    busy = {"status": 503, "headers": {"Retry-After": "1e308"}}
    assert post_once(busy, {"text": "[1]"}, patience=0.1)[0] == [1]
