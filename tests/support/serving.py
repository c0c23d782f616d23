"""The server of answers: in this process without models, and as its user starts it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from data_prep.toy.tokenizer import build_tokenizer
from search_lib.asking.outcome import Candidate, Outcome
from search_lib.asking.window import SharedWindow
from search_lib.conversations import ConversationTemplate
from search_lib.jobs import Policy
from search_lib.results.cost import SearchCost
from search_lib.results.records import Record, RecordedResponse
from search_lib.serve.args import ServeFlags
from search_lib.serve.front import build
from search_lib.serve.plans import Planner
from tests.support.executors import Inline
from tests.support.paths import ROOT
from tests.support.waiting import wait_for

CONTEXT = 128
"""Of the models that the tests ask for."""

TEXT = "1 +3 = 4 ok</think>\n\\boxed{4}"

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

QUESTION = {"model": "policy", "messages": [{"role": "user", "content": "start 1 +3"}]}


def flags_of(**changes: Any) -> ServeFlags:
    """Flags of a server of small searches."""
    usual = {
        "piref_model": "somewhere/policy",
        "classifier_ckpt_path": "somewhere/value_model",
        "instruction": "",
        "block_size": 8,
        "max_length": 32,
        "num_blocks": 4,
        "num_repetitions": 2,
    }
    return ServeFlags(**usual | changes)


def planner_of(flags: ServeFlags, executor: Executor | None = None) -> Planner:
    """What reads the requests to such a server."""
    tokenizer = build_tokenizer()
    tokenizer.name_or_path = "/secret/folder/policy"
    template = ConversationTemplate(tokenizer, flags.find_instruction())
    return Planner(flags, policy_of(tokenizer), template, CONTEXT, executor or Inline())


def policy_of(tokenizer: Any) -> Policy:
    return Policy(tokenizer, (tokenizer.eos_token_id,))


def outcome_of(text: str = TEXT, finished: bool = True, **changes: Any) -> Outcome:
    """What the searches of a question have found."""
    response = RecordedResponse(text, "4", 0.75, finished, 12, 0)
    cost = SearchCost(40, 0.5, tokens_scored=30, tokens_cached=10)
    record = Record("question", 0, "start 1 +3", None, 1, [response], [], cost)
    vote = [Candidate("4", 3, 2.0, 0.8, (0, 0)), Candidate("5", 1, 0.5, 0.2, (0, 0))]
    usual: dict[str, Any] = {
        "vote": "WMV",
        "candidates": vote,
        "records": [record],
        "chosen": response,
        "is_right": None,
        "seconds": 0.5,
        "failures": [],
    }
    return Outcome(**usual | changes)


class FakeAsker:
    """Answers as a function of (question, flags) says; what it was asked is kept.

    Attributes:
        asked: The (question, flags, vote) of all questions.
        shares: What each had of the window.
        num_running: Questions that are being answered.
    """

    def __init__(self, answer: Callable[..., Awaitable[Outcome]]):
        self.window = SharedWindow(4)
        self.asked: list[Any] = []
        self.shares: list[Any] = []
        self.num_running = 0
        self._answer = answer

    async def ask(self, question, flags, vote=None, on_change=None, keep=None, share=None):
        self.asked.append((question, flags, vote))
        self.shares.append(share)
        self.num_running += 1
        try:
            return await self._answer(question, flags)
        finally:
            self.num_running -= 1


async def at_once(question: Any, flags: Any) -> Outcome:
    return outcome_of()


async def never(question: Any, flags: Any) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


class InProcess:
    """A server without models and sockets.

    Attributes:
        asker: See `FakeAsker`.
        gate: The ASGI app.
        deadlines: Of its requests.
        client: A client of it.
    """

    def __init__(self, answer: Callable[..., Awaitable[Outcome]] = at_once, **changes: Any):
        flags = flags_of(**changes)
        self.asker: Any = FakeAsker(answer)
        tokenizer = build_tokenizer()
        planner = planner_of(flags)
        self.gate, self.deadlines = build(flags, self.asker, planner, policy_of(tokenizer))
        transport = httpx.ASGITransport(app=self.gate)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")

    async def post(self, path: str = CHAT, **fields: Any) -> httpx.Response:
        """Asks the question of `QUESTION`, with other fields."""
        body = QUESTION | fields if path == CHAT else fields
        return await self.client.post(path, json=body)

    async def metric(self, name: str) -> float:
        return metric((await self.client.get("/metrics")).text, name)


def metric(text: str, name: str) -> float:
    """A number of /metrics, 0 if it is not there."""
    lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(lines[0].split()[-1]) if lines else 0.0


def events_of(text: str) -> list[Any]:
    """The server-sent events of a reply, the last one as it is."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data:")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


class ServerProcess:
    """The server as its user starts it.

    Args:
        log: File for what it prints.
        *arguments: Its flags.

    Attributes:
        url: Its address.
        process: The process.
    """

    def __init__(self, log: Path, *arguments: Any):
        environment = {name: value for name, value in os.environ.items() if name != "VGS_API_KEY"}
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "search_lib.serve", *map(str, arguments)],
                cwd=ROOT,
                env=environment | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: self._is_ready() or self.process.poll() is not None, "a server", 60)
        assert self.process.poll() is None, self.printed
        self.url = self.printed.split("ready: ")[1].split("/v1")[0]

    @property
    def printed(self) -> str:
        return self._log.read_text()

    def _is_ready(self) -> bool:
        return "ready: " in self.printed and self.printed.endswith("\n")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, and waits. Returns the status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=60)


def server_arguments(folder: Path, *more: Any) -> list[Any]:
    """Flags of a server of the small models in a folder."""
    return [
        *("--piref_model", folder / "policy", "--classifier_ckpt_path", folder / "value_model"),
        *("--instruction", "", "--temperature", 1.0, "--top_p", 1.0, "--block_size", 8),
        *("--max_length", 32, "--num_blocks", 4, "--num_repetitions", 2),
        *more,
    ]


@asynccontextmanager
async def running(work: Awaitable[Any]):
    """Runs work beside the block, and cancels it behind that."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    """Returns once a condition of this process holds; other tasks run meanwhile."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)
