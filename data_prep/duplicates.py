"""Finds problems that are there twice, word for word or nearly.

Two problems are exact duplicates if their normalised texts are equal. They are near duplicates if
they hold the same numbers, single letters, operators, LaTeX commands and words such as "largest" or
"area", in the same order, and the Jaccard similarity of their sets of five-character strings is at
least ``MIN_SIMILARITY``. So 3 + 4 and 3 + 5 are two problems, and so are the largest and the
smallest value. The same problem in other words is not found.

MinHash LSH proposes the candidates: it misses one in twenty pairs at the least similarity, one in
a thousand at 0.9. What it proposes is checked.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH

from data_prep.filters import Finding
from search_lib.grading import Grader

MIN_SIMILARITY = 0.8
SHINGLE = 5  # characters
BANDS, ROWS_PER_BAND = 16, 8

_TEMPLATE = MinHash(num_perm=BANDS * ROWS_PER_BAND)

SIGNATURE_BYTES = 4 * len(_TEMPLATE)

_TOKEN = re.compile(
    r"\d+(?:\.\d+)?|\\[a-z]+|[^\W\d_]+|[+*/^=<>|!]"
    r"|(?<![^\W\d_][^\W\d_])-(?![^\W\d_][^\W\d_])"  # a minus sign, not a hyphen
)
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred thousand million half third quarter once twice double triple thrice "
    "first second fourth fifth sixth seventh eighth ninth tenth last"
)
_DECIDING_WORDS = (
    "not no never odd even prime positive negative nonnegative nonpositive real complex "
    "largest smallest greatest least biggest maximum minimum maximal minimal max min longest "
    "shortest oldest youngest highest lowest more less fewer longer shorter older younger higher "
    "lower above below increasing decreasing increased decreased before after with without "
    "sum difference product quotient ratio remainder area perimeter volume surface radius diameter "
    "circumference height length width depth side angle mean average median mode range "
    "distinct different inscribed circumscribed inside outside acute obtuse right left"
)
_DECIDING = frozenset(f"{_NUMBER_WORDS} {_DECIDING_WORDS}".split())


class Match(NamedTuple):
    """An earlier problem that a problem repeats.

    Args:
        first: position of the earlier one.
        rule: ``exact_duplicate`` or ``near_duplicate``.
    """

    first: int
    rule: str


def deciding_tokens(text: str) -> list[str]:
    """What must be the same, in the same order, in two problems that are one.

    Args:
        text: normalised.
    """
    return [
        token
        for token in _TOKEN.findall(text)
        if not token[0].isalpha() or token in _DECIDING or (len(token) == 1 and token != "a")
    ]


def shingles(text: str) -> set[str]:
    """The strings of ``SHINGLE`` characters in a normalised text; a shorter one is its own."""
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def similarity(one: str, other: str) -> float:
    """Jaccard similarity of two normalised texts, in [0, 1]."""
    left, right = shingles(one), shingles(other)
    return len(left & right) / len(left | right)


def signature(text: str) -> bytes:
    """MinHash of a normalised text, of ``SIGNATURE_BYTES``; costs a third of a millisecond."""
    minhash = _TEMPLATE.copy()
    minhash.update_batch(shingle.encode() for shingle in shingles(text))
    return minhash.hashvalues.astype("<u4").tobytes()


class DuplicateIndex:
    """Problems so far, to find out which of the next ones repeat one of them.

    Holds about 5 kB a problem (the hash tables of the LSH) and its text.
    """

    def __init__(self) -> None:
        self._lsh = MinHashLSH(num_perm=len(_TEMPLATE), params=(BANDS, ROWS_PER_BAND))
        self._exact: dict[bytes, int] = {}
        self._texts: dict[int, str] = {}

    def add(self, position: int, text: str, minhash: bytes) -> Match | None:
        """Adds a problem, unless it repeats an earlier one.

        Args:
            position: greater than those so far.
            text: normalised.
            minhash: its signature.

        Returns:
            The first problem that it repeats; None if it is new.
        """
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
        first = self._exact.get(key)
        if first is not None:
            return Match(first, "exact_duplicate")
        hashes = MinHash(
            hashvalues=np.frombuffer(minhash, "<u4").astype(np.uint32),
            permutations=_TEMPLATE.permutations,
            scheme=_TEMPLATE.scheme,
        )
        deciding = deciding_tokens(text)
        for candidate in sorted(self._lsh.query(hashes)):
            earlier = self._texts[candidate]
            if deciding_tokens(earlier) == deciding and similarity(earlier, text) >= MIN_SIMILARITY:
                # The next one with this very text repeats what this one repeats.
                self._exact[key] = candidate
                return Match(candidate, "near_duplicate")
        self._exact[key] = position
        self._texts[position] = text
        self._lsh.insert(position, hashes, check_duplication=False)
        return None


def judge_duplicates(
    matches: Sequence[Match | None], answers: Sequence[str], grader: Grader
) -> list[Finding | None]:
    """What becomes of problems: the first of several stays, if all have the same answer.

    Where the reference of one that repeats it differs by math-verify, none of them can be trusted,
    and all are left out.

    Args:
        matches: for each problem the earlier one that it repeats.
        answers: the reference of each.
        grader: compares them.
    """
    repeats = [(position, match) for position, match in enumerate(matches) if match is not None]
    equal = grader.equivalent(
        [(answers[match.first], answers[position]) for position, match in repeats]
    )
    conflicts: dict[int, str] = {}  # first -> what its references say
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
