"""The two sets of rules, one by one: what one of them counts, the other doesn't."""

import pytest

from search_lib.answer_rules import ANSWER_RULES, PUBLISHED, STRICT
from search_lib.grading import Grader, extract_answer
from search_lib.results.cost import SearchCost
from search_lib.results.graded import RunGrader
from search_lib.results.records import Record, RecordedResponse

BOTH = pytest.mark.parametrize("rules", [STRICT, PUBLISHED], ids=list(ANSWER_RULES))


def grade(texts, values, reference, rules):
    """The one problem of a run with one search."""
    responses = [
        RecordedResponse(text, extract_answer(text), value, True, 1, 0)
        for text, value in zip(texts, values, strict=True)
    ]
    record = Record("p", 0, "", reference, 0, responses, [], SearchCost(1, 0.0))
    with Grader(comparison=rules.comparison) as grader:
        graded = dict(RunGrader(1, grader.equivalent, rules).problems([record]))
    return graded["p"]


def boxed(*answers):
    """A finished response an answer; None for one without."""
    return ["</think>" + ("" if each is None else rf"\boxed{{{each}}}") for each in answers]


@BOTH
def test_1_a_box_in_an_unfinished_thought(rules):
    problem = grade([r"so \boxed{7}, wait", r"\boxed{7}</think>nothing"], [0.5, 0.5], "7", rules)
    assert problem.answers == [[{"strict": None, "published": "7"}[rules.name], None]]
    assert problem.correct == [[rules is PUBLISHED, False]]


@BOTH
def test_2_a_response_without_an_answer_votes(rules):
    problem = grade(boxed("7", None, None, "8"), [0.5, 0.9, 0.2, 0.3], "7", rules)
    assert (
        problem.classes == {"strict": [[0, None, None, 1]], "published": [[0, 1, 2, 3]]}[rules.name]
    )
    # It wins by weight, is the best one, and makes two more ties.
    scores = {method: problem.score(method, 1) for method in ("MV", "WMV", "BoN")}
    assert (
        scores
        == {
            "strict": {"MV": [0.5], "WMV": [1.0], "BoN": [1.0]},
            "published": {"MV": [0.25], "WMV": [0.0], "BoN": [0.0]},
        }[rules.name]
    )


@BOTH
@pytest.mark.parametrize(
    ("text", "strict", "published"),
    [
        (r"\boxed{7} and \boxed{8", "7", None),
        (r"\boxed{7}. As \boxed{}.", "7", ""),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2", "2"),
        (r"\boxed{7} or \fbox{8}", "8", "7"),
        (r"\boxed 7", "7", None),
        (r"\boxed{\{1}", "\\{1", None),
        (r"\boxed{ \frac{1}{2} }", r"\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_3_the_box(rules, text, strict, published):
    answer = rules.answer_of(f"</think>{text}", extract_answer(f"</think>{text}"))
    assert answer == {"strict": strict, "published": published}[rules.name]


# What math-verify finds in a part of the answer, to five decimals, in either order.
ALIKE = [
    (r"\frac{1}{3}", "0.33333"),
    ("0.123454", "0.123449"),
    ("7", "foo^ 7 bar_"),
    ("7=11a+c", "11a+c"),
    ("11a+c", "7=11a+c"),
]
DIFFERENT = [(r"\frac{1}{3}", "0.3333"), ("x=5", "y=5"), ("7", "8"), ("7", "")]


@BOTH
def test_4_answers_that_are_equal(rules):
    with Grader(comparison=rules.comparison) as grader:
        verdicts = grader.equivalent([*ALIKE, *DIFFERENT, ("033", "33"), ("7", "7")])
    alike = [rules is PUBLISHED] * len(ALIKE)
    assert verdicts == [*alike, *[False] * len(DIFFERENT), True, True]


@BOTH
def test_4_right_is_graded_apart_from_classes(rules):
    problem = grade(boxed("5", "y=5"), [0.5, 0.5], "x=5", rules)
    expected = {
        "strict": ([[0, 1]], [[True, False]]),
        "published": ([[0, 0]], [[True, False]]),
    }
    assert (problem.classes, problem.correct) == expected[rules.name]


@BOTH
def test_5_a_tie_and_the_first_maximum(rules):
    texts = boxed("8", "7", "7", "8")
    problem = grade(texts, [0.5, 0.2, 0.300005, 0.0], "7", rules)
    assert problem.score("WMV", 1) == [{"strict": 1.0, "published": 0.5}[rules.name]]
    problem = grade(texts, [0.2, 0.9, 0.1, 0.9], "7", rules)
    assert problem.score("BoN", 1) == [{"strict": 0.5, "published": 1.0}[rules.name]]


def test_published_comparisons_keep_to_the_limits():
    with Grader(time_limit_s=1.0, comparison="published") as grader:
        assert grader.equivalent([("5", r"\max(9^{9^{9^9}}, 1)"), ("7", "7.0")]) == [False, True]
        assert grader.statistics.timed_out == 1
        assert grader.readable(["7", "", "7" * 3000]) == [True, False, False]
