"""Finds repeated problems, word for word or nearly.

Two problems are exact duplicates if their normalised texts are equal. They are near duplicates if
they hold the same numbers, single letters, operators, LaTeX commands and words such as "largest" or
"area", in the same order, and the Jaccard similarity of their sets of five-character strings is at
least `MIN_SIMILARITY`. So 3 + 4 and 3 + 5 are two problems, and so are the largest and the
smallest value. The same problem in other words is not found.

Problems with the same such words in the same order are a group, and only problems of one group are
compared. Of a group of thousands, most pairs are never looked at: two sets that are that similar
share one of the rarest strings of both (see `_find_similar`), so nothing is missed.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_prep.cleaning.filters import Finding
from search_lib.grading import Grader

MIN_SIMILARITY = 0.8
SHINGLE = 5  # characters

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

    Attributes:
        first: Position of the earlier problem.
        rule: `"exact_duplicate"` or `"near_duplicate"`.
    """

    first: int
    rule: str


def deciding_tokens(text: str) -> list[str]:
    """Returns the tokens that must be equal, in the same order, in two problems that are one.

    Args:
        text: A normalised problem.
    """
    return [
        token
        for token in _TOKEN.findall(text)
        if not token[0].isalpha() or token in _DECIDING or (len(token) == 1 and token != "a")
    ]


def shingles(text: str) -> set[str]:
    """Returns the strings of `SHINGLE` characters in a normalised text; a shorter text whole."""
    return {text[start : start + SHINGLE] for start in range(max(1, len(text) - SHINGLE + 1))}


def similarity(left: set[str], right: set[str]) -> float:
    """Returns the Jaccard similarity of two sets that aren't empty, in [0, 1]."""
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def find_duplicates(texts: Sequence[str]) -> list[Match | None]:
    """Returns for each problem the first one before it that it repeats; None if it is new.

    Holds, besides the texts, a hash of each, and the strings of one group at a time.

    Args:
        texts: Normalised problems.
    """
    first_of: dict[bytes, int] = {}  # position of the first text, by its digest
    groups: dict[bytes, dict[int, str]] = defaultdict(dict)
    for position, text in enumerate(texts):
        if first_of.setdefault(_digest(text), position) == position:
            groups[_digest(" ".join(deciding_tokens(text)))][position] = text
    similar: dict[int, int] = {}
    for group in groups.values():
        if len(group) > 1:
            similar.update(_find_similar(group))
    matches: list[Match | None] = []
    for position, text in enumerate(texts):
        first = first_of[_digest(text)]
        if first != position:
            # Where the earlier problem repeats another one itself, that one is repeated.
            matches.append(Match(similar.get(first, first), "exact_duplicate"))
        elif position in similar:
            matches.append(Match(similar[position], "near_duplicate"))
        else:
            matches.append(None)
    return matches


def _find_similar(texts: Mapping[int, str]) -> dict[int, int]:
    """Returns the position of the first similar problem for each problem that isn't new.

    If two sets have a similarity of at least s, all but a share of 1 - s of the strings of each are
    in both. So in any order of all strings, the first ones of each, that share and one more, have
    a string in common. With the rarest first, few others have it.

    Args:
        texts: Normalised problems of one group by position, in order.
    """
    sets = {position: shingles(text) for position, text in texts.items()}
    frequency = Counter(shingle for of_text in sets.values() for shingle in of_text)
    holders: dict[str, list[int]] = defaultdict(list)  # new ones, by a rare string
    similar: dict[int, int] = {}
    for position, of_text in sets.items():
        by_rarity = sorted(of_text, key=lambda shingle: (frequency[shingle], shingle))
        rare = by_rarity[: int(len(of_text) * (1 - MIN_SIMILARITY) + 1e-9) + 1]
        for candidate in sorted({holder for shingle in rare for holder in holders[shingle]}):
            if similarity(sets[candidate], of_text) >= MIN_SIMILARITY:
                similar[position] = candidate
                break
        else:
            for shingle in rare:
                holders[shingle].append(position)
    return similar


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
