r"""How answers are counted: two sets of rules, of which `--answers` names one.

`STRICT` is how this project counts. `PUBLISHED` counts as the published VGS code does, for
comparisons with its tables:

1. A box in a thought that has no end: *strict* no answer, *published* the answer.
2. A response without an answer: *strict* takes no part in votes; *published* is a class of its own,
   which can tie or win, and best-of-n can choose it.
3. The box: *strict* the last with something in it, neighbours are a list; *published* the last
   `\boxed{`, and none if that is not closed.
4. Equal answers: *strict* have one normal form, or math-verify finds the two whole answers equal;
   *published* math-verify, in either order, on whatever it finds in `$...$`, to 5 decimals.
   Right is, *strict*, a member of the reference's class; *published* what equals the reference.
5. A tie: *strict* equal up to rounding; *published* within 1e-5. Of equal values best-of-n takes,
   *strict*, one at random; *published* the first.

In one point `PUBLISHED` differs from that code on purpose: where grader and classes contradict each
other, the code stops, and here a class counts by the share of its responses that are right
(`search_lib.voting.credit`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from run_lib.commands import InputError
from search_lib.grading.answers import Comparison, last_box
from search_lib.grouping import Equivalence, Grouping, group_around_reference, group_pairwise
from search_lib.thoughts import THOUGHT_END, Thoughts

RulesName = Literal["strict", "published"]


@dataclass(frozen=True)
class AnswerRules:
    """One way to count answers.

    Attributes:
        name: Value of `--answers`.
        answer_of: The answer of a response: (its text, the answer in its record) -> answer or None.
        comparison: How a `Grader` compares two answers.
        group: Puts the responses of a problem into classes, and grades them: (answers, reference or
            None, grader).
        is_tie: Whether a class ties with the best one: (largest summed weight, its own) -> bool;
            numbers, or arrays of them.
        best_is_first: Whether best-of-n takes the first of several highest values, instead of one
            of them at random.
    """

    name: RulesName
    answer_of: Callable[[str, str | None], str | None]
    comparison: Comparison
    group: Callable[[Sequence[str | None], str | None, Equivalence], Grouping]
    is_tie: Callable[[Any, Any], Any]
    best_is_first: bool


STRICT = AnswerRules(
    name="strict",
    answer_of=lambda text, recorded: recorded,
    comparison="strict",
    group=group_around_reference,
    # Sums of the same weights in another order differ by rounding: that is a tie.
    is_tie=lambda largest, total: total >= largest - 1e-9 * abs(largest),
    best_is_first=False,
)

PUBLISHED = AnswerRules(
    name="published",
    answer_of=lambda text, recorded: last_box(text),  # rules 1 and 3
    comparison="published",  # rule 4
    group=group_pairwise,  # rules 2 and 4
    is_tie=lambda largest, total: largest - total <= 1e-5,  # rule 5
    best_is_first=True,  # rule 5
)

ANSWER_RULES: dict[str, AnswerRules] = {rules.name: rules for rules in (STRICT, PUBLISHED)}


def check_answers(rules: str, answer_format: str, think_tags: str | Sequence[str]) -> None:
    """Raises InputError unless answers of a format, behind these tags, can be counted by rules."""
    if rules != PUBLISHED.name:
        return
    if answer_format != "boxed":
        raise InputError(f"--answers published counts boxes, not --answer_format {answer_format}")
    if Thoughts.of(think_tags).end != THOUGHT_END:
        raise InputError(f"--answers published reads what is behind {THOUGHT_END}, no other tag")
