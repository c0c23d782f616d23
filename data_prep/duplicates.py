"""Finds problems that are there twice, word for word or nearly.

Two problems are exact duplicates if their normalised texts are equal. They are near duplicates if
they hold the same numbers, single letters, operators, LaTeX commands and words such as "largest" or
"area", in the same order, and the Jaccard similarity of their sets of five-character strings is at
least ``MIN_SIMILARITY``. So 3 + 4 and 3 + 5 are two problems, and so are the largest and the
smallest value. The same problem in other words is not found.

Problems with the same such words in the same order are a group, and only within it is anything
compared. Most groups have one or two problems, which are compared directly. In a large one MinHash
LSH proposes the pairs to compare: it misses one in twenty at the least similarity, and one in
several thousand at 0.9.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from datasketch import MinHash, MinHashLSH

from data_prep.filters import Finding
from search_lib.grading import Grader

MIN_SIMILARITY = 0.8
SHINGLE = 5  # characters
BANDS, ROWS_PER_BAND = 16, 8
SMALL_GROUP = 16  # problems; above that, MinHash is quicker than comparing all

_EMPTY = MinHash(num_perm=BANDS * ROWS_PER_BAND)

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


def min_hash(text: str) -> MinHash:
    """The MinHash of a normalised text's shingles."""
    minhash = _EMPTY.copy()
    minhash.update_batch(shingle.encode("utf-8", "surrogatepass") for shingle in shingles(text))
    return minhash


class _Group:
    """Problems with the same deciding tokens.

    Attributes:
        texts: normalised, by position.
    """

    __slots__ = ("_lsh", "texts")

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self._lsh: MinHashLSH | None = None

    def candidates(self, text: str) -> list[int]:
        """Positions of what may be similar to a text, in order."""
        return list(self.texts) if self._lsh is None else sorted(self._lsh.query(min_hash(text)))

    def add(self, position: int, text: str) -> None:
        """Adds a problem."""
        self.texts[position] = text
        if self._lsh is not None:
            self._lsh.insert(position, min_hash(text))
        elif len(self.texts) > SMALL_GROUP:
            self._lsh = MinHashLSH(num_perm=len(_EMPTY), params=(BANDS, ROWS_PER_BAND))
            for earlier, other in self.texts.items():
                self._lsh.insert(earlier, min_hash(other))


class DuplicateIndex:
    """Problems so far, to find out which of the next ones repeat one of them.

    Holds the text of each problem and half a kB more; 6 kB more in a large group.
    """

    def __init__(self) -> None:
        self._exact: dict[bytes, int] = {}
        self._groups: dict[bytes, _Group] = {}

    def add(self, position: int, text: str) -> Match | None:
        """Adds a problem, unless it repeats an earlier one.

        Args:
            position: greater than those so far.
            text: normalised.

        Returns:
            The first problem that it repeats; None if it is new.
        """
        key = _digest(text)
        first = self._exact.get(key)
        if first is not None:
            return Match(first, "exact_duplicate")
        group = self._groups.setdefault(_digest(" ".join(deciding_tokens(text))), _Group())
        for candidate in group.candidates(text):
            if similarity(group.texts[candidate], text) >= MIN_SIMILARITY:
                # The next one with this very text repeats what this one repeats.
                self._exact[key] = candidate
                return Match(candidate, "near_duplicate")
        self._exact[key] = position
        group.add(position, text)
        return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


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
