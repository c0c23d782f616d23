"""The scorers over SGLang: the real one and its router on a CPU, and small servers with faults."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from aiohttp import ClientSession, web

import inference_eval
from classifier_lib.modeling import SUCCESS_CLASS, Qwen2ForClassifier
from run_lib.commands import InputError
from search_lib import open_models
from search_lib.engines.base import Block, EngineUnavailable, Sampling
from search_lib.engines.flags import EngineFlags
from search_lib.engines.http_service import HttpService
from search_lib.results.records import read_records
from search_lib.scorers import factory, sglang
from search_lib.scorers.factory import Place, open_scorer
from search_lib.scorers.flags import ScorerFlags
from search_lib.scorers.sglang import SglangScorer
from search_lib.scorers.sglang_server import SglangServerScorer
from search_lib.scorers.value_server import ValueServer, last_error
from search_lib.search_args import Args
from tests.support.flags import replace_flags
from tests.support.http_servers import serving
from tests.support.sglang_processes import API_KEY, status_with_key
from tests.support.tiny_models import save_tiny_policy
from tests.support.value_servers import (
    GOOD,
    TOLERANCE,
    VOCAB_SIZE,
    Tree,
    class_probabilities,
    rows,
    with_scorer,
)

pytestmark = pytest.mark.xdist_group("sglang")


@pytest.fixture(scope="module")
def reference(value_model_folder) -> Qwen2ForClassifier:
    return Qwen2ForClassifier.from_pretrained(value_model_folder).eval()


@pytest.mark.parametrize("service", ["server", "router"])
def test_values_equal_transformers_and_only_new_tokens_are_computed(service, request, reference):
    first_seed = {"server": 20, "router": 40}[service]
    trees = [Tree(first_seed + i, VOCAB_SIZE) for i in range(6)]
    url = (
        request.getfixturevalue("value_server").url
        if service == "server"
        else request.getfixturevalue("value_router")
    )

    async def search(scorer, tree):
        computed = 0
        for prefix, blocks in tree.expansions:
            scores = await scorer.score(prefix, blocks)
            paths = [prefix + block.token_ids for block in blocks]
            expected = [class_probabilities(reference, path)[SUCCESS_CLASS] for path in paths]
            assert scores.values == pytest.approx(expected, abs=TOLERANCE)
            computed += sum(map(len, paths)) - scores.tokens_cached
        assert computed == tree.num_tokens

    async def body(scorer):
        await asyncio.gather(*(search(scorer, tree) for tree in trees))

    with_scorer([url], body, api_key=API_KEY if service == "router" else None)


def test_values_are_for_those_with_the_key(value_router):
    port = int(value_router.rsplit(":", 1)[1])
    for url in (value_router, f"http://127.0.0.1:{port + 1}"):
        for key, status in ((None, 401), ("wrong", 401), (API_KEY, 200)):
            asked = {"model": "value-model", "input": [[5, 6]]}
            assert status_with_key(f"{url}/v1/embeddings", key, asked) == status
            assert status_with_key(f"{url}/get_model_info", key) == status


def test_a_prompt_that_many_ask_for_at_once_is_computed_once(value_server):
    tree = Tree(60, VOCAB_SIZE)
    blocks = [[Block([i, j], "length") for j in range(2)] for i in range(8)]

    async def body(scorer):
        return await asyncio.gather(*(scorer.score(tree.prompt, pair) for pair in blocks))

    answers = with_scorer([value_server.url], body)
    sent = 16 * (len(tree.prompt) + 2)
    computed = sent - sum(scores.tokens_cached for scores in answers)
    assert computed == len(tree.prompt) + 32


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def search_args(policy, value_model_folder) -> Args:
    return Args(
        benchmark="toy",
        piref_model=str(policy),
        classifier_ckpt_path=str(value_model_folder),
        num_blocks=4,
        num_repetitions=2,
        block_size=8,
        max_length=32,
        sampling=Sampling(1.0, 1.0),
        max_problems=3,
        engine_flags=EngineFlags("hf", attention_impl="sdpa"),
    )


class Recorder:
    """A scorer that keeps what passes through it."""

    def __init__(self, scorer):
        self.scorer = scorer
        self.calls = []

    async def score(self, prefix_ids, blocks):
        scores = await self.scorer.score(prefix_ids, blocks)
        self.calls.append((prefix_ids, blocks, scores))
        return scores

    async def close(self):
        await self.scorer.close()


def run_recorded(args, folder, monkeypatch, **changes):
    """The records of an evaluation and the calls of its scorer."""
    recorders = []

    def open_recorded(*arguments):
        recorders.append(Recorder(open_scorer(*arguments)))
        return recorders[-1]

    monkeypatch.setattr(open_models, "open_scorer", open_recorded)
    args = replace_flags(args, output_path=folder / "records.jsonl", **changes)
    assert inference_eval.main(args) == 0
    return {record.key: record for record in read_records(args.output_path)}, recorders[0].calls


def borrow(server):
    """A server that the tests share, as one of a run's own."""
    return SimpleNamespace(
        url=server.url,
        process=server.process,
        log_path=server.log_path,
        wait_until_ready=lambda: None,
        stop=lambda: None,
    )


