r"""Finds repeated problems: the same text in another layout.

Two problems are exact duplicates if their normalised texts are equal. They are near duplicates if
these are equal but for punctuation, articles, and braces that LaTeX doesn't need. One other word,
name, number or sign makes another problem: "TEPEE" and "THAT" have different numbers of
arrangements, and "is not" asks the opposite of "is". The same problem in other words is not found.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from data_prep.cleaning.filters import Finding
from search_lib.grading import Grader

_BRACED_CHARACTER = re.compile(r"(?<=[\^_])\{(\w)\}")
_COMMA_OF_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DOTS = re.compile(r"\\[lc]?dots(?![a-z])|\.{2,}|…")
_WORD_OR_SIGN = re.compile(
    r"\d+(?:\.\d+)?|(?<!\d)\.\d+|(?<=\d):(?=\d)|\\[a-z]+|[^\W\d_]+"
    r"|(?:(?<=[\d)\]}!])|(?<![^\W\d_])(?<=[^\W\d_]))!"  # a factorial
    r"|(?<![^\W\d_])-|-(?![^\W\d_]{2})"  # a minus sign, not the hyphen of x-axis
    r"|[^\w\s.,;:?!\"-]|_"
)
_ARTICLES = frozenset(("the", "an"))  # "a" may be a variable


class Match(NamedTuple):
    """An earlier problem that a problem repeats.

    Attributes:
        first: Position of the earlier problem.
        rule: `"exact_duplicate"` or `"near_duplicate"`.
    """

    first: int
    rule: str


def words_and_signs(text: str) -> list[str]:
    """Returns what must be equal, in the same order, in two problems that are one.

    Args:
        text: A normalised problem.
    """
    text = _DOTS.sub(" ", _COMMA_OF_THOUSANDS.sub("", _BRACED_CHARACTER.sub(r"\1", text)))
    return [token for token in _WORD_OR_SIGN.findall(text) if token not in _ARTICLES]


class DuplicateFinder:
    """Tells for one problem after the other whether it repeats an earlier one.

    Holds two digests of each new problem, and no text.
    """

    def __init__(self) -> None:
        self._by_text: dict[bytes, int] = {}  # position of the first problem, by its digest
        self._by_words: dict[bytes, int] = {}
        self._num_problems = 0

    def add(self, text: str) -> Match | None:
        """Returns the first problem that this one repeats; None if it is new.

        Args:
            text: A normalised problem.
        """
        position = self._num_problems
        self._num_problems += 1
        digest = _digest(text)
        if digest in self._by_text:
            return Match(self._by_text[digest], "exact_duplicate")
        first = self._by_words.setdefault(_digest(" ".join(words_and_signs(text))), position)
        self._by_text[digest] = first
        return None if first == position else Match(first, "near_duplicate")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def judge_duplicates(
    matches: Sequence[Match | None], answers: Sequence[str], grader: Grader
) -> list[Finding | None]:
    """Returns for each problem why it is left out; None if it stays.

    The first of several stays, if all have the same answer. Where the reference of a problem that
    repeats it differs by math-verify, none of them can be trusted, and all are left out.

    Args:
        matches: For each problem the earlier one that it repeats.
        answers: The reference of each problem.
        grader: Compares the references.
    """
    repeats = [(position, match) for position, match in enumerate(matches) if match is not None]
    equal = grader.equivalent(
        [(answers[match.first], answers[position]) for position, match in repeats]
    )
    conflicts: dict[int, str] = {}  # two references that differ, by the first problem
    for (position, match), same in zip(repeats, equal, strict=True):
        if not same:
            conflicts.setdefault(match.first, f"{answers[match.first]} and {answers[position]}")
    findings: list[Finding | None] = [
        Finding("conflicting_answers", conflicts[position]) if position in conflicts else None
        for position in range(len(matches))
    ]
    for position, match in repeats:
        if match.first in conflicts:
            findings[position] = Finding("conflicting_answers", conflicts[match.first])
        else:
            findings[position] = Finding(match.rule, "")
    return findings
