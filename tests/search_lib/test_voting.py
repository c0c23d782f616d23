"""Votes against a reference that works on strings."""

import itertools
import random

from search_lib.answer_rules import PUBLISHED, STRICT
from search_lib.grouping import group_answers
from search_lib.voting import (
    Ballots,
    best_of_n,
    credit,
    majority_vote,
    pass_at_1,
    pass_at_k,
    weighted_majority_vote,
    winners,
)


def equal_strings(pairs):
    return [a == b for a, b in pairs]


def make_ballots(classes, values):
    """Class 0 is right."""
    return Ballots(classes, values, [answer_class == 0 for answer_class in classes])


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
        ballots = make_ballots(classes, values)
        assert majority_vote(ballots, STRICT) == reference_vote(answers, [1] * 4, "b")
        assert weighted_majority_vote(ballots, STRICT) == reference_vote(answers, values, "b")
        answered = [(v, a) for v, a in zip(values, answers, strict=True) if a is not None]
        best = [a for v, a in answered if v == max(answered)[0]]
        assert best_of_n(ballots, STRICT) == (best.count("b") / len(best) if best else 0.0)
        assert pass_at_1(ballots, STRICT) == answers.count("b") / 4
        assert pass_at_k(ballots, STRICT) == float("b" in answers)


def test_a_tie_up_to_rounding_is_a_tie():
    classes = [0, 0, 0, 1]
    values = [0.1, 0.1, 0.1, 0.3]  # 0.1 + 0.1 + 0.1 > 0.3 in floating point
    assert weighted_majority_vote(make_ballots(classes, values), STRICT) == 0.5


def test_no_answer_at_all_is_wrong_not_an_error():
    for vote in (majority_vote, weighted_majority_vote, best_of_n, pass_at_1, pass_at_k):
        assert vote(make_ballots([None, None], [0.9, 0.8]), STRICT) == 0.0


def test_values_of_zero_still_vote():
    assert weighted_majority_vote(make_ballots([0, None], [0.0, 0.0]), STRICT) == 1.0


def test_negative_weights_have_a_winner():
    assert winners([1, 2], [-1.0, -2.0]) == [1]


def test_a_class_of_right_and_wrong_responses_counts_by_its_share():
    ballots = Ballots([0, 0, 0, 1, 1, 1], [0.5] * 6, [True, False, False, True, True, True])
    assert credit([0], ballots) == 1 / 3
    assert majority_vote(ballots, PUBLISHED) == (1 / 3 + 1) / 2
