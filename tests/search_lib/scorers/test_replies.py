"""What value servers answer, and what is asked of them: small servers with faults."""

import asyncio
import json

import pytest
from aiohttp import web

from classifier_lib.scoring import Scores
from search_lib.engines.base import Block
from search_lib.engines.http_service import BadReply, HttpService
from search_lib.scorers.sglang_server import SglangServerScorer, parse_scores
from tests.support.http_servers import in_turn, serving
from tests.support.value_servers import GOOD, VOCAB_SIZE, rows, with_scorer


def test_rows_are_taken_by_their_index_and_counts_where_there_are_some():
    reply = rows([*GOOD, 40.0], [0.1, 0.2, 0.7, 2.0])
    assert parse_scores(reply, [50, 50]) == Scores([0.5, 0.2], 42)
    reply["data"].reverse()
    assert parse_scores(reply, [50, 50]) == Scores([0.5, 0.2], 42)
    assert parse_scores(rows(GOOD, GOOD), [50, 50]) == Scores([0.5, 0.5], None)  # of plain SGLang


BAD_REPLIES = {
    "nan": rows([float("nan"), 0.5, 0.5]),
    "null": rows([None, 0.5, 0.5]),
    "beyond one": rows([-0.5, 1.0, 0.5]),
    "sum": rows([0.1, 0.1, 0.1]),
    "an embedding": rows([0.1] * 32),
    "two classes": rows([0.5, 0.5]),
    "an endless cache": rows([*GOOD, float("inf")]),
    "more than all tokens cached": rows([*GOOD, 4]),
    "fewer than no tokens cached": rows([*GOOD, -1]),
    "a text for a count": rows([*GOOD, "1"]),
    "truth values": rows([False, True, False]),
    "another number": {"data": [{"index": 1, "embedding": GOOD}]},
    "a truth value for a number": {"data": [{"index": False, "embedding": GOOD}]},
    "no number": {"data": [{"embedding": GOOD}]},
    "too few": rows(),
    "too many": rows(GOOD, GOOD),
    "no data": {"error": "none"},
    "a list": [GOOD],
    "a word": "value",
}


@pytest.mark.parametrize("reply", BAD_REPLIES.values(), ids=BAD_REPLIES)
def test_a_reply_without_values_is_asked_for_again_then_an_error(reply):
    def ask(*answers):
        async def body():
            answer, times = in_turn(*answers)
            async with serving(answer) as url:
                scorer = SglangServerScorer(HttpService([url]), VOCAB_SIZE)
                try:
                    return await scorer.score([1, 2], [Block([3], "length")]), len(times)
                finally:
                    await scorer.close()

        return asyncio.run(body())

    bad, good = {"text": json.dumps(reply)}, {"text": json.dumps(rows(GOOD))}
    scores, attempts = ask(bad, bad, {"status": 500}, good)
    assert (scores.values, attempts) == ([0.5], 5)  # the prompt's last one, and the block's
    with pytest.raises(BadReply, match=r"/v1/embeddings: (no class prob|no JSON|values )"):
        ask(bad)


def test_each_path_has_one_row():
    twice = {"data": [{"index": 0, "embedding": GOOD}, {"index": 0, "embedding": GOOD}]}
    with pytest.raises(BadReply, match=r"values with the numbers \[0, 0\] for 2 paths"):
        parse_scores(twice, [50, 50])
    with pytest.raises(BadReply, match="values of 2 paths instead of 1"):
        parse_scores(rows(GOOD, GOOD), [50])


def test_all_requests_of_a_prompt_carry_its_key():
    seen = []

    async def answer(request):
        paths = (await request.json())["input"]
        seen.append((paths, request.headers["X-SMG-Routing-Key"]))
        return web.json_response(rows(*[GOOD] * len(paths)))

    async def body():
        async with serving(answer) as url:
            scorer = SglangServerScorer(HttpService([url]), VOCAB_SIZE)
            await scorer.score([1, 2], [Block([3], "length"), Block([4], "length")])
            await scorer.score([1, 2, 3], [Block([5], "length")])
            await scorer.score([9], [Block([5], "length")])
            await scorer.close()

    asyncio.run(body())
    paths, keys = zip(*seen, strict=True)
    # A prompt goes ahead; what continues a known path follows at once.
    assert paths == ([[1, 2]], [[1, 2, 3], [1, 2, 4]], [[1, 2, 3, 5]], [[9]], [[9, 5]])
    assert keys[0] == keys[1] == keys[2] != keys[3] == keys[4]


@pytest.mark.parametrize(
    ("prefix", "blocks", "message"),
    [
        ([], [[1]], "cannot score an empty prefix or block"),
        ([1], [[1], []], "cannot score an empty prefix or block"),
        ([1], [[VOCAB_SIZE]], f"token id {VOCAB_SIZE} is beyond the value model's vocabulary"),
        ([VOCAB_SIZE], [[1]], f"token id {VOCAB_SIZE} is beyond the value model's vocabulary"),
    ],
)
def test_what_cannot_be_scored_never_reaches_a_server(prefix, blocks, message):
    """SGLang would end at an id beyond the vocabulary, and all searches with it."""

    async def body(scorer):
        await scorer.score(prefix, [Block(ids, "length") for ids in blocks])

    with pytest.raises(ValueError, match=message):
        with_scorer(["http://127.0.0.1:9"], body, patience=0.1)
