"""Any scorer over HTTP: the schema of docs/scorers.md, and replies that don't keep to it."""

import asyncio
import json
import math

import pytest

from search_lib.engines.http_service import BadReply, HttpService
from search_lib.scorers.http_scorer import HttpScorer, read_scores
from search_lib.scorers.texts import TextRequest
from tests.support.http_servers import in_turn, serving

REQUEST = TextRequest("1 + 1?\n", ["2", "ü"], [True, False])


def ask(*answers):
    """The values that come of a server's answers, and how often it was asked."""

    async def body():
        answer, times = in_turn(*answers)
        async with serving(answer) as url:
            scorer = HttpScorer(HttpService([url]), "mine")
            try:
                return (await scorer.score_texts(REQUEST)).values, len(times)
            finally:
                await scorer.close()

    return asyncio.run(body())


@pytest.mark.parametrize(
    ("reply", "values"),
    [
        ({"scores": [0, 1.0]}, [0.0, 1.0]),
        ({"scores": [0.25, 0.5], "scale": "probability", "more": None}, [0.25, 0.5]),
        ({"scores": [0, math.log(3)], "scale": "logit"}, [0.5, 0.75]),
        ({"scores": [-800, 800.0], "scale": "logit"}, [0.0, 1.0]),
    ],
)
def test_probabilities_are_values_and_logits_are_squashed(reply, values):
    assert read_scores(reply, 2) == pytest.approx(values)


BAD_REPLIES = {
    "one score": {"scores": [0.5]},
    "three scores": {"scores": [0.5] * 3},
    "a text": {"scores": [0.5, "0.5"]},
    "nan": {"scores": [0.5, float("nan")]},
    "no number": {"scores": [0.5, None]},
    "a truth value": {"scores": [0.5, True]},
    "a number that no float holds": {"scores": [0.5, 10**400], "scale": "logit"},
    "no list": {"scores": 0.5},
    "no scores": {"values": [0.5, 0.5]},
    "a list": [0.5, 0.5],
    "a reward": {"scores": [0.5, 3.25]},
    "a loss": {"scores": [0.5, -0.25]},
    "another scale": {"scores": [0.5, 0.5], "scale": "percent"},
}


@pytest.mark.parametrize("reply", BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_a_reply_without_scores_is_asked_for_again_then_an_error(reply):
    bad, good = {"text": json.dumps(reply)}, {"text": json.dumps({"scores": [0.25, 0.75]})}
    assert ask(bad, {"status": 500}, good) == ([0.25, 0.75], 3)
    with pytest.raises(BadReply, match=r"/scores: (no list of|no JSON|. scores for|s).* \(5 bad"):
        ask(bad)


def test_a_reward_is_refused_with_what_to_do():
    with pytest.raises(BadReply, match=r'score 3.25 is not in \[0, 1\]; a server of logits adds "'):
        read_scores(BAD_REPLIES["a reward"], 2)


def test_a_server_gets_the_texts_and_the_name_of_the_scorer():
    sent = []

    async def answer(request):
        sent.append((request.path, await request.json()))
        return await in_turn({"text": json.dumps({"scores": [0, 0]})})[0](request)

    ask(answer)
    assert sent == [
        (
            "/scores",
            {
                "model": "mine",
                "problem": "1 + 1?\n",
                "responses": ["2", "ü"],
                "finished": [True, False],
            },
        )
    ]
