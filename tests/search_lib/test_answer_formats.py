"""Answer formats: what is an answer in a response, and what equals a reference."""

import pytest

from search_lib.answer_formats import ANSWER_FORMATS

PROMPT = "How many?"


def find(name, response, prompt=PROMPT, is_complete=True):
    return ANSWER_FORMATS[name].find_answer(prompt, response, is_complete)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("1 + 1 = 2\n\nFinal Answer: 2", "2"),
        ("Final Answer: 2\n\nThat was easy.", "2"),
        ("Answer: 3 apples\n", "3 apples"),
        ("Final answer: 2.", "2"),
        ("Final Answer: 2.5", "2.5"),
        ("**Final Answer:** $\\frac{1}{2}$", "$\\frac{1}{2}$"),
        ("**Final Answer**: 2", "2"),
        ("**Final Answer: 2**", "2"),
        ("Final Answer: \\(\\boxed{7}\\).", "7"),
        ("Answer: 1\nno:\nFinal Answer: 2\r\n", "2"),
        ("Final Answer: 2\nAnswer:\n", "2"),
        ("Final Answer:\n2", None),
        ("the answer: 2", None),
        ("\\boxed{2}", None),
    ],
)
def test_a_final_answer_goes_to_the_end_of_its_line(response, answer):
    assert find("final_answer", response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Final Answer: (B)", "B"),
        ("Final Answer: B", "B"),
        ("Final Answer: B. a dog", "B"),
        ("Final Answer: (A) a dog", "A"),
        ("**Final Answer:** C) 7", "C"),
        ("Answer: option (D)", "D"),
        ("Final Answer: $\\boxed{\\text{E}}$", "E"),
        ("Final Answer: A dog", None),
        ("Final Answer: F", None),
        ("Final Answer: Bread", None),
        ("Final Answer: (b)", None),
        ("B", None),
    ],
)
def test_a_choice_is_one_of_five_letters(response, answer):
    assert find("choice", response) == answer


@pytest.mark.parametrize("name", ["final_answer", "choice"])
def test_an_answer_is_none_before_its_line_has_ended(name):
    cut = "Final Answer: E"
    assert find(name, cut, is_complete=False) is None
    assert find(name, cut + "\n", is_complete=False) == find(name, cut) == "E"


def test_a_closed_box_is_an_answer_wherever_the_text_was_cut():
    assert find("boxed", r"so \boxed{4}", is_complete=False) == "4"
    assert find("boxed", r"so \boxed{4", is_complete=False) is None


@pytest.mark.parametrize(
    ("name", "answer"),
    [("boxed", r"\boxed{4}"), ("final_answer", "Answer: 4"), ("choice", "Answer: D")],
)
def test_an_answer_stands_behind_the_thought(name, answer):
    assert find(name, answer, "How many?<think>\n") is None
    assert find(name, f"{answer}</think>") is None
    assert find(name, f"</think>{answer}", "How many?<think>\n") is not None
    assert find(name, answer) is not None


@pytest.mark.parametrize(
    ("name", "pairs", "verdicts"),
    [
        ("boxed", [("1/2", "0.5"), ("3", "4")], [True, False]),
        ("final_answer", [("18", "$18$"), ("18", "\\$18")], [True, True]),
        ("choice", [("B", "B"), ("(b)", "B"), ("c.", "C"), ("A", "B")], [True, True, True, False]),
    ],
)
def test_answers_are_compared_as_their_format_says(name, pairs, verdicts):
    with ANSWER_FORMATS[name].open_comparer() as comparer:
        assert comparer.equivalent(pairs) == verdicts


def test_a_reference_that_is_no_letter_equals_no_choice():
    with ANSWER_FORMATS["choice"].open_comparer() as comparer:
        assert comparer.readable(["B", "(d)", "2", "F", "a dog"]) == [
            True,
            True,
            False,
            False,
            False,
        ]
