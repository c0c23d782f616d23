"""References that no answer can be compared with."""

from collections.abc import Sequence

from search_lib.grading.answers import NO_ANSWER_WORDS
from search_lib.grading.grader import Grader


def comparable(references: Sequence[str], grader: Grader) -> list[bool]:
    """Returns for each reference whether an answer can be compared with it.

    The grader must read it, and it must be none of `NO_ANSWER_WORDS`.
    """
    return [
        is_read and reference.strip().casefold() not in NO_ANSWER_WORDS
        for reference, is_read in zip(references, grader.readable(references), strict=True)
    ]
