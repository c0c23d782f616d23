"""Answer classes of a problem. Answers are grouped once; all votes read the numbers of classes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from search_lib.grading.answers import parse_integer

REFERENCE_CLASS = 0

Equivalence = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""Decides for each pair of answers whether they mean the same, e.g. `Grader.equivalent`."""


class Grouping(NamedTuple):
    """Responses of a problem by what they answer.

    Attributes:
        classes: Class of each response; None for one that takes no part in votes.
        correct: Whether each response is right.
        joining: Answers that equal ones of several classes, which they made one.
    """

    classes: list[int | None]
    correct: list[bool]
    joining: Sequence[str] = ()


def group_around_reference(
    answers: Sequence[str | None], reference: str | None, equivalent: Equivalence
) -> Grouping:
    """Groups by `group_answers`; right is class 0, so that no second verdict can contradict it."""
    joining: list[str] = []
    classes = group_answers(answers, reference, equivalent, joining)
    return Grouping(classes, [number == REFERENCE_CLASS for number in classes], joining)


def group_pairwise(
    answers: Sequence[str | None], reference: str | None, equivalent: Equivalence
) -> Grouping:
    """Groups answers among themselves, and grades each of them apart from its class.

    An answer joins the first class whose first answer it equals. Each response without one is a
    class of its own. Where the grader contradicts itself, a class holds right and wrong responses,
    and classes depend on the order of the answers. Equal strings are compared once.

    Args:
        answers: See `group_answers`.
        reference: The reference answer; None if nobody knows it, and nothing is right.
        equivalent: The grader.
    """
    distinct = list(dict.fromkeys(answer for answer in answers if answer is not None))
    right = _equal_to(reference, distinct, equivalent)
    founders: list[str] = []
    founder_of: dict[str, str] = {}
    for answer in distinct:
        found = equivalent([(founder, answer) for founder in founders]) if founders else []
        joined = [founder for founder, is_same in zip(founders, found, strict=True) if is_same]
        founder_of[answer] = joined[0] if joined else answer
        if not joined:
            founders.append(answer)
    numbers: dict[str | int, int] = {}
    classes: list[int | None] = [
        numbers.setdefault(index if answer is None else founder_of[answer], len(numbers))
        for index, answer in enumerate(answers)
    ]
    return Grouping(classes, [answer in right for answer in answers])


def group_answers(
    answers: Sequence[str | None],
    reference: str | None,
    equivalent: Equivalence,
    joining: list[str] | None = None,
) -> list[int | None]:
    """Returns the class of each answer: 0 for the reference's, others in order of appearance.

    Which answers share a class does not depend on their order, even if the grader contradicts
    itself. An answer is in class 0 exactly if it is equivalent to the reference. Of the others, two
    are in one class if they are equivalent or a chain of equivalent ones joins them. Equal strings
    and equal integers are compared once.

    Args:
        answers: Answers of the responses; None, whose class is None, for one without an answer.
        reference: The reference answer; None if nobody knows it, and nothing is right.
        equivalent: The grader.
        joining: Takes the answers that are equivalent to ones of several classes so far, which they
            make one: `5` after `5 cm` and `5 km`.
    """
    spellings: dict[int | str, str] = {}
    for answer in answers:
        if answer is not None:
            spellings.setdefault(_key(answer), answer)
    own = None if reference is None else _key(reference)
    right = _equal_to(reference, [spellings[key] for key in spellings if key != own], equivalent)
    class_of_key = {
        key: REFERENCE_CLASS for key, answer in spellings.items() if key == own or answer in right
    }
    wrong = {key: answer for key, answer in spellings.items() if key not in class_of_key}
    for number, component in enumerate(_components(wrong, equivalent, joining), start=1):
        class_of_key.update((key, number) for key in component)
    return [None if answer is None else class_of_key[_key(answer)] for answer in answers]


def _equal_to(
    reference: str | None, answers: Sequence[str], equivalent: Equivalence
) -> set[str | None]:
    """Returns the answers that equal a reference; none without one."""
    if reference is None or not answers:
        return set()
    verdicts = equivalent([(reference, answer) for answer in answers])
    return {answer for answer, is_right in zip(answers, verdicts, strict=True) if is_right}


def _components(
    spellings: dict[int | str, str], equivalent: Equivalence, joining: list[str] | None
) -> list[list[int | str]]:
    """Returns the keys of answers that chains of equivalence join, in order of appearance."""
    components: list[list[int | str]] = []
    for key, answer in spellings.items():
        earlier = [other for component in components for other in component]
        pairs = [(spellings[other], answer) for other in earlier]
        found = dict(zip(earlier, equivalent(pairs) if pairs else [], strict=True))
        joined = [members for members in components if any(found[other] for other in members)]
        if len(joined) > 1 and joining is not None:
            joining.append(answer)
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