def test_a_search_finds_the_same_with_every_scorer(
    search_args, value_server, value_router, tmp_path, monkeypatch
):
    monkeypatch.setattr(factory, "ValueServer", lambda *arguments: borrow(value_server))
    (tmp_path / "key").write_text(f"{API_KEY}\n")
    expected, _ = run_recorded(search_args, tmp_path / "hf", monkeypatch)
    assert len(expected) == 6
    for scorer, changes in (
        ("sglang", {}),
        ("sglang_server", {"scorer_url": (value_router,), "api_key": f"@{tmp_path}/key"}),
    ):
        found, calls = run_recorded(
            search_args, tmp_path / scorer, monkeypatch, scorer=scorer, **changes
        )
        assert found.keys() == expected.keys()
        for key, record in found.items():
            same = expected[key]
            assert [r.text for r in record.responses] == [r.text for r in same.responses]
            assert [r.node for r in record.responses] == [r.node for r in same.responses]
            assert [node.num_tokens for node in record.tree] == [n.num_tokens for n in same.tree]
            assert [node.value for node in record.tree] == pytest.approx(
                [node.value for node in same.tree], abs=TOLERANCE
            )
        paths = [prefix + block.token_ids for prefix, blocks, _ in calls for block in blocks]
        prompts = {tuple(prefix) for prefix, *_ in calls} - set(map(tuple, paths))
        assert len(prompts) == 3
        unique_tokens = len({tuple(path[: i + 1]) for path in paths for i in range(len(path))})
        block_tokens = sum(len(block.token_ids) for _, blocks, _ in calls for block in blocks)
        computed = sum(map(len, paths)) - sum(scores.tokens_cached for *_, scores in calls)
        # The few tokens that siblings or prompts begin with alike: once, or for each of them.
        assert unique_tokens <= computed <= sum(map(len, prompts)) + block_tokens
        assert computed < 1.05 * unique_tokens
        assert sum(record.cost.tokens_scored for record in found.values()) == computed


def test_a_run_outlives_its_server(value_server, reference):
    """Connections break off in the middle and are refused for a while, then all goes on."""
    trees = [Tree(80 + i, VOCAB_SIZE) for i in range(6)]
    broken_off = 0

    async def forward(request):
        nonlocal broken_off
        payload = await request.json()
        async with (
            ClientSession() as session,
            session.post(f"{value_server.url}{request.path}", json=payload) as reply,
        ):
            content = await reply.json()
        served.append(payload)
        if len(served) == 10:
            dying.set()
        if dying.is_set() and not broken_off:
            broken_off += 1
            request.transport.abort()
        return web.json_response(content)

    async def search(scorer, tree):
        values = []
        for prefix, blocks in tree.expansions:
            values += (await scorer.score(prefix, blocks)).values
        return values

    async def body():
        async with serving(forward) as url:
            port = int(url.rsplit(":", 1)[1])
            scorer = SglangServerScorer(HttpService([url]), VOCAB_SIZE)
            searches = asyncio.gather(*(search(scorer, tree) for tree in trees))
            await dying.wait()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
        assert not searches.done()
        async with serving(forward, port):
            values = await searches
            await scorer.close()
            return values

    served: list = []
    dying = asyncio.Event()
    found = asyncio.run(body())
    assert broken_off == 1
    for values, tree in zip(found, trees, strict=True):
        paths = [prefix + b.token_ids for prefix, blocks in tree.expansions for b in blocks]
        expected = [class_probabilities(reference, path)[SUCCESS_CLASS] for path in paths]
        assert values == pytest.approx(expected, abs=TOLERANCE)


def test_a_killed_server_behind_the_router_loses_nothing(value_router, reference):
    """Its prompts go to the other one; scripts/serve_value_model.sh starts it again."""
    port = int(value_router.rsplit(":", 1)[1])
    trees = [Tree(100 + i, VOCAB_SIZE) for i in range(8)]

    async def search(scorer, tree):
        values = []
        for round_, (prefix, blocks) in enumerate(tree.expansions):
            if round_ == 1:
                halfway.append(tree)
                if len(halfway) == len(trees):
                    os.kill(process_at(port + 1), signal.SIGKILL)
                    killed.set()
                await killed.wait()
            values += (await scorer.score(prefix, blocks)).values
        return values

    async def body(scorer):
        return await asyncio.gather(*(search(scorer, tree) for tree in trees))

    halfway: list[Tree] = []
    killed = asyncio.Event()
    for values, tree in zip(with_scorer([value_router], body, api_key=API_KEY), trees, strict=True):
        paths = [prefix + b.token_ids for prefix, blocks in tree.expansions for b in blocks]
        expected = [class_probabilities(reference, path)[SUCCESS_CLASS] for path in paths]
        assert values == pytest.approx(expected, abs=TOLERANCE)


