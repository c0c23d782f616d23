r"""Single values with or without a unit: `5\text{ cm}`, `\$5`, `21^{\text{st}}`, `30^\circ 15'`."""

import re
from collections.abc import Hashable
from fractions import Fraction
from typing import NamedTuple

from search_lib.grading.expressions import evaluate
from search_lib.grading.limits import Unreadable, spend
from search_lib.grading.units import is_bare_unit, read_unit
from search_lib.grading.values import key

_ORDINAL = re.compile(
    r"(\d+)\s*(?:\^\s*)?\{?\s*(?:\\text\s*)?\{?\s*(?:st|nd|rd|th)\s*\}?\s*\}?\s*"
    r"(?:(?:\\text\s*\{)?\s*(?:grade|place|term|day|position)\s*\}?)?"
)
_UNIT_BEHIND = re.compile(
    r"(?P<amount>.*?[\d)}\]!ie])(?P<space>\s*)"
    r"(?P<unit>(?:\\mu\s*)?\\text\s*\{[A-Za-zÅ€£¥₹\\. ].*|\\[%$].*"
    r"|[€£¥₹]|(?:(?<=[\d}])|(?<=[\d}] ))(?P<bare>[A-Za-z]{2,}|Å|per\b)[A-Za-zÅ /^{}\d*.-]*)",
    re.DOTALL,
)
_MONEY = re.compile(
    r"(?P<sign>-?)\s*(?:(?:US|USD)?\s*\\\$|(?P<other>[€£¥₹]))\s*(?P<amount>[\d.].*)", re.DOTALL
)
_MINUTE = r"\s*(?:'|\^\s*\{?\s*\\prime\s*\}?)\s*"
_DEGREES = re.compile(
    rf"(-?)(\d+)\s*\\degree\s*(\d+(?:\.\d+)?){_MINUTE}(?:(\d+(?:\.\d+)?)(?:\"|{_MINUTE}{_MINUTE}))?"
)
_TEMPERATURE = re.compile(
    r"(-?\s*\d+(?:\.\d+)?)\s*\\degree\s*(?:\\text\s*\{\s*([CF])\s*\}|([CF]))", re.DOTALL
)
_INFINITY = re.compile(r"([-+]?)\s*\\infty")
_CHOICE = re.compile(r"\(?\s*(?:\\text\s*\{)?\s*\(?([A-Z])\)?\s*\}?\s*\)?")
_SHORT = "no is in it to of on if up we be he so as at by an or"
_SHORT_WORDS = frozenset(_SHORT.split())


class Quantity(NamedTuple):
    """A value and its unit.

    Attributes:
        key: Equal for equal values.
        unit: Empty without one.
    """

    key: Hashable
    unit: str = ""


def read_quantity(text: str) -> Quantity:
    """Reads a value with or without a unit.

    Raises:
        Unreadable: If it is none.
        TooLarge: If it takes too much work.
    """
    spend(20 + len(text) / 4)
    money = _MONEY.fullmatch(text)
    if money:
        unit = read_unit(money["other"] or "dollar") or ""
        amount = re.sub(r"\s*(?:\\text\s*\{\s*)?(?:dollars?|USD)\s*\}?$", "", money["amount"])
        return _read_value(money["sign"] + amount)._replace(unit=unit)
    ordinal = _ORDINAL.fullmatch(text)
    if ordinal:
        return Quantity(Fraction(int(ordinal[1])), "ordinal")
    degrees = _DEGREES.fullmatch(text)
    if degrees:
        sign, whole, minutes, seconds = degrees.groups()
        angle = Fraction(whole) + Fraction(minutes) / 60 + Fraction(seconds or 0) / 3600
        return Quantity(key(-angle if sign else angle), "degree^1")
    temperature = _TEMPERATURE.fullmatch(text)
    if temperature:
        return _read_value(temperature[1])._replace(
            unit=f"degree {temperature[2] or temperature[3]}"
        )
    behind = _UNIT_BEHIND.fullmatch(text)
    if behind and (not behind["bare"] or is_bare_unit(behind["bare"], bool(behind["space"]))):
        unit = read_unit(behind["unit"]) or ""
        if unit and _has_no_letters(behind["amount"]):
            quantity = _read_value(behind["amount"])
            if not quantity.unit:
                return quantity._replace(unit=unit)
    return _read_value(text)


def _has_no_letters(text: str) -> bool:
    return re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+|\d[eE][+-]?\d", " ", text)) is None


def _read_value(text: str) -> Quantity:
    text = text.strip()
    infinity = read_infinity(text)
    if infinity is not None:
        return Quantity(infinity)
    choice = _CHOICE.fullmatch(text)
    if choice:
        text = choice[1]
    if re.fullmatch(r"[A-Za-z]{3,}|[A-Z]{2,}", text) or text.lower() in _SHORT_WORDS:
        raise Unreadable(text)  # a word or a name, and no product
    expression = evaluate(text)
    return Quantity(key(expression.value), "degree^1" if expression.has_degrees else "")


def read_infinity(text: str) -> Hashable | None:
    """Returns the key of plus or minus infinity, or None if it is something else."""
    match = _INFINITY.fullmatch(text.strip())
    return None if match is None else ("infinity", match[1] == "-")
