"""Requests of the engine over SGLang servers, and replies with every fault, from small servers."""

import asyncio
import contextlib
import json
import logging

import pytest
import torch
from aiohttp import web

from run_lib.commands import InputError
from run_lib.ports import free_port
from search_lib.engines import http_service
from search_lib.engines.base import Block
from search_lib.engines.factory import open_engine
from search_lib.engines.flags import EngineFlags
from search_lib.engines.http_service import BadReply, HttpService
from search_lib.engines.sglang_server import SglangServerEngine, check_server
from search_lib.urgency import Urgency, urgency
from tests.support.http_servers import in_turn, serving
from tests.support.searches import request
from tests.support.tiny_models import save_tiny_policy


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_service, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(http_service, "LONGEST_DELAY", 0.5)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


def reply(ids) -> dict:
    return {"output_ids": ids, "meta_info": {"finish_reason": {"type": "length"}}}


def json_of(content):
    return {"text": json.dumps(content), "content_type": "application/json"}


GOOD = json_of(reply([7, 8, 9]))
ASKED = request([1], max_new_tokens=3, stop=())


def ask(*answers, **options):
    """The block that a server with these answers gives, and how often it was asked."""

    async def body():
        answer, times = in_turn(*answers)
        async with serving(answer) as url:
            engine = SglangServerEngine(HttpService([url], **options), 10)
            try:
                (block,) = await engine.generate(*ASKED)
            finally:
                await engine.close()
            return block, len(times)

    return asyncio.run(body())


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 429},
        {"text": "<html>busy</html>"},
        json_of(reply([7, 8])),
        json_of(reply([7, 8, 10])),
        json_of(reply(["7", "8", "9"])),
        json_of({"text": "hello"}),
        json_of({"meta_info": {"finish_reason": {"type": "abort", "message": "no memory"}}}),
    ],
)
def test_a_fault_of_the_server_is_outlived(fault):
    assert ask(fault, fault, GOOD) == (Block([7, 8, 9], "length"), 3)


def test_of_several_samples_only_a_bad_one_is_drawn_again():
    bodies = []

    async def answer(request):
        bodies.append(await request.json())
        params = bodies[-1]["sampling_params"]
        if isinstance(params, dict):  # the prompt ahead, or one sample
            ids = [7, 8, params["sampling_seed"] % 10][: params["max_new_tokens"]]
            return web.json_response(reply(ids))
        replies = [reply([7, 8, of["sampling_seed"] % 10]) for of in params]
        replies[1] = reply([7, 8])
        return web.json_response(replies)

    async def body():
        async with serving(answer) as url:
            engine = SglangServerEngine(HttpService([url]), 10)
            try:
                return await engine.generate(*request([1], 3, max_new_tokens=3, stop=()))
            finally:
                await engine.close()

    blocks = asyncio.run(body())
    ahead, together, again = bodies
    assert (ahead["input_ids"], ahead["sampling_params"]["max_new_tokens"]) == ([1], 0)
    assert together["input_ids"] == [[1]] * 3
    assert again["input_ids"] == [1]
    assert again["sampling_params"] == together["sampling_params"][1]
    seeds = [of["sampling_seed"] for of in together["sampling_params"]]
    assert [block.token_ids for block in blocks] == [[7, 8, seed % 10] for seed in seeds]


@pytest.mark.parametrize(("is_router", "num_requests"), [(False, 2), (True, 4)])
def test_only_routers_get_a_request_a_sample_and_prefixes_are_counted(is_router, num_requests):
    bodies = []

    async def answer(request):
        if request.method == "GET":
            return web.Response(status=404) if is_router else web.json_response({})
        bodies.append(await request.json())
        params = bodies[-1]["sampling_params"]
        meta = {"cached_tokens": 0 if len(bodies) == 1 else 4}
        replies = [
            {"output_ids": [7] * of["max_new_tokens"], "meta_info": meta}
            for of in (params if isinstance(params, list) else [params])
        ]
        return web.json_response(replies if isinstance(params, list) else replies[0])

    async def body():
        async with serving(answer) as url:
            engine = await asyncio.to_thread(SglangServerEngine.open, [url], "policy", 10, 5)
            try:
                return await engine.generate(*request([1] * 5, 3, max_new_tokens=3, stop=()))
            finally:
                await engine.close()

    blocks = asyncio.run(body())
    assert len(bodies) == num_requests
    # 5 ahead, then the last one again for each of the samples.
    assert 3 * 5 - sum(block.prefix_cached for block in blocks) == 5 + 3


