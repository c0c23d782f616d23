"""Clients of pooling servers, against small servers that answer in the shapes of vLLM and SGLang.

The shapes are those of vLLM's documented replies (docs/models/pooling_models) and of SGLang 0.5.21.
A real vLLM was not at hand.
"""

import asyncio
from pathlib import Path

import pytest
import torch
from aiohttp import web

from run_lib.commands import InputError
from search_lib.engines.http_service import BadReply
from search_lib.scorers.factory import Place, conversation_reader, open_scorer, step_reader
from search_lib.scorers.flags import ScorerFlags
from search_lib.scorers.inputs import ScorerInput
from search_lib.scorers.pooling_servers import (
    read_class_probabilities,
    read_pair_scores,
    read_rewards,
    read_step_rows,
)
from search_lib.scorers.text_models import RewardModel, StepModel, load_reward_model, load_step_prm
from search_lib.scorers.texts import TextRequest
from tests.support.http_servers import serving
from tests.support.tiny_scorers import PROBLEM, SOLUTION, STEP_PRMS, save_reward

CPU = torch.device("cpu")
PLACE = Place(CPU, "sdpa", Path("unused"))
REQUEST = TextRequest(PROBLEM, [SOLUTION, "2\n\n3"], [False, True])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    found = {name: save(folder / name) for name, (save, _) in STEP_PRMS.items()}
    return found | {f"reward{n}": save_reward(folder / f"reward{n}", n) for n in (1, 2)}


def ask(flags, model, answer):
    """Opens a scorer of a server and asks it; returns its scores and what the server was sent."""
    sent = []

    async def handle(request):
        if request.method == "GET":
            return web.json_response({"object": "list", "data": [{"id": str(model)}]})
        sent.append((request.path, await request.json(), dict(request.headers)))
        return web.json_response(answer(sent[-1][1]))

    async def body():
        async with serving(handle) as url:
            scorer = await asyncio.to_thread(
                open_scorer, ScorerFlags(*flags, scorer_url=(url,)), str(model), PLACE
            )
            try:
                return await scorer.score_texts(REQUEST)
            finally:
                await scorer.close()

    return asyncio.run(body()), sent


def listed(name, rows):
    """A reply in the form that all these servers share, in any order."""
    data = [{"index": index, "object": name, name: row} for index, row in enumerate(rows)]
    return {"id": "r-1", "object": "list", "model": "m", "data": data[::-1], "usage": {}}


@pytest.mark.parametrize("pooling", ["ALL", "STEP"])
@pytest.mark.parametrize("name", STEP_PRMS)
def test_vllm_pooling_scores_steps_as_transformers_does(folders, name, pooling):
    """The server's model is the same, so its rows are: of all tokens, or of the step tag's."""
    reader = step_reader(ScorerFlags("prm", name), str(folders[name]))
    model = StepModel(load_step_prm(str(folders[name]), reader, "sdpa", CPU), reader, 2000, 0)

    def row(probability):
        if reader.layout.labels == 1:
            return [torch.tensor(probability).logit().item()]
        return [probability, 1 - probability][:: -1 if reader.layout.good else 1]

    def answer(asked):
        rows = []
        for ids in asked["input"]:
            one = ScorerInput(ids, list(range(len(ids))))
            all_scores = model.read([one])[0].scores
            tag = ids[encoded[len(rows)].reads[0]]
            wanted = [i for i, index in enumerate(ids) if pooling == "ALL" or index == tag]
            rows.append([row(all_scores[i]) for i in wanted])
        return listed("data", rows)

    encoded = [reader.encode(PROBLEM, text) for text in REQUEST.responses]
    scores, ((path, asked, headers),) = ask(("vllm_pooling", name, "mean"), folders[name], answer)
    expected = [sum(read.scores) / len(read.scores) for read in model.read(encoded)]
    assert scores.values == pytest.approx(expected, abs=1e-5)
    assert scores.tokens_cached is None  # not known
    assert path == "/pooling"
    assert asked == {
        "model": str(folders[name]),
        "task": "token_classify",
        "use_activation": reader.layout.labels == 2,
        "input": [one.ids for one in encoded],
    }
    assert headers["X-SMG-Routing-Key"] == REQUEST.key


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("name", ["vllm_classify", "sglang_reward"])
def test_reward_servers_score_as_transformers_does(folders, name, labels):
    """vLLM answers with probabilities, SGLang with logits."""
    folder = folders[f"reward{labels}"]
    model = load_reward_model(str(folder), "sdpa", CPU)
    reader = conversation_reader(ScorerFlags("reward"), str(folder))

    @torch.inference_mode()
    def answer(asked):
        logits = [model(torch.tensor([ids])).logits[0] for ids in asked["input"]]
        if name == "sglang_reward":
            return listed("embedding", [row.tolist() for row in logits])
        squashed = [row.sigmoid() if labels == 1 else row.softmax(-1) for row in logits]
        return listed("probs", [row.tolist() for row in squashed])

    scores, ((path, asked, _),) = ask((name,), folder, answer)
    inputs = [reader.encode(PROBLEM, text) for text in REQUEST.responses]
    expected = [read.scores[0] for read in RewardModel(model, 2000).read(inputs)]
    assert scores.values == pytest.approx(expected, abs=1e-5)
    assert path == {"vllm_classify": "/classify", "sglang_reward": "/v1/embeddings"}[name]
    assert asked["input"] == [one.ids for one in inputs]


