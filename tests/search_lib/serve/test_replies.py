"""Responses as clients see them."""

import asyncio
import json

import pytest

from search_lib.serve.replies import PIECE, Replies, as_event, cut_before, split_thought
from search_lib.serve.requests import ChatRequest, CompletionRequest
from search_lib.thoughts import USUAL_THOUGHTS, Thoughts
from tests.support.serving import QUESTION, flags_of, outcome_of, planner_of

THINKS = "start 1 +3<think>\n"


@pytest.mark.parametrize(
    ("stops", "cut"),
    [([], "one two three"), (["three", "two"], "one "), (["four"], "one two three"), (["one"], "")],
)
def test_a_text_is_cut_before_the_first_of_its_stops(stops, cut):
    assert cut_before("one two three", stops) == cut


@pytest.mark.parametrize(
    ("thoughts", "prompt", "text", "parts"),
    [
        (USUAL_THOUGHTS, THINKS, "so\n</think>\n\nit is 4", ("so", "it is 4")),
        (USUAL_THOUGHTS, THINKS, "it never ends", ("it never ends", "")),
        (USUAL_THOUGHTS, "start", "<think>so</think>4", ("so", "4")),
        (USUAL_THOUGHTS, "start", "it is 4", (None, "it is 4")),
        (Thoughts.of("none"), THINKS, "a</think>b", (None, "a</think>b")),
        (Thoughts("[t]", "[/t]"), "q[t]", "so[/t]4", ("so", "4")),
    ],
)
def test_the_thought_of_a_response_stands_apart(thoughts, prompt, text, parts):
    assert split_thought(thoughts, prompt, text) == parts


def replies_of(**fields):
    request = ChatRequest.model_validate(QUESTION | {"seed": 7} | fields)
    plan = asyncio.run(planner_of(flags_of()).plan(request))
    return Replies(plan, "chatcmpl-1", USUAL_THOUGHTS, THINKS)


def test_a_choice_tells_how_it_was_found():
    choice = replies_of().whole([outcome_of()]).choices[0]
    assert choice.message.content == "\\boxed{4}"
    assert choice.message.reasoning_content == "1 +3 = 4 ok"
    search = choice.search.model_dump()
    assert search.pop("vote")[0] == {"answer": "4", "responses": 3, "weight": 2.0, "share": 0.8}
    assert search == {
        "answer": "4",
        "vote_name": "WMV",
        "value": 0.75,
        "share": 0.8,
        "seed": 7,
        "trees": 1,
        "is_enough": False,
        "failures": 0,
        "cost": {"tokens_generated": 40, "tokens_scored": 30, "tokens_cached": 10, "seconds": 0.5},
    }


def test_usage_counts_all_that_was_generated():
    usage = replies_of(n=2).whole([outcome_of(), outcome_of()]).usage
    assert usage.completion_tokens == 80
    assert usage.total_tokens == usage.prompt_tokens + 80


@pytest.mark.parametrize(
    ("finished", "stop", "reason"),
    [
        (True, None, "stop"),
        (False, None, "length"),
        (False, "box", "stop"),
        (False, "no", "length"),
    ],
)
def test_a_response_ends_for_a_reason(finished, stop, reason):
    outcome = outcome_of(finished=finished)
    assert replies_of(stop=stop).whole([outcome]).choices[0].finish_reason == reason


def test_stops_are_looked_for_behind_the_thought():
    message = replies_of(stop="4").whole([outcome_of()]).choices[0].message
    assert (message.reasoning_content, message.content) == ("1 +3 = 4 ok", "\\boxed{")


def test_a_question_without_an_answer_has_a_response_all_the_same():
    search = replies_of().whole([outcome_of(candidates=[])]).choices[0].search
    assert (search.answer, search.vote, search.share) == (None, [], None)


def test_a_completion_is_the_whole_text():
    request = CompletionRequest.model_validate({"model": "policy", "prompt": "start 1 +3<think>"})
    plan = asyncio.run(planner_of(flags_of()).plan(request))
    replies = Replies(plan, "cmpl-1", USUAL_THOUGHTS, THINKS)
    outcome = outcome_of()
    assert replies.whole([outcome]).choices[0].text == outcome.chosen.text


def test_the_pieces_of_a_stream_are_the_response():
    thought, content = "so " * PIECE, "x" * (2 * PIECE + 1)
    outcome = outcome_of(f"{thought}</think>{content}")
    chunks = list(replies_of().end(0, outcome))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == thought
    assert "".join(delta.get("content", "") for delta in deltas) == content
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "stop"]


def test_an_event_is_one_line_for_every_client():
    event = as_event({"text": "a\nb\u2028c\u0085d"})
    assert event.endswith(b"\n\n")
    assert len(event.decode().strip().splitlines()) == 1
    assert json.loads(event.removeprefix(b"data: "))["text"] == "a\nb\u2028c\u0085d"
