"""Votes over the responses of one problem, from their classes, values and verdicts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from search_lib.answer_rules import STRICT, AnswerRules


class Ballots(NamedTuple):
    """The responses that vote together.

    Attributes:
        classes: Answer class of each; None for one that takes no part.
        values: Value of each; empty where there are none.
        correct: Whether each is right.
    """

    classes: Sequence[int | None]
    values: Sequence[float]
    correct: Sequence[bool]


def winners(
    classes: Sequence[int | None], weights: Sequence[float], rules: AnswerRules = STRICT
) -> list[int]:
    """Returns the classes with the largest summed weight, several in a tie; none without answers.

    With unit weights this is majority voting, with values weighted majority voting:
    argmax over classes of the sum of V over the responses in it.
    """
    totals: dict[int, float] = {}
    for answer_class, weight in zip(classes, weights, strict=True):
        if answer_class is not None:
            totals[answer_class] = totals.get(answer_class, 0.0) + weight
    if not totals:
        return []
    largest = max(totals.values())
    return [answer_class for answer_class, total in totals.items() if rules.is_tie(largest, total)]


def credit(winning: Sequence[int], ballots: Ballots) -> float:
    """Returns the accuracy with ties broken at random.

    A class counts by the share of its responses that are right: all or none of them, unless the
    rules grade responses apart from classes.
    """
    if not winning:
        return 0.0
    shares = []
    for winner in winning:
        members = [
            is_right
            for answer_class, is_right in zip(ballots.classes, ballots.correct, strict=True)
            if answer_class == winner
        ]
        shares.append(sum(members) / len(members))
    return sum(shares) / len(shares)


def majority_vote(ballots: Ballots, rules: AnswerRules) -> float:
    """Returns the accuracy of the most frequent answer (MV). Values play no part."""
    return credit(winning_classes("MV", ballots, rules), ballots)


def weighted_majority_vote(ballots: Ballots, rules: AnswerRules) -> float:
    """Returns the accuracy of the answer with the largest summed value (WMV)."""
    return credit(winning_classes("WMV", ballots, rules), ballots)


def best_responses(ballots: Ballots, rules: AnswerRules) -> list[int]:
    """Returns the places of the highest-valued responses that take part in votes.

    They are several in a tie, unless the rules take the first; none without answers.
    """
    taking_part = [place for place, one in enumerate(ballots.classes) if one is not None]
    if not taking_part:
        return []
    top = max(ballots.values[place] for place in taking_part)
    best = [place for place in taking_part if ballots.values[place] == top]
    return best[:1] if rules.best_is_first else best


def winning_classes(method: str, ballots: Ballots, rules: AnswerRules) -> list[int]:
    """Returns the classes that win by MV, WMV or BoN, several in a tie."""
    if method == "BoN":
        best = (ballots.classes[place] for place in best_responses(ballots, rules))
        return list(dict.fromkeys(one for one in best if one is not None))
    weights = ballots.values if method == "WMV" else [1.0] * len(ballots.classes)
    return winners(ballots.classes, weights, rules)


def best_of_n(ballots: Ballots, rules: AnswerRules) -> float:
    """Returns the accuracy of the highest-valued response that takes part in votes (BoN)."""
    best = [ballots.correct[index] for index in best_responses(ballots, rules)]
    return sum(best) / len(best) if best else 0.0


def pass_at_1(ballots: Ballots, rules: AnswerRules) -> float:
    """Returns the share of correct responses: the accuracy of one drawn at random."""
    return sum(ballots.correct) / len(ballots.correct)


def pass_at_k(ballots: Ballots, rules: AnswerRules) -> float:
    """Returns 1 if any response is correct, the accuracy of a perfect vote; else 0."""
    return float(any(ballots.correct))


VOTES: dict[str, Callable[[Ballots, AnswerRules], float]] = {
    "MV": majority_vote,
    "WMV": weighted_majority_vote,
    "BoN": best_of_n,
    "pass@1": pass_at_1,
    "pass@k": pass_at_k,
}
"""Aggregations by name: (responses, how they are counted) -> accuracy in [0, 1]."""

NEEDING_VALUES = frozenset({"WMV", "BoN"})
"""Aggregations that there are only where responses have values."""
