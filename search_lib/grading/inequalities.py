r"""Inequalities in one variable as intervals: `-x>-1`, `-3<2x+1\le 5`, `|x-1|<2`."""

import re
from collections.abc import Hashable, Sequence

from search_lib.grading.expressions import evaluate
from search_lib.grading.limits import Unreadable
from search_lib.grading.values import (
    Value,
    add,
    is_constant,
    is_positive,
    key,
    linear_root,
    negative,
)

Interval = tuple[str, str, tuple[Hashable, Hashable]]
"""The key of an interval: "brackets", its two brackets, its two ends."""

_End = tuple[Hashable, str]
_FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le"}
_BARS = re.compile(r"(?:\||\\lvert)([^|]*)(?:\||\\rvert)")


def without_bars(parts: Sequence[str], signs: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    r"""Returns `|E|<c` as `-c<E<c`, and `|E|>c` as two inequalities, `E<-c` and `E>c`.

    Anything else comes back as it is.
    """
    parts, signs = list(parts), list(signs)
    if len(parts) == 2 and signs[0] in _FLIPPED:
        if _BARS.fullmatch(parts[1]):
            parts, signs = parts[::-1], [_FLIPPED[signs[0]]]
        bars = _BARS.fullmatch(parts[0])
        bound = _constant(parts[1]) if bars else None
        if bars and bound is not None and is_positive(bound):
            inside, less = bars[1], f"-({parts[1]})"
            if signs[0] in ("<", "le"):
                return [([less, inside, parts[1]], signs * 2)]
            return [([inside, less], [_FLIPPED[signs[0]]]), ([inside, parts[1]], signs)]
    return [(parts, signs)]


def _constant(text: str) -> Value | None:
    try:
        value = evaluate(text).value
    except Unreadable:
        return None
    return value if is_constant(value) else None


def solve(parts: Sequence[str], signs: Sequence[str]) -> tuple[str, Interval] | None:
    """Returns the variable and the interval of one or two linear inequalities, if they are such.

    Args:
        parts: The two or three sides.
        signs: "<", ">", "le" or "ge" between them.
    """
    if len(parts) > 3 or not set(signs) <= _FLIPPED.keys():
        return None
    sides = [evaluate(part) for part in parts]
    names = frozenset[str]().union(*(side.names for side in sides))
    if len(names) != 1:
        return None
    (name,) = names
    low: _End = (("infinity", True), "(")
    high: _End = (("infinity", False), ")")
    bounds = []
    for left, sign, right in zip(sides, signs, sides[1:], strict=False):
        difference = add(left.value, negative(right.value))
        root = linear_root(difference, name)
        if root is None:
            return None
        rises, point = root
        is_upper = (sign in ("<", "le")) == rises
        bounds.append(is_upper)
        if is_upper:
            high = (key(point), "]" if sign in ("le", "ge") else ")")
        else:
            low = (key(point), "[" if sign in ("le", "ge") else "(")
    if len(bounds) != len(set(bounds)):
        return None
    return name, ("brackets", low[1] + high[1], (low[0], high[0]))