def process_at(port: int) -> int:
    """The process that was started with this port."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"classifier_lib.serve" in words and str(port).encode() in words:
                return int(folder.name)
    raise LookupError(port)


def test_a_path_that_is_too_long_for_the_server_says_so(value_server):
    async def body(scorer):
        await scorer.score(list(range(100)), [Block([1] * 28, "length")])

    with pytest.raises(ValueError, match="longer than the model's context length"):
        with_scorer([value_server.url], body)
    assert ScorerFlags("sglang").max_path_length(128) == 127
    assert ScorerFlags("hf").max_path_length(128) == 128


def test_a_server_of_ones_own_that_has_ended_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(sglang, "PATIENCE", 0.1)
    (tmp_path / "log").write_text("starting\nRuntimeError: out of memory\n\n")
    server = SimpleNamespace(
        url="http://127.0.0.1:9",
        log_path=tmp_path / "log",
        process=SimpleNamespace(poll=lambda: 1),
        stop=lambda: None,
    )

    async def body():
        scorer = SglangScorer(server, VOCAB_SIZE)
        try:
            await scorer.score([1], [Block([2], "length")])
        finally:
            await scorer.close()

    with pytest.raises(EngineUnavailable, match="has ended: RuntimeError: out of memory"):
        asyncio.run(body())
    (tmp_path / "log").write_text("")
    assert last_error(tmp_path / "log") == "it said nothing"


def test_a_server_that_does_not_start_says_why(tmp_path, policy):
    server = ValueServer(str(policy), tmp_path / "log")
    with pytest.raises(ValueError, match=r"^.*policy\d: the value server ended while it st.*: "
                       r"classifier_lib.serve: error: --model .* not a value model"):  # fmt: skip
        server.wait_until_ready()
    server.stop()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (ScorerFlags("sglang_server"), "--scorer sglang_server needs --scorer_url"),
        (
            ScorerFlags("hf", scorer_url=("http://a:1",)),
            "--scorer_url is for --scorer sglang_server",
        ),
        (
            ScorerFlags("sglang_server", scorer_url=("a:1",)),
            "--scorer_url 'a:1' is not of the form",
        ),
    ],
)
def test_scorers_that_cannot_be_opened_name_their_flags(flags, message):
    with pytest.raises(InputError, match=message):
        flags.check()


def test_a_missing_sglang_is_named_at_the_start(search_args, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    args = replace_flags(search_args, scorer="sglang", output_path=tmp_path / "r.jsonl")
    with pytest.raises(InputError, match="--scorer sglang needs SGLang: pip install -r req"):
        inference_eval.main(args)


def test_servers_must_serve_the_value_model(value_model_folder, policy):
    model = str(value_model_folder)

    place = Place(torch.device("cpu"), "sdpa", policy)

    def open_served(info):
        async def answer(request):
            return web.json_response(info) if info else web.Response(status=404)

        async def body():
            async with serving(answer) as url:
                flags = ScorerFlags("sglang_server", scorer_url=(url,))
                return await asyncio.to_thread(open_scorer, flags, model, place)

        return asyncio.run(body())

    served = {"model_path": model, "architectures": ["Qwen2ForClassifier"]}
    assert isinstance(open_served(served), SglangServerScorer)
    named = served | {"model_path": "/mnt/step_5", "served_model_name": model}
    assert isinstance(open_served(named), SglangServerScorer)
    with pytest.raises(InputError, match=r"serves /mnt/step_5, not /.*; if they are the same"):
        open_served(served | {"model_path": "/mnt/step_5"})
    with pytest.raises(InputError, match=r"serves .* \(Qwen2ForCausalLM\), which is no value mod"):
        open_served(served | {"architectures": ["Qwen2ForCausalLM"]})
    with pytest.raises(InputError, match="is no SGLang server, nor its router"):
        open_served(None)
    flags = ScorerFlags("sglang_server", scorer_url=("http://127.0.0.1:9",))
    with pytest.raises(InputError, match=r"--scorer_url http://127.0.0.1:9/.*refused"):
        open_scorer(flags, model, place)


def test_servers_of_the_value_model_get_the_key(value_model_folder, policy):
    served = {"model_path": str(value_model_folder), "architectures": ["Qwen2ForClassifier"]}
    seen = []

    async def answer(request):
        seen.append(request.headers.get("Authorization"))
        return web.json_response(served if request.method == "GET" else rows(GOOD))

    async def body():
        async with serving(answer) as url:
            flags = ScorerFlags("sglang_server", scorer_url=(url,))
            place = Place(torch.device("cpu"), "sdpa", policy, api_key="s3cret")
            assert "s3cret" not in repr(place)
            scorer = await asyncio.to_thread(open_scorer, flags, str(value_model_folder), place)
            await scorer.score([1, 2], [Block([3], "length")])
            await scorer.close()

    asyncio.run(body())
    assert set(seen) == {"Bearer s3cret"}
