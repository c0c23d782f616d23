"""Answer classes of a problem, and the votes that read from them.

Answers are grouped once a problem. Every budget and every aggregation then works on the class
numbers alone. Class 0 is the reference's: a response is correct when its class is 0, so that no
second verdict of a grader can contradict the grouping.
"""

from collections.abc import Callable, Sequence

from search_lib.grading.answers import parse_integer

REFERENCE_CLASS = 0

Equivalence = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""Decides for each pair of answers whether they mean the same, e.g. `Grader.equivalent`."""


def group_answers(
    answers: Sequence[str | None], reference: str, equivalent: Equivalence
) -> list[int | None]:
    """Returns the class of each answer: 0 for the reference's, others in order of appearance.

    An answer joins the first class whose first member it is equivalent to. Equal strings and
    equal integers are compared once.

    Args:
        answers: Answers of the responses; None, whose class is None, for one without an answer.
        reference: The reference answer.
        equivalent: The grader.
    """
    representatives = [reference]
    class_of_key = {_key(reference): REFERENCE_CLASS}
    classes: list[int | None] = []
    for answer in answers:
        if answer is None:
            classes.append(None)
            continue
        key = _key(answer)
        if key not in class_of_key:
            # One at a time: most answers are of an early class, and an answer that the grader gives
            # up on costs its time limit once.
            for index, other in enumerate(representatives):
                if equivalent([(other, answer)])[0]:
                    class_of_key[key] = index
                    break
            else:
                class_of_key[key] = len(representatives)
                representatives.append(answer)
        classes.append(class_of_key[key])
    return classes


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
    threshold = max(totals.values()) * (1 - 1e-9)
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
