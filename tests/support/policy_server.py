"""A server of a policy that goes away and comes back."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web


class PolicyServer:
    """Answers as SGLang does, with tokens that depend on the sample's seed alone.

    Attributes:
        outages: How many samples are given before each time that the server is away.
        num_answered: Samples that were given.
        num_away: Requests that came while it was away.
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
        params = (await request.json())["sampling_params"]
        is_list = isinstance(params, list)
        asked = params if is_list else [params]
        replies = [self.sample(of["sampling_seed"]) for of in asked]
        self.num_answered += sum(of["max_new_tokens"] > 0 for of in asked)  # no prompt sent ahead
        return web.json_response(replies if is_list else replies[0])

    def sample(self, seed: int) -> dict:
        digest = hashlib.sha256(str(seed).encode()).digest()
        ids = [10 + byte % 200 for byte in digest[: 5 + digest[0] % 20]] + [self.eos_token_id]
        meta = {"finish_reason": {"type": "stop", "matched": self.eos_token_id}}
        return {"output_ids": ids, "meta_info": meta}


@contextmanager
def serving_in_thread(server: PolicyServer) -> Iterator[str]:
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
