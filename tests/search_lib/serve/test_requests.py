"""Requests as they come over the wire: what is taken, and how what isn't is refused."""

import asyncio

import pytest
from pydantic import ValidationError

from data_prep.toy.tokenizer import build_tokenizer
from run_lib.commands import InputError
from search_lib.asking.asker import NoSearchEnded
from search_lib.engines.base import EngineUnavailable
from search_lib.serve.errors import of_flags
from search_lib.serve.requests import ChatRequest, CompletionRequest
from tests.support.serving import CHAT, COMPLETIONS, QUESTION, InProcess, at_once, outcome_of

USER = {"role": "user", "content": "start 1 +3"}


def post(path=CHAT, server=None, **fields):
    async def work():
        return await InProcess(**server or {}).post(path, **fields)

    return asyncio.run(work())


def fault(reply):
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return reply.status_code, error["type"], error["param"], error["code"]


BAD = "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": []}, "messages", None),
        ({"messages": "start"}, "messages", None),
        ({"messages": [USER] * 1001}, "messages", None),
        ({"messages": [{"role": "user"}]}, "messages[0].content", None),
        ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0].role", None),
        ({"messages": [{"role": "user", "content": 4}]}, "messages[0].content", None),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            None,
        ),
        ({"messages": [{**USER, "image": "x"}]}, "messages[0].image", "unknown_parameter"),
        ({"model": None}, "model", None),
        ({"temperature": "hot"}, "temperature", None),
        ({"temperature": -0.1}, "temperature", None),
        ({"temperature": 2.1}, "temperature", None),
        ({"top_p": 0}, "top_p", None),
        ({"seed": 2**63}, "seed", None),
        ({"seed": 1.5}, "seed", None),
        ({"n": 0}, "n", None),
        ({"n": True}, "n", None),
        ({"n": 10**2200, "search": {"num_repetitions": 10**2200}}, "n", None),
        ({"max_tokens": 2**63}, "max_tokens", None),
        ({"max_tokens": 0}, "max_tokens", None),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", None),
        ({"stop": ""}, "stop", None),
        ({"stream": "yes"}, "stream", None),
        ({"search": {"num_blocks": 0}}, "search.num_blocks", None),
        ({"search": {"vote": "best"}}, "search.vote", None),
        ({"search": {"budget": 8}}, "search.budget", "unknown_parameter"),
        ({"surprise": 1}, "surprise", "unknown_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
    ],
)
def test_a_chat_that_is_at_fault(fields, param, code):
    assert fault(post(**fields)) == (400, BAD, param, code)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "prompt", None),
        ({"prompt": ""}, "prompt", None),
        ({"prompt": []}, "prompt", None),
        ({"prompt": [[]]}, "prompt[0]", None),
        ({"prompt": ["start", 4]}, "prompt[1]", None),
        ({"prompt": [1, -1]}, "prompt[1]", None),
        ({"prompt": [1, 10**9]}, "prompt", None),
        ({"prompt": [1, 10**4000]}, "prompt[1]", None),
        ({"prompt": {"text": "start"}}, "prompt", None),
        ({"prompt": "start", "echo": True}, "echo", "unsupported_parameter"),
        ({"prompt": "start", "logprobs": 0}, "logprobs", "unsupported_parameter"),
        ({"prompt": "start", "best_of": 2}, "best_of", "unsupported_parameter"),
        ({"prompt": "start", "suffix": "end"}, "suffix", "unsupported_parameter"),
    ],
)
def test_a_completion_that_is_at_fault(fields, param, code):
    assert fault(post(COMPLETIONS, model="policy", **fields)) == (400, BAD, param, code)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatRequest, {"messages": [{"role": "user"}] * 9}),
        (ChatRequest, {"messages": [{"role": "user", "content": [4] * 9}]}),
        (ChatRequest, {"messages": [{"role": "assistant", "content": [4] * 9}]}),
        (CompletionRequest, {"prompt": [""] * 9}),
        (CompletionRequest, {"prompt": [-1] * 9}),
        (CompletionRequest, {"prompt": [[]] * 9}),
        (CompletionRequest, {"prompt": [[-1] * 9]}),
    ],
)
def test_a_list_is_read_up_to_its_first_fault(kind, fields):
    # A megabyte of them would hold up all other requests for seconds.
    with pytest.raises(ValidationError) as caught:
        kind(model="policy", **fields)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}},
        {"tools": [], "tool_choice": "none", "logprobs": False, "logit_bias": None},
        {"response_format": {"type": "text"}, "modalities": ["text"]},
        {"temperature": None, "stop": None, "n": None, "stream": None, "search": None},
        {"stream_options": None, "max_tokens": None, "seed": None},
    ],
)
def test_values_that_ask_for_nothing_are_taken(fields):
    assert post(**fields).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"model": NaN}', b'"\\ud800"', b"[" * 5000, b"\xff\xfe{}"]
)
def test_a_body_that_is_no_object_is_refused(body):
    async def work():
        headers = {"content-type": "application/json"}
        return await InProcess().client.post(CHAT, content=body, headers=headers)

    assert fault(asyncio.run(work()))[:2] == (400, BAD)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_other_types_are_refused_which_browsers_send_for_any_page(kind):
    async def work():
        headers = {} if kind is None else {"content-type": kind}
        return await InProcess().client.post(CHAT, content=b"{}", headers=headers)

    assert fault(asyncio.run(work()))[:2] == (415, BAD)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/v1/chat/completions/", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/health", 405),
        ("OPTIONS", CHAT, 405),
        ("GET", "/v1/models/other", 404),
        ("GET", f"/v1/models/{'x' * 600}", 404),
        ("GET", "/v1/models/policy:beam3-8", 400),
    ],
)
def test_other_paths_and_methods_have_errors_of_the_same_shape(method, path, status):
    async def work():
        return await InProcess().client.request(method, path)

    reply = asyncio.run(work())
    assert fault(reply)[:2] == (status, BAD)
    assert "location" not in reply.headers