@pytest.mark.parametrize(
    "fault", [json_of([reply([7, 8, 9])]), json_of(reply([7, 8, 9])), json_of([1, 2])]
)
def test_a_reply_that_is_not_of_all_samples_is_outlived(fault):
    async def body():
        answer, times = in_turn(json_of(reply([])), fault, json_of([reply([7, 8, 9])] * 2))
        async with serving(answer) as url:
            engine = SglangServerEngine(HttpService([url]), 10)
            try:
                return await engine.generate(*request([1], 2, max_new_tokens=3, stop=())), times
            finally:
                await engine.close()

    blocks, times = asyncio.run(body())
    assert blocks == [Block([7, 8, 9], "length")] * 2
    assert len(times) == 3


def test_priorities_go_to_servers_that_all_have_the_same_and_through_routers():
    def info(**arguments):
        return json_of({"model_path": "policy", "enable_priority_scheduling": True} | arguments)

    absent = {"status": 404}  # a router tells only the model
    cases = [
        ([info()], -7),
        ([info(schedule_low_priority_values_first=True)], 7),
        ([info(), info()], -7),
        ([info(), info(schedule_low_priority_values_first=True)], None),
        ([info(), info(enable_priority_scheduling=False)], None),
        ([absent], -7),
        ([absent, info()], -7),
    ]

    async def body(pages):
        bodies = []

        async def open_server(stack, page):
            async def answer(request):
                if request.method == "GET":
                    return web.Response(**page)
                bodies.append(await request.json())
                return web.Response(**GOOD)

            return await stack.enter_async_context(serving(answer))

        async with contextlib.AsyncExitStack() as stack:
            urls = [await open_server(stack, page) for page in pages]
            engine = await asyncio.to_thread(SglangServerEngine.open, urls, "policy", 10, 5)
            urgency.set(Urgency(7))
            await engine.generate(*request([1], 1, max_new_tokens=3, stop=()))
            await engine.close()
        (sent,) = bodies
        return sent.get("priority")

    for pages, priority in cases:
        assert asyncio.run(body(pages)) == priority


def test_a_request_that_hangs_is_made_again():
    async def hang(request):
        await asyncio.sleep(3600)

    assert ask(hang, GOOD, request_timeout=0.2) == (Block([7, 8, 9], "length"), 2)


def test_a_server_that_answers_garbage_is_named_with_what_it_answers():
    message = (
        r"http://127\S+/generate: 2 tokens .* nor at 3: .* token ids \[7, 8\] \(5 bad replies\)"
    )
    with pytest.raises(BadReply, match=message):
        ask(json_of(reply([7, 8])))


def test_what_a_server_serves_is_compared_with_what_was_asked_for(caplog):
    info = {"model_path": "/models/\x1bother", "enable_deterministic_inference": False}

    async def body(page, info):
        async def answer(request):
            return web.json_response(info) if request.path == page else web.Response(status=404)

        async with serving(answer) as url:
            await asyncio.to_thread(check_server, url, "owner/policy")

    with caplog.at_level(logging.WARNING):
        asyncio.run(body("/server_info", info))
        assert "serves /models/\\x1bother, not owner/policy" in caplog.text
        assert "it ignores seeds" in caplog.text
        caplog.clear()
        asyncio.run(body("/get_model_info", {"model_path": "/models/\x1bother"}))
        assert "serves /models/\\x1bother, not owner/policy" in caplog.text
        caplog.clear()
        asyncio.run(body("/server_info", {"model_path": "/models/policy/"}))
        asyncio.run(body("/server_info", ["what?"]))
        assert not caplog.text


def test_a_server_that_is_not_there_is_named_at_the_start(policy):
    url = f"http://127.0.0.1:{free_port()}"
    flags = EngineFlags("sglang_server", sglang_url=(url,))
    with pytest.raises(InputError, match=rf"{url}/server_info: .*refused; scripts/serve_policy"):
        open_engine(flags, str(policy), torch.device("cpu"))


def test_servers_of_the_policy_get_the_key(policy, tmp_path):
    async def answer(request):
        if request.headers.get("Authorization") != "Bearer s3cret":
            return web.Response(status=401, text="no such key")
        return web.json_response({"model_path": "policy"})

    async def body(api_key):
        async with serving(answer) as url:
            flags = EngineFlags("sglang_server", sglang_url=(url,), api_key=api_key)
            device = torch.device("cpu")
            engine = await asyncio.to_thread(open_engine, flags, str(policy), device)
            try:
                return await engine._service.post("/generate", {}, lambda reply: reply)
            finally:
                await engine.close()

    assert asyncio.run(body("s3cret")) == {"model_path": "policy"}
    (tmp_path / "key").write_text("s3cret\n")
    assert asyncio.run(body(f"@{tmp_path}/key")) == {"model_path": "policy"}
    with pytest.raises(InputError, match=r"/server_info: status 401: no such key"):
        asyncio.run(body("old"))
