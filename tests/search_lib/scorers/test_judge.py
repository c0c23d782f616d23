"""The judge of outcomes: what it calls an answer, and whose reference it knows."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from data_prep.toy.tokenizer import build_tokenizer
from search_lib.engines.base import Block
from search_lib.grading import Grader, extract_answer
from search_lib.scorers.judge import OutcomeJudge


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def judge_steps(tokenizer):
    """Judges the steps that continue a response; returns the judgements and the thread."""

    def judge(reference: str, response: str, steps: list[str]) -> list[float | None]:
        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        prompt = encode("start 3 +4")
        threads = []

        def find_answer(text: str) -> str | None:
            threads.append(threading.current_thread())
            return extract_answer(text, None)

        with Grader() as grader, ThreadPoolExecutor(1) as executor:
            judge = OutcomeJudge(reference, len(prompt), tokenizer, find_answer, grader, executor)
            blocks = [Block(encode(step), "step") for step in steps]
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
