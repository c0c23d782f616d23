"""Votes against a reference that works on strings, and the grouping of answers."""

import itertools
import random

import pytest

from search_lib.voting import (
    best_of_n,
    group_answers,
    majority_vote,
    pass_at_1,
    pass_at_k,
    weighted_majority_vote,
)


def equal_strings(pairs):
    return [a == b for a, b in pairs]


def reference_vote(answers, weights, reference):
    """Argmax over answer strings of the summed weight; ties are broken at random."""
    totals = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0) + weight
    top = [answer for answer in totals if totals[answer] == max(totals.values())]
    return sum(answer == reference for answer in top) / len(top) if top else 0.0


def test_votes_equal_the_reference_on_all_small_cases():
    # Weights are powers of two, so that sums are exact and ties are real.
    random_state = random.Random(0)
    for answers in itertools.product(["a", "b", "c", None], repeat=4):
        values = [random_state.choice([0.25, 0.5, 1.0]) for _ in answers]
        classes = group_answers(answers, "b", equal_strings)
        assert majority_vote(classes, values) == reference_vote(answers, [1] * 4, "b")
        assert weighted_majority_vote(classes, values) == reference_vote(answers, values, "b")
        answered = [(v, a) for v, a in zip(values, answers, strict=True) if a is not None]
        best = [a for v, a in answered if v == max(answered)[0]]
        assert best_of_n(classes, values) == (best.count("b") / len(best) if best else 0.0)
        assert pass_at_1(classes, values) == answers.count("b") / 4
        assert pass_at_k(classes, values) == float("b" in answers)


def test_a_tie_up_to_rounding_is_a_tie():
    classes = [0, 0, 0, 1]
    values = [0.1, 0.1, 0.1, 0.3]  # 0.1 + 0.1 + 0.1 > 0.3 in floating point
    assert weighted_majority_vote(classes, values) == 0.5


def test_no_answer_at_all_is_wrong_not_an_error():
    for vote in (majority_vote, weighted_majority_vote, best_of_n, pass_at_1, pass_at_k):
        assert vote([None, None], [0.9, 0.8]) == 0.0


def test_values_of_zero_still_vote():
    assert weighted_majority_vote([0, None], [0.0, 0.0]) == 1.0


def test_classes_compare_each_distinct_answer_once_with_one_member_of_each_class():
    asked = []

    def same_letter(pairs):
        asked.extend(pairs)
        return [a.lower() == b.lower() for a, b in pairs]

    answers = ["x", "X", "y", None, "x", "Y", "033", "33", "33"]
    classes = group_answers(answers, "Y", same_letter)
    assert classes == [1, 1, 0, None, 1, 0, 2, 2, 2]
    assert asked == [
        *[("Y", "x")],
        *[("Y", "X"), ("x", "X")],
        *[("Y", "y")],
        *[("Y", "033"), ("x", "033")],
    ]


def test_equal_integers_need_no_grader():
    def unused(pairs):
        pytest.fail(f"asked for {pairs}")

    assert group_answers(["033", "33", " 33 "], "33", unused) == [0, 0, 0]


def test_an_intransitive_grader_contradicts_nothing():
    # Published code asserts that all of a class are graded alike, and falls over here.
    related = {("1", "1.0001"), ("1.0001", "1.0002")}

    def close_enough(pairs):
        return [pair in related for pair in pairs]

    classes = group_answers(["1.0001", "1.0002"], "1", close_enough)
    assert classes == [0, 1]
