"""References that no answer can be compared with."""

from collections.abc import Sequence
from typing import Protocol

from search_lib.grading.answers import NO_ANSWER_WORDS


class Reader(Protocol):
    """What compares answers, as far as references are concerned."""

    def readable(self, answers: Sequence[str]) -> list[bool]:
        """Returns for each whether it can be compared."""
        ...


def comparable(references: Sequence[str], grader: Reader) -> list[bool]:
    """Returns for each reference whether an answer can be compared with it.

    The grader must read it, and it must be none of `NO_ANSWER_WORDS`.
    """
    return [
        is_read and reference.strip().casefold() not in NO_ANSWER_WORDS
        for reference, is_read in zip(references, grader.readable(references), strict=True)
    ]
