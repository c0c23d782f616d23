"""Votes over the responses of one problem, from their classes and features.

A feature is what is known of each response: its value, how sure the policy was of it, its
calibrated value. `VOTES` has every vote by name, with its rule and the features it needs.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from search_lib.answer_rules import STRICT, AnswerRules
from search_lib.confidence import Confidence, is_below


class Ballots(NamedTuple):
    """The responses that vote together.

    Attributes:
        classes: Answer class of each; None for one that takes no part.
        values: Value of each; empty where there are none.
        correct: Whether each is right.
        confidences: How sure the policy was of each; empty where that is not known.
        calibrated: Calibrated value of each; empty where there are none.
    """

    classes: Sequence[int | None]
    values: Sequence[float]
    correct: Sequence[bool]
    confidences: Sequence[Confidence] = ()
    calibrated: Sequence[float] = ()

    @property
    def voting(self) -> list[int]:
        """The places of the responses that take part in votes."""
        return [place for place, one in enumerate(self.classes) if one is not None]


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
    return leading(totals, rules)


def leading(scores: Mapping[int, float], rules: AnswerRules) -> list[int]:
    """Returns the classes with the largest score, several in a tie; none of none."""
    largest = max(scores.values(), default=0.0)
    return [answer_class for answer_class, score in scores.items() if rules.is_tie(largest, score)]


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
    if not ballots.voting:
        return []
    top = max(ballots.values[place] for place in ballots.voting)
    best = [place for place in ballots.voting if ballots.values[place] == top]
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


def calibrated_vote(ballots: Ballots, rules: AnswerRules) -> float:
    """Returns the accuracy of the answer with the largest summed calibrated value (CWMV)."""
    return credit(winners(ballots.classes, ballots.calibrated, rules), ballots)


def pessimistic_verification(ballots: Ballots, rules: AnswerRules, alpha: float = 0.5) -> float:
    """Returns the accuracy of the answer whose mean value is high and rests on many responses (PV).

    The score of a class is its mean value minus `alpha ln(N) / (N_class + 1)`, with N responses in
    all and N_class in it. With alpha 0 it is the largest mean value, with a large alpha MV.

    Source: Shi and Jin (2025), "Heimdall", arXiv 2504.10337, with one verification a response;
    Montgomery et al. (2025), arXiv 2510.14913, have it for scores as ours, with alpha 0.5.
    """
    values: dict[int, list[float]] = {}
    for answer_class, value in zip(ballots.classes, ballots.values, strict=True):
        if answer_class is not None:
            values.setdefault(answer_class, []).append(value)
    penalty = alpha * math.log(max(1, len(ballots.classes)))
    scores = {
        answer_class: math.fsum(of_class) / len(of_class) - penalty / (len(of_class) + 1)
        for answer_class, of_class in values.items()
    }
    return credit(leading(scores, rules), ballots)


def borda_vote(ballots: Ballots, rules: AnswerRules, p: float = 0.5) -> float:
    """Returns the accuracy of the answer with the most points by rank of self-certainty (Borda).

    Of the N responses that take part, the r-th surest has `(N - r + 1)^p` points. Ones that are
    equal, up to rounding, share those of their ranks. With p 0 it is MV.

    Source: Kang et al. (2025), arXiv 2502.18581, "Borda voting"; 0.5 is the default of their code.
    """
    certainty = {place: ballots.confidences[place].self_certainty for place in ballots.voting}
    ranked = sorted(certainty, key=lambda place: -certainty[place])
    points = [0.0] * len(ballots.classes)
    left = len(ranked)  # N - r + 1
    groups: list[list[int]] = []
    for place in ranked:
        if not groups or is_below(certainty[place], certainty[groups[-1][0]]):
            groups.append([])
        groups[-1].append(place)
    for equal in groups:
        share = sum((left - index) ** p for index in range(len(equal))) / len(equal)
        left -= len(equal)
        for place in equal:
            points[place] = share
    return credit(winners(ballots.classes, points, rules), ballots)


ConfidenceName = Literal["mean", "lowest", "bottom", "tail"]


def confidence_vote(
    ballots: Ballots, rules: AnswerRules, keep: float = 100.0, of: ConfidenceName = "tail"
) -> float:
    """Returns the accuracy of the answer with the largest summed confidence (DeepConf, offline).

    Of the responses that take part, only the surest `keep` per cent vote: those whose confidence is
    at least the percentile `100 - keep`, up to rounding. They weigh as much as their confidence.

    Source: Fu et al. (2025), arXiv 2508.15260: confidence-weighted majority voting and confidence
    filtering; they keep 10 or 90 per cent.
    """
    confidence = {place: getattr(ballots.confidences[place], of) for place in ballots.voting}
    if not confidence:
        return 0.0
    bar = float(np.percentile(list(confidence.values()), 100 - keep))
    kept = {place: one for place, one in confidence.items() if not is_below(one, bar)}
    classes = [one if place in kept else None for place, one in enumerate(ballots.classes)]
    weights = [kept.get(place, 0.0) for place in range(len(classes))]
    return credit(winners(classes, weights, rules), ballots)


FEATURES = {
    "values": "values (--scorer)",
    "confidences": "confidences (--confidence records them)",
    "calibrated": "calibrated values (--calibration)",
}
"""What a vote may need of each response, and what gives it."""


@dataclass(frozen=True)
class Number:
    """The number that may stand behind the name of a vote.

    Attributes:
        name: Its name, a keyword of the vote's function, which has its default.
        least: Smallest value.
        most: Largest value.
    """

    name: str
    least: float
    most: float


@dataclass(frozen=True)
class Vote:
    """A way to get one answer from the responses to a problem.

    Attributes:
        rule: What wins, in one line.
        accuracy: (responses, how they are counted) -> accuracy in [0, 1].
        needs: Keys of `FEATURES` without which there is no such vote.
        number: What stands behind its name, if anything may.
        weights: Own weight of each response, where the class with the largest sum wins. None where
            the weight of a response depends on the others.
    """

    rule: str
    accuracy: Callable[..., float]
    needs: tuple[str, ...] = ()
    number: Number | None = None
    weights: Callable[[Ballots], Sequence[float]] | None = None

    def __call__(self, ballots: Ballots, rules: AnswerRules) -> float:
        """Returns the accuracy of the answer that wins."""
        return self.accuracy(ballots, rules)

    def lacks(self, features: Collection[str]) -> list[str]:
        """Returns the features that it needs, and that are not among these."""
        return [feature for feature in self.needs if feature not in features]


_CONFIDENCES: dict[ConfidenceName, str] = {
    "mean": "mean confidences",
    "lowest": "confidences of the lowest window",
    "bottom": "confidences of the lowest tenth of the windows",
    "tail": "confidences of the last window",
}

VOTES: dict[str, Vote] = {
    "MV": Vote(
        "the most frequent answer",
        majority_vote,
        weights=lambda ballots: [1.0] * len(ballots.classes),
    ),
    "WMV": Vote(
        "the largest summed value",
        weighted_majority_vote,
        needs=("values",),
        weights=lambda ballots: ballots.values,
    ),
    "BoN": Vote("the answer of the highest-valued response", best_of_n, needs=("values",)),
    "pass@1": Vote("no vote: the answer of a random response", pass_at_1),
    "pass@k": Vote("no vote: right if any response is", pass_at_k),
    "PV": Vote(
        "the largest mean value minus alpha ln(N) / (N_class + 1)",
        pessimistic_verification,
        needs=("values",),
        number=Number("alpha", 0, 1000),
    ),
    "CWMV": Vote(
        "the largest summed value, calibrated on other problems",
        calibrated_vote,
        needs=("calibrated",),
        weights=lambda ballots: ballots.calibrated,
    ),
    "Borda": Vote(
        "the largest sum of (N - rank + 1)^p, ranked by self-certainty",
        borda_vote,
        needs=("confidences",),
        number=Number("p", 0, 100),
    ),
    **{
        f"DeepConf-{of}": Vote(
            f"the largest sum of {what} among the surest `keep` per cent",
            partial(confidence_vote, of=of),
            needs=("confidences",),
            number=Number("keep", 1, 100),
        )
        for of, what in _CONFIDENCES.items()
    },
}
"""Aggregations by name."""

DEFAULT_VOTES = ("MV", "WMV", "BoN", "pass@1", "pass@k")
"""Those of every table; the others have to be named."""

ALL_VOTES = "all"
"""Names all votes whose features are there."""


def known_votes() -> str:
    """Returns the names of all votes for messages, with the number that may stand behind each."""
    return ", ".join(
        f"{name}[{vote.number.name}]" if vote.number else name for name, vote in VOTES.items()
    )


def find_vote(name: str) -> Vote:
    """Returns the vote of a name, with the number behind it if there is one: `PV`, `PV0.25`.

    Raises:
        ValueError: If there is none; lists those that there are.
    """
    if name in VOTES:
        return VOTES[name]
    base, digits = re.fullmatch(r"(.*?)([0-9]*\.?[0-9]*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    vote = VOTES.get(base)
    if vote is None or vote.number is None or not digits.strip("."):
        raise ValueError(f"there is no vote {name!r}; known: {known_votes()}")
    number, value = vote.number, float(digits)
    if not number.least <= value <= number.most:
        raise ValueError(
            f"{name!r}: {number.name} must be from {number.least:g} to {number.most:g}"
        )
    return replace(vote, accuracy=partial(vote.accuracy, **{number.name: value}))


def lack(name: str, features: Collection[str]) -> str | None:
    """Returns which feature a vote lacks, a sentence; None if they are all there.

    Args:
        name: Name of the vote, see `find_vote`.
        features: Keys of `FEATURES` that are there.

    Raises:
        ValueError: If there is no such vote.
    """
    lacking = find_vote(name).lacks(features)
    return f"{name} needs {FEATURES[lacking[0]]}, which the responses lack" if lacking else None


def check_names(names: Iterable[str]) -> None:
    """Raises ValueError, see `find_vote`, unless all are names of votes, or `all`."""
    for name in names:
        if name != ALL_VOTES:
            find_vote(name)


def choose_votes(names: Iterable[str], features: Collection[str]) -> list[str]:
    """Returns the default votes whose features are there, and those that are named.

    Args:
        names: Names, see `find_vote`, or `all`.
        features: Keys of `FEATURES` that all responses have.

    Raises:
        ValueError: If a named vote is none, or its features are not there.
    """
    chosen = [name for name in DEFAULT_VOTES if not VOTES[name].lacks(features)]
    for name in names:
        if name == ALL_VOTES:
            chosen += [name for name, vote in VOTES.items() if not vote.lacks(features)]
        elif lacking := lack(name, features):
            raise ValueError(lacking)
        else:
            chosen.append(name)
    return list(dict.fromkeys(chosen))