def test_the_models_are_the_policy_and_its_search():
    async def work():
        client = InProcess().client
        listed = (await client.get("/v1/models")).json()["data"]
        one = (await client.get("/v1/models/policy:bon-4x2")).json()
        return [model["id"] for model in listed], one["id"]

    assert asyncio.run(work()) == (["policy", "policy:beam2-4x2"], "policy:bon-4x2")


def test_the_document_says_nothing_of_pages_that_fetch_scripts():
    async def work():
        return (await InProcess().client.get("/openapi.json")).json()

    document = asyncio.run(work())
    assert "422" not in document["paths"][CHAT]["post"]["responses"]
    assert "security" not in document["paths"][CHAT]["post"]


def failing(error):
    async def answer(question, flags):
        raise error

    return answer


def cause(error, of):
    error.__cause__ = of
    return error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (cause(NoSearchEnded("first"), EngineUnavailable("http://10.0.0.1 is away")), 503),
        (NoSearchEnded("first: /secret/folder"), 500),
        (KeyError("/secret/folder"), 500),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_searches_that_fail_tell_no_places(error, status, stream):
    async def work():
        return await InProcess(failing(error)).post(stream=stream)

    reply = asyncio.run(work())
    assert reply.status_code == (200 if stream else status)
    assert "secret" not in reply.text
    assert "10.0.0.1" not in reply.text
    if status == 500:
        assert reply.headers["x-request-id"] in reply.text


def test_the_log_tells_why_the_engine_is_away(caplog):
    error = cause(NoSearchEnded("search 0: http://10.0.0.1 is away"), EngineUnavailable("away"))

    async def work():
        return await InProcess(failing(error)).post()

    reply = asyncio.run(work())
    said = "NoSearchEnded: search 0: http://10.0.0.1 is away"
    assert f"{reply.headers['x-request-id']} failed: {said}" in caplog.messages


def test_the_prompt_of_many_choices_is_decoded_once(monkeypatch):
    # A thousand times that of a long prompt would hold up all other requests for seconds.
    kind, decoded = type(build_tokenizer()), []
    decode = kind.decode
    monkeypatch.setattr(kind, "decode", lambda *given: decoded.append(given) or decode(*given))
    assert post(n=8).status_code == 200
    assert len(decoded) == 1


def test_a_stream_that_fails_ends_with_the_error():
    async def work():
        return await InProcess(failing(KeyError("x"))).post(stream=True)

    last = asyncio.run(work()).text.strip().splitlines()[-1]
    assert last.startswith('data: {"error": {"message": "The search failed;')


def test_a_question_that_fails_harms_no_other_of_the_request_nor_of_others():
    async def one_fails(question, flags):
        if flags.seed == 13:
            raise NoSearchEnded("it is poison")
        return await at_once(question, flags)

    async def work():
        server = InProcess(one_fails)
        seeds = [1, 13, 2, 13, 3]
        replies = await asyncio.gather(*[server.post(seed=seed) for seed in seeds])
        return [reply.status_code for reply in replies], server.asker.num_running

    assert asyncio.run(work()) == ([200, 500, 200, 500, 200], 0)


def test_a_fault_of_the_server_itself_tells_nothing(monkeypatch):
    async def work():
        server = InProcess()
        with monkeypatch.context() as patch:
            patch.setattr("search_lib.serve.plans.Planner.plan", failing(KeyError("/secret")))
            return await server.post()

    reply = asyncio.run(work())
    assert fault(reply)[:2] == (500, "server_error")
    assert reply.headers["x-request-id"] in reply.text
    assert "secret" not in reply.text


def test_flags_in_messages_lose_their_dashes():
    error = of_flags(InputError("--num_blocks 3 is not --a-b; see --help"), {"num_blocks": "n"})
    assert (error.message, error.param) == ("num_blocks 3 is not a-b; see help", "n")


def test_the_reply_to_a_question_is_the_outcome():
    async def work():
        return await InProcess().post()

    reply = asyncio.run(work()).json()
    assert reply["choices"][0]["message"]["content"] == "\\boxed{4}"
    assert reply["usage"]["completion_tokens"] == outcome_of().cost.tokens_generated
    assert reply["model"] == "policy:beam2-4x2"
    assert QUESTION["model"] == "policy"
