"""What scorers of texts are given of a search, and what is counted of them."""

import asyncio

import pytest

from classifier_lib.scoring import Scores, Work
from data_prep.toy.tokenizer import build_tokenizer
from search_lib.batching import ModelThread
from search_lib.engines.base import Block
from search_lib.meter import SearchMeter, SessionClock
from search_lib.scorers.inputs import ScorerInput
from search_lib.scorers.text_model_scorer import TextModelScorer
from search_lib.scorers.text_models import InputScores
from search_lib.scorers.texts import ProblemScorer, TextRequest, TextScorer


class Listener:
    """Notes what it is asked about."""

    def __init__(self):
        self.requests = []

    async def score_texts(self, request):
        self.requests.append(request)
        return Scores([0.5] * len(request.responses), None)

    async def close(self):
        pass


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def heard(tokenizer, response, *blocks):
    """What a scorer hears of blocks behind a response, whose prompt is other words."""
    prompt = tokenizer.encode("<|begin|>a long prompt<think>", add_special_tokens=False)
    prefix = prompt + tokenizer.encode(response, add_special_tokens=False)
    listener = Listener()
    assert isinstance(listener, TextScorer)
    scorer = ProblemScorer(listener, "1 + 1?", len(prompt), tokenizer)
    asyncio.run(scorer.score(prefix, blocks))
    (request,) = listener.requests
    return request


def test_the_problem_comes_from_the_problem_and_the_response_from_the_policy(tokenizer):
    ids = tokenizer.encode("6 ok", add_special_tokens=False)
    end = tokenizer.eos_token_id
    request = heard(tokenizer, "2 +4 = </think>", Block(ids, "length"), Block([*ids, end], "stop"))
    text = "2 +4 = </think>6 ok"
    assert request == TextRequest("1 + 1?", [text, text], [False, True])


def test_a_block_that_ends_within_a_character_is_read_without_it(tokenizer):
    ids = tokenizer.encode("3 €", add_special_tokens=False)
    request = heard(tokenizer, "", Block(ids[:-1], "length"), Block(ids, "length"))
    assert request.responses == ["3 ", "3 €"]


def test_an_empty_response_is_asked_about(tokenizer):
    request = heard(tokenizer, "", Block([tokenizer.eos_token_id], "stop"))
    assert request.responses == [""]


def test_requests_of_a_problem_go_to_one_server():
    one, same, other = (TextRequest(text, [], []) for text in ("ü\n1", "ü\n1", "2"))
    assert one.key == same.key != other.key
    assert one.key.isascii()
    assert one.key.isalnum()


def test_a_meter_counts_the_work_of_the_scorer_itself():
    meter = SearchMeter(SessionClock())
    blocks = [Block([1] * 3, "length")]
    meter.add(10, blocks, Scores([0.1], 0, work=Work(40, 820)))
    meter.add(13, blocks, Scores([0.1], 5, work=Work(7, 300)))
    cost = meter.cost()
    assert (cost.tokens_scored, cost.contexts_scored, cost.tokens_cached) == (47, 1120, 5)
    assert cost.tokens_generated == 6


class Lengths:
    """A model whose score is the share of the context that is read."""

    context = 100

    def encode(self, problem, response):
        return ScorerInput([1] * len(problem + response), [0])

    def read(self, inputs):
        return [InputScores([len(one.ids) / self.context], 0) for one in inputs]


def test_waiting_requests_of_searches_share_batches():
    model = Lengths()
    scorer = TextModelScorer(model, model, min, 1000, ModelThread())

    async def ask():
        asked = [TextRequest("ab", ["c" * n, "d" * n], [False, True]) for n in (3, 90, 200, 7)]
        try:
            return await asyncio.gather(*map(scorer.score_texts, asked), return_exceptions=True)
        finally:
            await scorer.close()

    first, second, too_long, last = asyncio.run(ask())
    assert (first.values, second.values, last.values) == ([0.05] * 2, [0.92] * 2, [0.09] * 2)
    assert "is 202 tokens of the scorer, which reads 100" in str(too_long)
