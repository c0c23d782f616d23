"""The judge of outcomes: what it calls an answer, and whose reference it knows."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from data_prep.toy.tokenizer import build_tokenizer
from search_lib.answer_formats import ANSWER_FORMATS
from search_lib.engines.base import Block
from search_lib.scorers.judge import OutcomeJudge


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def judge_steps(tokenizer):
    """Judges the steps that continue a response; returns the judgements and the thread."""

    def judge(
        reference: str, response: str, steps: list[str], name: str = "boxed", reason: str = "step"
    ) -> list[float | None]:
        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        prompt = encode("start 3 +4")
        threads = []

        def find_answer(text: str, is_complete: bool) -> str | None:
            threads.append(threading.current_thread())
            return answer_format.find_answer("start 3 +4", text, is_complete)

        answer_format = ANSWER_FORMATS[name]
        with answer_format.open_comparer() as comparer, ThreadPoolExecutor(1) as executor:
            judge = OutcomeJudge(reference, len(prompt), tokenizer, find_answer, comparer, executor)
            blocks = [Block(encode(step), reason) for step in steps]
            scores = asyncio.run(judge.score(prompt + encode(response), blocks))
        assert threading.main_thread() not in threads
        return list(scores.values)

    return judge


def test_a_step_with_an_answer_is_right_or_wrong_and_any_other_is_neither(judge_steps):
    steps = [r"\boxed{7}<|end|>", r"\boxed{8}", "7 ok\n", r"\boxed{14/2}"]
    assert judge_steps("7", "3 +4 = 7 ok\n", steps) == [1.0, 0.0, None, 1.0]


def test_an_answer_that_begins_in_an_earlier_step_is_found(judge_steps):
    assert judge_steps("7", r"so \boxed{", ["7}", "8}", "7"]) == [1.0, 0.0, None]


def test_the_prompt_is_no_part_of_the_response(judge_steps):
    assert judge_steps("7", "", ["7"]) == [None]


def test_an_answer_ends_with_its_line_or_with_the_response(judge_steps):
    def judge(step: str, reason: str) -> float | None:
        return judge_steps("42", "", [step], "final_answer", reason)[0]

    assert judge("Answer: 42<|end|>", "stop") == 1.0
    assert judge("Answer: 4", "length") is None
    assert judge("Answer: 42\n", "step") == judge("Answer: 42\n7", "length") == 1.0


def test_a_choice_is_the_letter_and_not_what_it_may_mean(judge_steps):
    steps = ["Answer: (C)\n", "Answer: D\n"]
    assert judge_steps("(c)", "", steps, "choice") == [1.0, 0.0]