def test_a_cross_encoder_gets_two_texts():
    scores, ((path, asked, _),) = ask(
        ("vllm_score",), "BAAI/x", lambda asked: listed("score", [0.25, 1])
    )
    assert scores.values == [0.25, 1]
    assert path == "/score"
    assert asked == {
        "model": "BAAI/x",
        "text_1": PROBLEM,
        "text_2": REQUEST.responses,
        "use_activation": True,
    }


BAD = float("nan"), "0.5", None, True, [0.1, 0.2, 0.7], [], [None, 1.0], {}, 10**400
NOT_SQUASHED = [3.5, -1.25], [0.9, 0.9]


@pytest.mark.parametrize("row", [*BAD, *NOT_SQUASHED, -0.5, 2.0, [2.0]], ids=str)
def test_replies_without_probabilities_are_bad(folders, row):
    reader = step_reader(ScorerFlags("prm", "qwen"), str(folders["qwen"]))
    one = reader.encode(PROBLEM, "2")
    with pytest.raises(BadReply, match=r"no (row of 2 numbers|probabilities)"):
        read_step_rows(listed("data", [[row]]), [one], reader)
    with pytest.raises(BadReply, match="no probabilities"):
        read_class_probabilities(listed("probs", [row]), [one])
    with pytest.raises(BadReply, match=r"no (score|probabilities)"):
        read_pair_scores(listed("score", [row]), 1)


@pytest.mark.parametrize("row", BAD, ids=str)
def test_replies_without_logits_are_bad(row):
    for reply in (listed("embedding", [row]), listed("embedding", [[row]])):
        with pytest.raises(BadReply, match="no logits of one or two labels"):
            read_rewards(reply, [None])


@pytest.mark.parametrize("rows", [[[[0.5, 0.5]] * 2], [[]], [7], [], [[[0.5, 0.5]]] * 2], ids=str)
def test_rows_of_other_tokens_are_bad(folders, rows):
    reader = step_reader(ScorerFlags("prm", "qwen"), str(folders["qwen"]))
    with pytest.raises(BadReply, match=r"of which 1 are the step tag|values of . paths"):
        read_step_rows(listed("data", rows), [reader.encode(PROBLEM, "2")], reader)


def test_a_server_of_another_model_is_refused(folders):
    async def body(answer):
        async def handle(request):
            return web.json_response(answer)

        async with serving(handle) as url:
            flags = ScorerFlags("vllm_score", scorer_url=(url,))
            return await asyncio.to_thread(open_scorer, flags, "mine", PLACE)

    with pytest.raises(InputError, match="serves theirs, not mine; if they are the same, name"):
        asyncio.run(body({"data": [{"id": "theirs"}]}))
    with pytest.raises(InputError, match="lists no models at /v1/models"):
        asyncio.run(body([]))
    flags = ScorerFlags("http", scorer_url=("http://127.0.0.1:9",))
    with pytest.raises(InputError, match=r"^--scorer_url http://127\.0\.0\.1:9: "):
        open_scorer(flags, "mine", PLACE)
