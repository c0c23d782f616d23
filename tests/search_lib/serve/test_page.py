"""What docs/serving.md shows and says is what the server does."""

import asyncio
import json
import re
from functools import partial

import httpx
import IPython.display
import openai
import pytest

from search_lib.asking.live import LiveQuestion
from search_lib.asking.outcome import Outcome
from search_lib.serve import service
from search_lib.serve.args import ServeFlags
from search_lib.serve.requests import UNSUPPORTED, ChatRequest, CompletionRequest, SearchSettings
from tests.support.documentation import PAGES
from tests.support.serving import CHAT, InProcess, outcome_of

PAGE = PAGES["serving.md"]


class Showing(InProcess):
    """A server whose searches show how they stand before they end."""

    def __init__(self) -> None:
        super().__init__()
        self.asker.ask = self.ask

    async def ask(self, question, flags, vote, on_change, share) -> Outcome:
        outcome = outcome_of()
        if on_change is not None:
            on_change(LiveQuestion(flags.num_repetitions, vote=outcome.candidates))
            for _ in range(20):  # turns of whoever sends it
                await asyncio.sleep(0)
        return outcome


@pytest.fixture
def client():
    """A client of the server that listens where the page says."""
    server = Showing()

    def answer(request: httpx.Request) -> httpx.Response:
        reply = asyncio.run(server.client.send(request))
        headers = {"content-type": reply.headers["content-type"]}
        return httpx.Response(reply.status_code, headers=headers, content=reply.content)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        yield client


def test_the_request_of_curl_is_answered(client):
    (body,) = re.findall(r"curl http://127.0.0.1:8000(?:.*?)-d '(.*?)'\n```", PAGE, re.DOTALL)
    reply = client.post(f"http://127.0.0.1:8000{CHAT}", json=json.loads(body))
    assert reply.status_code == 200
    assert reply.json()["model"] == "policy:beam2-4x8"


def test_the_snippets_of_python_run_as_printed(client, monkeypatch, capsys):
    shown = []

    class Shown:
        """What a notebook shows, under an id."""

        def update(self, content) -> None:
            shown.append(content.data)

    monkeypatch.setattr(openai, "OpenAI", partial(openai.OpenAI, http_client=client))
    monkeypatch.setattr(IPython.display, "display", lambda content, display_id: Shown())
    monkeypatch.setattr(service, "PROGRESS_SECONDS", 0)
    names: dict = {}
    script, cell = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(script, names)
    answer, *rest = capsys.readouterr().out.splitlines()
    assert answer == "\\boxed{4}"
    assert rest[0].startswith("4 0.8 {'tokens_generated': 40,")
    exec(cell, names)
    assert shown[0] == "0 of 8 trees: 4: 80%, 5: 20%"
    assert shown[-1] == "\\boxed{4}"


def test_the_page_names_every_field():
    named = set(re.findall(r"`(\w+)`", PAGE))
    fields = set(ChatRequest.model_fields) | set(CompletionRequest.model_fields)
    assert named >= (fields | set(SearchSettings.model_fields)) - UNSUPPORTED - {"model"}
    refused = re.search(r"is\s+refused \((.*?)\)", PAGE, re.DOTALL)[1]
    assert set(re.findall(r"`(\w+)`", refused)) <= UNSUPPORTED


def test_the_page_has_the_limits_of_the_server():
    limits = dict(re.findall(r"`--(max_\w+|request_timeout)` ([\d,]+)", PAGE))
    assert len(limits) == 5
    for flag, value in limits.items():
        assert getattr(ServeFlags, flag) == int(value.replace(",", ""))
