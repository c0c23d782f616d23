"""A server that goes away and comes back, under a stage of the pipeline."""

import asyncio
import hashlib
import threading
from contextlib import contextmanager

import pytest
from aiohttp import web
from transformers import AutoTokenizer

from data_prep import roll_in
from run_lib.commands import InputError
from search_lib import http_service
from search_lib.engines.base import EngineUnavailable
from tests.support.chain import contents, read_rows, roll_in_args


class PolicyServer:
    """Answers as SGLang does, with tokens that depend on the request's seed alone.

    Attributes:
        outages: how many answers are given before each time that the server is away.
        num_away: requests that came while it was away.
    """

    def __init__(self, model_path, eos_token_id: int, outages: list[int], refused: int = 10):
        self.info = {"model_path": str(model_path)}
        self.eos_token_id = eos_token_id
        self.outages = outages
        self.refused = refused
        self.num_answered = self.num_away = 0

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response(self.info)
        if self.outages and self.num_answered >= self.outages[0]:
            self.num_away += 1
            if self.num_away % self.refused == 0:
                self.outages.pop(0)
            request.transport.abort()  # as a process that dies
            return web.Response()
        self.num_answered += 1
        body = await request.json()
        seed = body["sampling_params"]["sampling_seed"]
        digest = hashlib.sha256(str(seed).encode()).digest()
        ids = [10 + byte % 200 for byte in digest[: 5 + digest[0] % 20]] + [self.eos_token_id]
        meta = {"finish_reason": {"type": "stop", "matched": self.eos_token_id}}
        return web.json_response({"output_ids": ids, "meta_info": meta})


@contextmanager
def serving(server: PolicyServer):
    """The server's URL, while it runs in a thread of its own."""
    loop = asyncio.new_event_loop()

    async def start() -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(http_service, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(http_service, "LONGEST_DELAY", 0.05)


def run(problems, policy, output, outages, **changes) -> PolicyServer:
    eos = AutoTokenizer.from_pretrained(policy).eos_token_id
    server = PolicyServer(policy, eos, outages)
    with serving(server) as url:
        args = roll_in_args(
            problems, policy, output, engine="sglang_server", sglang_url=(url,), **changes
        )
        roll_in.roll_in(args)
    return server


def test_a_server_that_comes_back_leaves_no_trace(hasty_policy, toy_problems, tmp_path):
    calm = run(toy_problems, hasty_policy, tmp_path / "calm", [])
    assert calm.num_answered == 26 * 3
    stormy = run(toy_problems, hasty_policy, tmp_path / "stormy", [7, 30, 31, 70])
    assert stormy.num_away >= 40
    assert contents(tmp_path / "stormy") == contents(tmp_path / "calm")
    (folder,) = (tmp_path / "calm").iterdir()
    assert len(read_rows(folder)) == 20


def test_a_server_that_stays_away_is_named_and_the_command_goes_on_later(
    hasty_policy, toy_problems, tmp_path
):
    with pytest.raises(EngineUnavailable, match=r"http://127\.0\.0\.1:"):
        run(toy_problems, hasty_policy, tmp_path / "a", [40] + [41] * 10_000, sglang_patience=0.3)
    (folder,) = (tmp_path / "a").iterdir()
    there = len(list(folder.glob("manifests/*")))
    assert 0 < there < 7
    rest = run(toy_problems, hasty_policy, tmp_path / "a", [])
    assert rest.num_answered < 26 * 3
    run(toy_problems, hasty_policy, tmp_path / "b", [])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_server_has_one_model(hasty_policy, toy_problems, tmp_path):
    args = roll_in_args(
        toy_problems, hasty_policy, tmp_path, engine="sglang_server", models=("a:1", "b:1")
    )
    with pytest.raises(InputError, match="a server has one model"):
        roll_in.roll_in(args)
