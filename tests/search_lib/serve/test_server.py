"""The server as its users meet it: a process with small models, and OpenAI's own client."""

import asyncio
import contextlib
import signal
import ssl

import httpx
import openai
import psutil
import pytest
import torch

from run_lib.ports import free_port
from tests.support.serving import (
    CHAT,
    QUESTION,
    ServerProcess,
    events_of,
    metric,
    running,
    server_arguments,
)
from tests.support.tiny_models import save_tiny_classifier, save_tiny_policy
from tests.support.waiting import wait_for

pytestmark = pytest.mark.xdist_group("serve")  # one server for all tests

KEY = "a-long-secret"
MESSAGES = QUESTION["messages"]

LARGE = "policy:bon-8x2000"
"""A search that takes longer than any test."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_policy(folder / "policy", dtype=torch.float64)
    save_tiny_classifier(folder / "value_model")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    arguments = server_arguments(folder, "--port", 0, "--api_key", KEY)
    limits = ["--max_budget", 20_000, "--max_concurrent", 16, "--max_body_bytes", 50_000]
    server = ServerProcess(folder / "log", *arguments, *limits)
    yield server
    assert server.end() == 0


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


CERTIFICATES = ssl.create_default_context()
"""Every client of its own would read them again, for a tenth of a second."""


def new_client(server):
    transport = httpx.AsyncClient(verify=CERTIFICATES, timeout=60)
    return openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, http_client=transport
    )


def chat(client, **fields):
    return client.chat.completions.create(
        **{"model": "policy", "messages": MESSAGES, "seed": 1} | fields
    )


def text_of(message):
    return f"{message.reasoning_content}|{message.content}"


def read_metric(server, name):
    reply = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {KEY}"})
    return metric(reply.text, name)


def test_a_question_is_answered(client):
    reply = chat(client, model="policy:beam2-4x3")
    (choice,) = reply.choices
    assert reply.model == "policy:beam2-4x3"
    assert choice.finish_reason in ("stop", "length")
    assert choice.search["trees"] == 3
    assert choice.search["cost"]["tokens_generated"] == reply.usage.completion_tokens > 0
    assert sum(entry["share"] for entry in choice.search["vote"]) in (0, pytest.approx(1))


def test_the_same_seed_has_the_same_answer(client):
    first, again, other = (chat(client, seed=seed).choices[0] for seed in (3, 3, 4))
    assert text_of(first.message) == text_of(again.message)
    assert first.search["vote"] == again.search["vote"]
    assert text_of(first.message) != text_of(other.message)


def test_each_of_n_choices_can_be_had_alone(client):
    choices = chat(client, n=3).choices
    assert [choice.index for choice in choices] == [0, 1, 2]
    alone = [chat(client, seed=choice.search["seed"]).choices[0] for choice in choices]
    assert [text_of(one.message) for one in alone] == [text_of(one.message) for one in choices]


def test_a_stream_is_the_same_answer_in_pieces(client):
    whole = chat(client).choices[0]
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert f"{thought}|{''.join(delta.content or '' for delta in deltas)}" == text_of(whole.message)
    *_, last, usage = chunks
    assert last.choices[0].finish_reason == whole.finish_reason
    assert last.choices[0].search["vote"] == whole.search["vote"]
    assert usage.usage.completion_tokens == whole.search["cost"]["tokens_generated"]


def test_a_stream_shows_the_search_as_it_goes(client):
    chunks = chat(client, model=LARGE, stream=True)
    with chunks:
        some = [chunk for chunk, _ in zip(chunks, range(6), strict=False)]
    shown = [chunk.search for chunk in some if hasattr(chunk, "search")]
    assert shown[0]["event"] == "progress"
    assert shown[0]["trees"] == 2000
    tokens = [one["tokens_generated"] for one in shown]
    assert tokens == sorted(tokens)
    assert tokens[-1] > 0


def test_a_response_is_cut_before_a_stop(client):
    fields = {"model": "policy:bon-1x1", "prompt": "start 1 +3", "seed": 1}
    text = client.completions.create(**fields).choices[0].text
    stop = text[len(text) // 2 :][:3]
    choice = client.completions.create(**fields, stop=[stop, "not there"]).choices[0]
    assert choice.text == text[: text.index(stop)]
    assert choice.finish_reason == "stop"


def test_prompts_may_be_texts_or_token_ids(client):
    choices = client.completions.create(model="policy", prompt=["start 1"] * 2, seed=1).choices
    ids = client.completions.create(model="policy", prompt=[[1, 2], [1, 2]], seed=1).choices
    assert choices[0].text == choices[1].text
    assert ids[0].text == ids[1].text != choices[0].text


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["policy", "policy:beam2-4x2"]
    assert client.models.retrieve("policy:bon-2").id == "policy:bon-2"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError),
        ({"temperature": 9}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "start " * 200}]}, openai.BadRequestError),
        ({"model": "policy:bon-8x9999"}, openai.BadRequestError),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError),
        ({"stop": "x" * 60_000}, openai.APIStatusError),
    ],
)
def test_the_client_has_an_error_of_its_kind(client, fields, error):
    with pytest.raises(error) as raised:
        chat(client, **fields)
    assert set(raised.value.body) == {"message", "type", "param", "code"}


def test_a_wrong_key_is_told(server):
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="guess", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        chat(client)


@pytest.mark.parametrize("tells_length", [True, False])
def test_too_large_a_body_is_told(server, tells_length):
    parts = [b"x" * 1000] * 200
    content = b"".join(parts) if tells_length else iter(parts)
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    reply = httpx.post(f"{server.url}{CHAT}", content=content, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_leaves_the_engine_idle(server, stream):
    async def work():
        async with new_client(server) as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    reply = await chat(client, model=LARGE, n=1, stream=stream)
                    async for _ in reply:
                        pass

    asyncio.run(work())
    process = psutil.Process(server.process.pid)
    wait_for(lambda: read_metric(server, "vgs_searches_in_flight") == 0, "no searches", 20)
    assert read_metric(server, "vgs_searches_waiting") == 0
    wait_for(lambda: process.cpu_percent(interval=0.2) < 50, "an idle engine", 20)


def test_of_fifty_clients_at_once_none_is_lost(server):
    async def one(seed):
        async with new_client(server) as client:
            return await chat(client, seed=seed)

    async def work():
        return await asyncio.gather(*[one(seed) for seed in range(50)])

    replies = asyncio.run(work())
    assert [reply.choices[0].search["seed"] for reply in replies] == list(range(50))
    assert {reply.choices[0].search["trees"] for reply in replies} == {2}


def test_small_questions_do_not_wait_for_a_large_one(server):
    async def work():
        async with new_client(server) as client:

            async def large():
                async for _ in await chat(client, model=LARGE, stream=True):
                    begun.set()

            begun = asyncio.Event()
            async with running(large()) as task:
                await begun.wait()
                await asyncio.gather(*[chat(client, seed=seed) for seed in range(20)])
                return task.done()

    assert asyncio.run(work()) is False


def test_memory_stays_flat_over_two_thousand_requests(server):
    async def work(count):
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
            seeds = iter(range(count))

            async def one_after_the_other():
                for seed in seeds:
                    small = {"model": "policy:bon-1", "max_tokens": 2, "seed": seed}
                    assert (await client.post(CHAT, json=QUESTION | small)).status_code == 200

            await asyncio.gather(*[one_after_the_other() for _ in range(16)])

    process = psutil.Process(server.process.pid)
    asyncio.run(work(300))
    before = process.memory_info().rss
    asyncio.run(work(2000))
    assert process.memory_info().rss - before < 20 * 2**20


def test_killed_it_starts_again_on_its_port_and_ends_in_order(folder):
    arguments = server_arguments(folder, "--port", free_port(), "--max_budget", 20_000)
    server = ServerProcess(folder / "killed", *arguments)
    with streamed(server) as lines:
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)

    server = ServerProcess(folder / "again", *arguments)
    with streamed(server) as lines:
        server.process.send_signal(signal.SIGTERM)
        events = events_of("\n".join(lines))
    assert events[-1]["error"]["code"] == "shutting_down"
    assert server.end() == 0
    assert server.printed.endswith("the server has ended\n")
    assert "Traceback" not in server.printed


@contextlib.contextmanager
def streamed(server):
    """The lines of a stream that has begun, and doesn't end by itself."""
    body = QUESTION | {"model": LARGE, "stream": True}
    with httpx.stream("POST", f"{server.url}{CHAT}", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        yield lines
