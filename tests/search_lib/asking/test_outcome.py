"""How the answers of a question vote, and which response stands for the winner."""

import itertools
import random

import pytest

from search_lib.answer_rules import STRICT
from search_lib.asking.outcome import choose_response, count_vote, is_right
from search_lib.results.graded import CountedResponse, grade_problem
from search_lib.results.records import Record, RecordedResponse
from search_lib.voting import winning_classes
from tests.support.runs import tree_cost

TREES = [[("7", 0.2), ("8", 0.9)], [("7", 0.3), (None, 0.95)], [("7.0", 0.1), ("9", 0.3)]]


def equal_numbers(pairs):
    return [float(one) == float(other) for one, other in pairs]


def graded(trees, reference=None):
    counted = [[CountedResponse(*response) for response in tree] for tree in trees]
    return grade_problem(counted, reference, equal_numbers, STRICT)


def records(trees):
    return [
        Record(
            *("q", number, "?", None, 0),
            [
                RecordedResponse(f"{answer} in {number}", answer, value, True, 1, place)
                for place, (answer, value) in enumerate(tree)
            ],
            [],
            tree_cost(number),
        )
        for number, tree in enumerate(trees)
    ]


@pytest.mark.parametrize(
    ("vote", "expected"),
    [
        ("MV", [("7", 3, 3.0), ("8", 1, 1.0), ("9", 1, 1.0)]),
        ("WMV", [("8", 1, 0.9), ("7", 3, 0.6), ("9", 1, 0.3)]),
        ("BoN", [("8", 1, 0.9), ("7", 3, 0.3), ("9", 1, 0.3)]),
    ],
)
def test_classes_stand_in_the_order_of_their_weight(vote, expected):
    candidates = count_vote(graded(TREES), vote)
    found = [(one.answer, one.num_responses, pytest.approx(one.weight)) for one in candidates]
    assert found == expected


@pytest.mark.parametrize("vote", ["MV", "WMV", "BoN"])
@pytest.mark.parametrize("seed", range(20))
def test_the_first_class_wins_that_vote_and_shares_are_those_of_all_weights(vote, seed):
    draw = random.Random(seed)
    trees = [
        [(draw.choice(["1", "2", "3", None]), draw.choice([0.0, 0.1, 0.5])) for _ in range(2)]
        for _ in range(3)
    ]
    problem = graded(trees)
    candidates = count_vote(problem, vote)
    winning = winning_classes(vote, problem.ballots(slice(None)), STRICT)
    if not candidates:
        assert winning == []
        return
    tree, place = candidates[0].best
    assert problem.classes[tree][place] in winning
    total = sum(one.weight for one in candidates)
    expected = [one.weight / total if total else 0.0 for one in candidates]
    assert [one.share for one in candidates] == pytest.approx(expected)


def test_of_equal_weights_but_for_rounding_the_class_of_more_responses_stands_first():
    trees = [[("7", 0.1 + 0.2)], [("8", 0.15), ("8", 0.15)]]
    assert [one.answer for one in count_vote(graded(trees), "WMV")] == ["8", "7"]


def test_without_values_the_most_frequent_answer_wins_and_its_first_response_stands_for_it():
    trees = [[(answer, None) for answer, _ in tree] for tree in TREES]
    candidates = count_vote(graded(trees), "MV")
    assert (candidates[0].answer, candidates[0].best) == ("7", (0, 0))


def test_the_response_of_an_answer_is_the_one_with_the_largest_value():
    chosen = choose_response(records(TREES), count_vote(graded(TREES), "MV"))
    assert chosen.text == "7 in 1"


def test_without_any_answer_the_response_with_the_largest_value_is_chosen():
    trees = [[(None, 0.2)], [(None, 0.7)], [(None, 0.1)]]
    chosen = choose_response(records(trees), count_vote(graded(trees), "WMV"))
    assert chosen.text == "None in 1"


@pytest.mark.parametrize(
    ("reference", "expected"), [("8", True), ("7", False), ("5", False), (None, None)]
)
def test_an_answer_is_right_if_it_equals_the_reference(reference, expected):
    problem = graded(TREES, reference)
    assert is_right(problem, count_vote(problem, "WMV")) is expected


def test_no_answer_is_not_right():
    problem = graded([[(None, 0.5)]], "8")
    assert is_right(problem, count_vote(problem, "WMV")) is False


def test_classes_are_the_same_with_and_without_a_reference():
    for reference in ("7", "8", "5", None):
        problem = graded(TREES, reference)
        flat = list(itertools.chain.from_iterable(problem.classes))
        same = [[one == other for other in flat] for one in flat]
        assert same == [
            [
                (a is None) == (b is None) and (a is None or float(a) == float(b))
                for b, _ in itertools.chain.from_iterable(TREES)
            ]
            for a, _ in itertools.chain.from_iterable(TREES)
        ]
