"""Votes by features, against slow direct computations in the words of their papers."""

import itertools
import math
import random
from collections import defaultdict
from dataclasses import astuple
from fractions import Fraction

import numpy as np
import pytest

from search_lib.answer_rules import PUBLISHED, STRICT
from search_lib.confidence import Confidence
from search_lib.vote_flags import VOTE_HELP
from search_lib.voting import (
    DEFAULT_VOTES,
    FEATURES,
    VOTES,
    Ballots,
    choose_votes,
    find_vote,
    pessimistic_verification,
)
from tests.support.ballots import make_confidence


def ballots(classes, values=(), confidences=(), calibrated=()):
    """Class 0 is right."""
    return Ballots(classes, values, [one == 0 for one in classes], confidences, calibrated)


def drawn_ballots(seed):
    """Up to 9 responses with many ties, of one class, of several, or without answers."""
    draw = random.Random(seed)
    answers = draw.choice([[0], [None], [0, 1], [0, 0, 1, 2, None]])
    classes = [draw.choice(answers) for _ in range(draw.randrange(1, 10))]
    return ballots(
        classes,
        [draw.choice([0.0, 0.25, 0.5, 0.75]) for _ in classes],
        [make_confidence(draw) for _ in classes],
        [draw.choice([0.25, 0.5]) for _ in classes],
    )


def share_of_right(best):
    """Accuracy when one of the best classes is drawn."""
    return Fraction(sum(answer_class == 0 for answer_class in best), len(best)) if best else 0


def best_by(score):
    """Classes of the largest score, exact."""
    return [one for one in score if score[one] == max(score.values())]


@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 3, 1000])
def test_pessimistic_verification_is_the_mean_value_minus_the_penalty(alpha):
    for seed in range(300):
        votes = drawn_ballots(seed)
        score = {}
        for answer in set(votes.classes) - {None}:
            own = [v for v, c in zip(votes.values, votes.classes, strict=True) if c == answer]
            penalty = alpha * math.log(len(votes.classes)) / (len(own) + 1)
            score[answer] = round(sum(own) / len(own) - penalty, 9)
        expected = share_of_right(best_by(score))
        assert find_vote(f"PV{alpha}")(votes, STRICT) == pytest.approx(float(expected)), seed


def test_the_limits_of_pessimism_are_the_best_mean_and_the_majority():
    classes = [0, 0, 0, 1, 1, 2]
    one = ballots(classes, [0.5, 0.1, 0.6, 0.6, 0.6, 0.59])
    assert pessimistic_verification(one, STRICT, 0) == 0.0  # class 1 has the best mean
    assert pessimistic_verification(one, STRICT, 1000) == 1.0  # class 0 has most responses
    assert VOTES["PV"](ballots([0], [0.0]), STRICT) == 1.0  # one response wins whatever its score


@pytest.mark.parametrize("p", [0, 0.5, 1, 1.2])
def test_borda_points_are_those_of_the_ranks(p):
    for seed in range(300):
        votes = drawn_ballots(seed)
        sure = {
            place: votes.confidences[place].self_certainty
            for place, one in enumerate(votes.classes)
            if one is not None
        }
        # Equal ones share their ranks: the mean over all orders that agree with the certainties.
        total, orders = defaultdict(float), 0
        if len(sure) > 6:
            continue
        for order in itertools.permutations(sure):
            if any(sure[a] < sure[b] for a, b in itertools.pairwise(order)):
                continue
            orders += 1
            for rank, place in enumerate(order, start=1):
                total[votes.classes[place]] += (len(sure) - rank + 1) ** p
        score = {answer: round(points / orders, 9) for answer, points in total.items()}
        expected = share_of_right(best_by(score))
        assert find_vote(f"Borda{p}")(votes, STRICT) == pytest.approx(float(expected)), seed


def test_borda_without_power_is_the_majority():
    for seed in range(300):
        votes = drawn_ballots(seed)
        assert find_vote("Borda0")(votes, STRICT) == VOTES["MV"](votes, STRICT)


@pytest.mark.parametrize("of", ["mean", "lowest", "bottom", "tail"])
@pytest.mark.parametrize("keep", [10, 50, 90, 100])
def test_deepconf_keeps_the_surest_and_weighs_them_by_their_confidence(of, keep):
    for seed in range(200):
        votes = drawn_ballots(seed)
        sure = [
            (Fraction(getattr(confidence, of)), answer)
            for confidence, answer in zip(votes.confidences, votes.classes, strict=True)
            if answer is not None
        ]
        score = defaultdict(Fraction)
        if sure:
            # The percentile between two of the ordered confidences, written out.
            ordered = sorted(confidence for confidence, _ in sure)
            place = Fraction(100 - keep, 100) * (len(ordered) - 1)
            low = math.floor(place)
            high = min(low + 1, len(ordered) - 1)
            bar = ordered[low] + (place - low) * (ordered[high] - ordered[low])
            for confidence, answer in sure:
                if confidence >= bar:
                    score[answer] += confidence
        found = find_vote(f"DeepConf-{of}{keep}")(votes, STRICT)
        assert found == pytest.approx(float(share_of_right(best_by(score)))), seed


