"""Answer classes of a problem, and the votes that read from them.

Answers are grouped once a problem. Every budget and every aggregation then works on the class
numbers alone. Class 0 is the reference's: a response is correct when its class is 0, so that no
second verdict of a grader can contradict the grouping.
"""

import logging
from collections.abc import Callable, Sequence

from search_lib.grading.answers import parse_integer

logger = logging.getLogger(__name__)

REFERENCE_CLASS = 0

Equivalence = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""Decides for each pair of answers whether they mean the same, e.g. `Grader.equivalent`."""


def group_answers(
    answers: Sequence[str | None], reference: str, equivalent: Equivalence
) -> list[int | None]:
    """Returns the class of each answer: 0 for the reference's, others in order of appearance.

    Which answers share a class does not depend on their order, even if the grader contradicts
    itself. An answer is in class 0 exactly if it is equivalent to the reference. Of the others, two
    are in one class if they are equivalent or a chain of equivalent ones joins them; a warning
    names the first answer that joined two classes. Equal strings and equal integers are compared
    once.

    Args:
        answers: Answers of the responses; None, whose class is None, for one without an answer.
        reference: The reference answer.
        equivalent: The grader.
    """
    spellings: dict[int | str, str] = {}
    for answer in answers:
        if answer is not None:
            spellings.setdefault(_key(answer), answer)
    keys = [key for key in spellings if key != _key(reference)]
    right = equivalent([(reference, spellings[key]) for key in keys]) if keys else []
    class_of_key = {_key(reference): REFERENCE_CLASS}
    class_of_key.update(
        (key, REFERENCE_CLASS) for key, is_right in zip(keys, right, strict=True) if is_right
    )
    wrong = {key: spellings[key] for key in keys if key not in class_of_key}
    for number, component in enumerate(_components(wrong, equivalent), start=1):
        class_of_key.update((key, number) for key in component)
    return [None if answer is None else class_of_key[_key(answer)] for answer in answers]


def _components(spellings: dict[int | str, str], equivalent: Equivalence) -> list[list[int | str]]:
    """Returns the keys of answers that chains of equivalence join, in order of appearance."""
    components: list[list[int | str]] = []
    for key, answer in spellings.items():
        earlier = [other for component in components for other in component]
        pairs = [(spellings[other], answer) for other in earlier]
        found = dict(zip(earlier, equivalent(pairs) if pairs else [], strict=True))
        joined = [members for members in components if any(found[other] for other in members)]
        if len(joined) > 1:
            logger.warning("%r equals answers that differ from each other: one class", answer)
        if joined:
            for component in joined[1:]:
                joined[0].extend(component)
                components.remove(component)
            joined[0].append(key)
        else:
            components.append([key])
    return components


def _key(answer: str) -> int | str:
    integer = parse_integer(answer)
    return answer.strip() if integer is None else integer


def winners(classes: Sequence[int | None], weights: Sequence[float]) -> list[int]:
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
    # Sums of the same weights in another order differ by rounding: that is a tie.
    largest = max(totals.values())
    threshold = largest - 1e-9 * abs(largest)
    return [answer_class for answer_class, total in totals.items() if total >= threshold]


def credit(winning: Sequence[int]) -> float:
    """Returns the accuracy with ties broken at random: 1/k if the reference's class is one of k."""
    return 1.0 / len(winning) if REFERENCE_CLASS in winning else 0.0


def majority_vote(classes: Sequence[int | None], values: Sequence[float]) -> float:
    """Returns the accuracy of the most frequent answer (MV). Values play no part."""
    return credit(winners(classes, [1.0] * len(classes)))


def weighted_majority_vote(classes: Sequence[int | None], values: Sequence[float]) -> float:
    """Returns the accuracy of the answer with the largest summed value (WMV)."""
    return credit(winners(classes, values))


def best_of_n(classes: Sequence[int | None], values: Sequence[float]) -> float:
    """Returns the accuracy of the highest-valued response that has an answer (BoN)."""
    answered = [(value, c) for c, value in zip(classes, values, strict=True) if c is not None]
    if not answered:
        return 0.0
    top = max(value for value, _ in answered)
    best = [answer_class for value, answer_class in answered if value == top]
    return best.count(REFERENCE_CLASS) / len(best)


def pass_at_1(classes: Sequence[int | None], values: Sequence[float]) -> float:
    """Returns the share of correct responses: the accuracy of one drawn at random."""
    return list(classes).count(REFERENCE_CLASS) / len(classes)


def pass_at_k(classes: Sequence[int | None], values: Sequence[float]) -> float:
    """Returns 1 if any response is correct, the accuracy of a perfect vote; else 0."""
    return float(REFERENCE_CLASS in classes)


VOTES: dict[str, Callable[[Sequence[int | None], Sequence[float]], float]] = {
    "MV": majority_vote,
    "WMV": weighted_majority_vote,
    "BoN": best_of_n,
    "pass@1": pass_at_1,
    "pass@k": pass_at_k,
}
"""Aggregations by name: (classes, values) of the responses -> accuracy in [0, 1]."""
