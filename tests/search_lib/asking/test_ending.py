"""What is shown of a question that has been answered."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from search_lib.asking.ask_args import AskArgs
from search_lib.asking.asker import Question
from search_lib.asking.ending import document, picture, plain_lines
from search_lib.asking.outcome import Candidate, Outcome
from search_lib.asking.saving import describe_record
from search_lib.results.cost import SearchCost
from search_lib.results.records import Record, RecordedResponse
from search_lib.strategies.base import Node

RESPONSE = RecordedResponse("\n1 + 1 = 2\n\tso \x1b[31m[b]2", "2", 0.75, True, 1234, 0)
OTHER = RecordedResponse("no", None, 0.5, False, 10, 0)
COST = SearchCost(2000, 1.0, tokens_scored=2100, tokens_cached=50)
RECORD = Record("question", 1, "1 + 1?", None, 7, [OTHER, RESPONSE], [Node(None, 9, 0.5, "")], COST)
OUTCOME = Outcome(
    "WMV",
    [Candidate("2", 1, 0.75, 0.6, (0, 1)), Candidate("3", 1, 0.5, 0.4, (0, 0))],
    [RECORD],
    RESPONSE,
    None,
    12.34,
    ["tree 1: out of memory"],
)
NO_ANSWER = replace(OUTCOME, candidates=[], chosen=OTHER, failures=[])
QUESTION = Question("1 + 1?", [1])


def pictured(outcome, question=QUESTION, width=80):
    console = Console(file=io.StringIO(), width=width, legacy_windows=False)
    console.print(picture(outcome, question, console))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_picture_has_answer_vote_cost_failures_and_the_whole_response():
    assert pictured(OUTCOME) == [
        "╭─ Answer " + "─" * 69 + "╮",
        "│" + " " * 78 + "│",
        "│  2" + " " * 75 + "│",
        "│" + " " * 78 + "│",
        "╰" + "─" * 78 + "╯",
        "",
        "Vote · responses weighed by their values",
        "  2  ━━━━━━━━━━━━━━━━━━━━━━━━────────────────  60.0 %  1 response",
        "  3  ━━━━━━━━━━━━━━━━────────────────────────  40.0 %  1 response",
        "",
        "share      60.0 % of the vote (WMV), 1 of 2 responses, value 0.75",
        "cost       2,000 tokens generated, 2,100 scored, 12.3 s",
        "failed     tree 1: out of memory",
        "response   tree 2, 1,234 tokens",
        "",
        "1 + 1 = 2",
        r"    so \x1b[31m[b]2",
    ]


def test_without_an_answer_the_picture_says_so_and_shows_the_best_response():
    lines = pictured(NO_ANSWER)
    assert lines[2].split() == ["│", "no", "answer", "│"]
    assert "share      none of 2 responses has an answer" in lines
    assert "response   tree 2, 10 tokens, cut off at the length limit" in lines
    assert lines[-1] == "no"


@pytest.mark.parametrize(
    ("is_right", "expected"), [(True, "2.0: right"), (False, "2.0: the answer is another one")]
)
def test_a_reference_is_compared_with_the_answer(is_right, expected):
    question = replace(QUESTION, reference="2.0")
    outcome = replace(OUTCOME, is_right=is_right)
    assert f"reference  {expected}" in pictured(outcome, question)
    assert f"reference: {expected}" in plain_lines(outcome, question)


def test_where_there_is_no_answer_none_is_compared_with_the_reference():
    outcome = replace(NO_ANSWER, is_right=False)
    lines = plain_lines(outcome, replace(QUESTION, reference="2"))
    assert "reference: 2: there is no answer" in lines


def test_plain_lines_say_the_same():
    assert plain_lines(OUTCOME, QUESTION) == [
        "answer: 2",
        "share: 60.0 % of the vote (WMV), 1 of 2 responses, value 0.75",
        "  3: 40.0 %, 1 response",
        "cost: 2,000 tokens generated, 2,100 scored, 12.3 s",
        "failed: tree 1: out of memory",
        "response: tree 2, 1,234 tokens",
        "",
        "1 + 1 = 2\n    so \\x1b[31m[b]2",
    ]
    assert plain_lines(NO_ANSWER, QUESTION)[0] == "answer: none"


def test_a_terminal_of_ascii_gets_ascii_alone():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    console = Console(file=file, width=80, legacy_windows=False)
    console.print(picture(OUTCOME, QUESTION, console))
    file.flush()
    text = file.buffer.getvalue().decode()
    assert "| 2" in text.replace("  ", " ")
    assert "\\u" not in text


def test_the_document_has_the_answer_its_vote_its_models_and_its_settings():
    flags = AskArgs("m", "v", question="1 + 1?")
    found = document(OUTCOME, QUESTION, flags, {"question", "reference", "save", "prints_json"})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["vote"][1] == {"answer": "3", "responses": 1, "weight": 0.5, "share": 0.4}
    names = ("answer", "vote_name", "value", "share", "seed", "trees", "response", "is_right")
    assert [found[name] for name in names] == [
        *("2", "WMV", 0.75, 0.6, 1337, 1, RESPONSE.text, None)
    ]
    assert found["cost"] == {
        "tokens_generated": 2000, "tokens_scored": 2100, "tokens_cached": 50, "seconds": 12.34
    }  # fmt: skip
    assert found["models"] == {"policy": "m", "scorer": "hf", "value_model": "v"}
    assert found["settings"]["num_blocks"] == 8
    assert not {"question", "save", "piref_model", "api_key"} & found["settings"].keys()


def test_the_document_of_a_question_without_an_answer_has_none():
    found = document(NO_ANSWER, QUESTION, AskArgs("m", "v"), ())
    assert (found["answer"], found["share"], found["vote"]) == (None, None, [])


def test_a_record_without_some_trees_is_not_said_to_have_a_page():
    assert describe_record(Path("r"), NO_ANSWER) == (
        "saved: r (python -m scripts.report r --out report.html)"
    )
    assert "scripts.report 'my r' --out" in describe_record(Path("my r"), NO_ANSWER)
    assert describe_record(Path("r"), OUTCOME) == (
        "saved: r (without the trees of 1 failed searches: no page shows it)"
    )