def test_deepconf_of_all_responses_has_no_number():
    for seed in range(100):
        votes = drawn_ballots(seed)
        whole = find_vote("DeepConf-tail100")(votes, STRICT)
        assert VOTES["DeepConf-tail"](votes, STRICT) == whole


def test_the_calibrated_vote_sums_calibrated_values():
    classes, values, calibrated = [0, 1, 1], [0.9, 0.4, 0.4], [0.5, 0.3, 0.3]
    one = ballots(classes, values, calibrated=calibrated)
    assert (VOTES["WMV"](one, STRICT), VOTES["CWMV"](one, STRICT)) == (1.0, 0.0)


@pytest.mark.parametrize("name", VOTES)
def test_without_answers_no_vote_is_right(name):
    sure = [Confidence(*range(5))] * 2
    nothing = Ballots([None, None], [0.9, 0.8], [False, False], sure, [0.9, 0.8])
    assert VOTES[name](nothing, STRICT) == 0.0


@pytest.mark.parametrize("name", VOTES)
@pytest.mark.parametrize("rules", [STRICT, PUBLISHED])
def test_the_order_of_the_responses_changes_no_vote(name, rules):
    draw = random.Random(1)
    for seed in range(60):
        votes = drawn_ballots(seed)
        if rules.best_is_first and name == "BoN":
            continue
        order = draw.sample(range(len(votes.classes)), len(votes.classes))
        shuffled = Ballots(*([part[place] for place in order] for part in votes))
        assert VOTES[name](shuffled, rules) == pytest.approx(VOTES[name](votes, rules)), seed


def test_own_weights_are_those_of_the_vote():
    for seed in range(100):
        votes = drawn_ballots(seed)
        for name, vote in VOTES.items():
            if vote.weights is not None:
                score = defaultdict(Fraction)
                for one, weight in zip(votes.classes, vote.weights(votes), strict=True):
                    if one is not None:
                        score[one] += Fraction(weight)
                expected = share_of_right(best_by(score))
                assert vote(votes, STRICT) == pytest.approx(float(expected)), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mv", "there is no vote 'mv'; known: MV, WMV, BoN, pass@1, pass@k, PV[alpha], CWMV, Bor"),
        ("MV2", "there is no vote 'MV2'"),
        ("", "there is no vote ''"),
        ("Borda.", "there is no vote 'Borda.'"),
        ("PV-1", "there is no vote 'PV-1'"),
        ("PV0.5.5", "there is no vote 'PV0.5.5'"),
        ("Borda200", "'Borda200': p must be from 0 to 100"),
        ("DeepConf-tail0", "'DeepConf-tail0': keep must be from 1 to 100"),
    ],
)
def test_a_name_of_no_vote_lists_those_that_there_are(name, message):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 (the message is compared)
        find_vote(name)
    assert str(refusal.value).startswith(message)


def test_default_votes_come_first_and_named_ones_once():
    assert choose_votes((), FEATURES) == list(DEFAULT_VOTES)
    assert choose_votes((), ()) == ["MV", "pass@1", "pass@k"]
    assert choose_votes(("PV", "MV", "PV1", "PV"), {"values"}) == [*DEFAULT_VOTES, "PV", "PV1"]
    assert choose_votes(("all",), FEATURES) == list(VOTES)
    assert "Borda" not in choose_votes(("all",), {"values"})
    with pytest.raises(ValueError, match=r"^Borda2 needs confidences \(--confidence records them"):
        choose_votes(("Borda2",), {"values"})


def test_the_help_of_the_flag_lists_every_vote():
    assert all(name in VOTE_HELP for name in VOTES)


def test_confidences_of_equal_responses_are_all_kept():
    same = [Confidence(*[np.pi] * 5)] * 7
    one = ballots([0, 0, 0, 0, 1, 1, 1], confidences=same)
    assert find_vote("DeepConf-mean10")(one, STRICT) == 1.0


@pytest.mark.parametrize("name", ["Borda", "Borda2", "DeepConf-mean10", "DeepConf-tail50"])
def test_the_rounding_of_confidences_changes_no_vote(name):
    vote = find_vote(name)
    for seed in range(200):
        one, draw = drawn_ballots(seed), random.Random(seed)
        expected = vote(one, STRICT)
        if expected not in (0.0, 1.0):
            continue  # classes of equal weight, of which rounding may choose one
        rounded = [
            Confidence(*(number * (1 + draw.uniform(-3e-7, 3e-7)) for number in astuple(sure)))
            for sure in one.confidences
        ]
        assert vote(one._replace(confidences=rounded), STRICT) == expected
