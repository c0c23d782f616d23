r"""The rules of OpenR1-Cleaned, each a function of one row.

A row has the columns of OpenR1-Math-220k; `problem`, `solution`, `answer` and `question_type` are
read, and a missing or null one counts as empty. The published data set keeps problems with exactly
one parseable boxed answer that can be verified automatically, and removes multiple choice,
multi-part questions, links, images, proofs and ambiguous ones. Its filters were not published;
these are ours. A rule returns the passage that it objects to, so that a reader of the report can
judge it, and None to keep a problem, also where it can't tell. The first line of its docstring says
in the report what it objects to.

What is *one boxed answer*? Responses are graded against the column `answer`. `solution` often has
no box although that column is filled with the end of its text; so a solution without a box is fine.
Where it has boxes, they must say one thing, and the same as the column: several ways to solve a
problem that all box one number are fine, a box for every part of a question, or for a step on the
way, is not. The boxes in `generations` are a model's, so they aren't read.

All patterns take time linear in the length of the text.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from data_prep.cleaning.filters.answers import (
    alternative_answers,
    approximate_answer,
    contradicting_box,
    missing_answer,
    point_names,
    several_boxed_answers,
    several_quantities,
    text_answer,
    undetermined_answer,
    unverifiable_answer,
    yes_no_answer,
)
from data_prep.cleaning.filters.pictures import has_image, has_link
from data_prep.cleaning.filters.problems import (
    broken_latex,
    incomplete_problem,
    missing_problem,
    multi_part,
    multiple_choice,
    not_text,
    proof,
    translation_note,
)
from data_prep.cleaning.filters.rows import Row, Rule
from search_lib.grading import Grader

READ_COLUMNS = ("problem", "solution", "answer", "question_type")

TEXT_RULES: tuple[Rule, ...] = (
    not_text,
    missing_problem,
    proof,
    missing_answer,
    multiple_choice,
    multi_part,
    has_link,
    has_image,
    broken_latex,
    incomplete_problem,
    translation_note,
    undetermined_answer,
    yes_no_answer,
    approximate_answer,
    alternative_answers,
    several_quantities,
    point_names,
    text_answer,
)
"""Rules that look at the text of one row, in the order in which they are applied."""

GRADER_RULES: tuple[Callable[[Sequence[Row], Grader], list[str | None]], ...] = (
    unverifiable_answer,
    several_boxed_answers,
    contradicting_box,
)
"""Rules that need math-verify, applied after the others: to many rows, to keep its workers busy."""


class Finding(NamedTuple):
    """The reason why a row is left out.

    Attributes:
        rule: Name of the function that objects.
        passage: The passage that it objects to; may be empty.
    """

    rule: str
    passage: str


def find_faults(rows: Sequence[Row], grader: Grader) -> list[Finding | None]:
    """Returns for each row the first rule that objects to it; None for a row to keep.

    Raises:
        RuntimeError: If the grader's workers cannot start.
    """
    findings = [_first_finding(row) for row in rows]
    for rule in GRADER_RULES:
        left = [index for index, finding in enumerate(findings) if finding is None]
        passages = rule([rows[index] for index in left], grader)
        for index, found in zip(left, passages, strict=True):
            if found is not None:
                findings[index] = Finding(rule.__name__, found)
    return findings


def _first_finding(row: Row) -> Finding | None:
    for rule in TEXT_RULES:
        found = rule(row)
        if found is not None:
            return Finding(rule.__name__, found)
    return None
