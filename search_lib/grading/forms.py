r"""Normal forms of answers: what an answer means, as something that can be compared exactly.

`read` turns an answer into a `Form`, `same` compares two of them. The rules:

- Numbers and expressions are the same when their values are, exactly: `1/3` is not 0.333333.
- A unit or noun from a list may be left out where it is the only one and stands behind a number or
  an amount; two different ones differ. A percent sign is a unit, so 50% is 50 and not 0.5. Without
  `\text` only words and a few abbreviations are units: `2mg` is a product.
- The name of what was asked for may be left out: `x=5`, `f(x)=5` and `x\in\{5\}` are 5, but
  `y=5` is not `x=5`, and `2x+z=1` is no side of itself.
- A list (`1,2`, "1 and 2", `1\pm 2`) has no order, but keeps repeated members. `\{1,1,2\}` is the
  list `1,2`. In brackets the order counts: `(1,2)` is a point or an interval, and no list, unless
  its members are all the same.
- Linear inequalities of one variable, `|x-1|<2` and set-builders are their intervals.
- Of `\frac13\approx 0.33` the exact side counts.
- Words are compared as words, without case and punctuation.
"""

import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from search_lib.grading.expressions import evaluate
from search_lib.grading.inequalities import solve, without_bars
from search_lib.grading.latex_tokens import GREEK
from search_lib.grading.limits import MAX_CHARS, TooLarge, Unreadable, limited_work, spend
from search_lib.grading.parts import is_deep, split_top_level, strip_group, words_as_commas
from search_lib.grading.quantities import read_infinity, read_quantity
from search_lib.grading.spelling import clean
from search_lib.grading.times import read_time
from search_lib.grading.values import (
    Value,
    add,
    is_constant,
    is_positive,
    key,
    negative,
    ratio_key,
)

_NAME = re.compile(
    r"(?:[A-Za-z]|[A-Z]{2,3}|(?:m\s*)?\\angle\s*[A-Z]{1,3}|\\(?P<greek>[A-Za-z]+)"
    r"|\\(?:vec|bar|hat|dot|ddot|text|mathbf)\s*\{[A-Za-z]\}|\\overline\s*\{[A-Z]{2}\}"
    r"|\|[A-Z]{2}\|)\s*"
    r"(?:_\s*(?:\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}|\\?\w+?)\s*)?'*\s*(?P<arguments>(?:\^\s*\{?\s*-1\s*\}?\s*)?\([^()]*\))?"
)
_ORDER = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z])|<=?|>=?")
_BUILDER = re.compile(r"(?:\\mid(?![A-Za-z])|\||:)")
_MATRIX = re.compile(
    r"\\begin\s*\{([pbvBV]?matrix|array)\}(?:\s*\{[lcr|]*\})?(.*)\\end\s*\{\1\}", re.DOTALL
)
_MATRIX_IN_BARS = re.compile(r"([(\[|])\s*(\\begin\s*\{.*\})\s*[)\]|]", re.DOTALL)
_ROW_END = re.compile(r"\\\\(?:\s*\[[\d.]+[a-z]+\])?")
_REALS = re.compile(r"\\mathbb\s*(?:R|\{\s*R\s*\})|\\R")
_NOT_ARITHMETIC = re.compile(  # dots, cross products
    r"\\[lc]?dots(?![A-Za-z])|\.\.\."
    r"|\\(?:vec|overrightarrow)(?![A-Za-z]).*\\times"
)
_NUMBERS_IN_TEXT = re.compile(r"\\text\s*\{\s*((?:[A-Za-z]\s*=\s*)?[-+]?\d[^{}\\]*)\}")
_RESIDUE = re.compile(
    r"(.*?)\s*(?:\\pmod\s*\{?|\(\s*(?:\\(?:bmod|mod)|(?:\\text\s*\{\s*)?mod\s*\}?)\s*\{?)"
    r"\s*(\d+)\s*\}?\s*\)?"
)
_WORDS = re.compile(r"[A-Za-z0-9 ,.;:'\"!?()/&-]*")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?|[-/:&]")

_INTEGER = re.compile(r"-?[0-9]+")
_OR = re.compile(r"(?<![A-Za-z])or(?![A-Za-z])|\\(?:lor|vee)(?![A-Za-z])")


@dataclass(frozen=True)
class Form:
    """The meaning of an answer, as a key that can be compared.

    Attributes:
        key: Equal keys mean the same, up to unit and name.
        unit: The one unit or noun of all its numbers; empty without one.
        name: The one name of all its values; empty without one.
        equation: What two equations of the same curve have in common; None if it is none.
        is_words: Whether it is words that nothing but the same words can be equal to.
    """

    key: Hashable
    unit: str = ""
    name: str = ""
    equation: Hashable = None
    is_words: bool = False


def same(left: Form, right: Form) -> bool:
    """Returns whether two answers mean the same; units and names may be missing on one side."""
    if left.unit and right.unit and left.unit != right.unit:
        return False
    if left.equation is not None and left.equation == right.equation:
        return True
    if left.name and right.name and left.name != right.name:
        return False
    return left.key == right.key


@lru_cache(maxsize=8192)
def read(text: str) -> Form | None:
    """Returns the normal form of an answer, or None if it has none."""
    if len(text) > MAX_CHARS:
        return None
    cleaned = clean(text)
    if not cleaned:
        return None
    if len(cleaned) > MAX_CHARS or is_deep(cleaned) or _NOT_ARITHMETIC.search(cleaned):
        return _as_written(cleaned)
    try:
        with limited_work():
            return _read_list(cleaned)
    except TooLarge:
        return _as_written(cleaned)
    except Unreadable:
        return _read_words(cleaned)


def has_words(text: str) -> bool:
    r"""Returns whether an answer has words in it, beside commands, subscripts and functions."""
    cleaned = re.sub(r"_\s*(?:\{[^{}]*\}|\\text\s*\{[^{}]*\})", " ", clean(text[:MAX_CHARS]))
    return re.search(r"\\text\s*\{[^{}]*[^\W\d_]{2}|(?<![A-Za-z\\])[a-z]{4,}", cleaned) is not None


def _as_written(text: str) -> Form:
    """The form of what is not evaluated: only the same text is the same."""
    return Form(("as written", re.sub(r"\s+(?![A-Za-z])|(?<![A-Za-z])\s+", "", text)))


def _read_words(text: str) -> Form | None:
    r"""Words, in `\text` or not, with numbers among them: `Monday`, `\text{4:30 p.m.}`."""
    plain = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)
    plain = re.sub(r"\b([A-Za-z])\.\s?(?=[A-Za-z]\b)", r"\1", plain.lower())
    if not _WORDS.fullmatch(plain) or not re.search(r"[A-Za-z]{2}|:", plain):
        return None
    words = _WORD.findall(re.sub(r"(\d)\s*([ap]m)\b", r"\1 \2", plain))
    return Form(("words", tuple(words)), is_words=True) if words else None


# Lists and sets -----------------------------------------------------------------------------------


def _read_list(text: str) -> Form:
    spend(5 + len(text) / 2)
    if in_text := _NUMBERS_IN_TEXT.fullmatch(text):
        return _read_list(in_text[1])
    parts = split_top_level(words_as_commas(text), ",;")
    if len(parts) == 1:
        return _read_item(text)
    forms = [_read_item(part) for part in parts if part]
    names = {form.name for form in forms}
    if _OR.search(text) and len(names) == 1 and names != {""} and all(map(_is_interval, forms)):
        return Form(("union", frozenset(form.key for form in forms)), name=max(names))
    return _combine(forms)


def _read_item(text: str) -> Form:
    text = text.strip()
    if _INTEGER.fullmatch(text):  # lists may be long
        spend(5)
        return Form(Fraction(int(text)))
    spend(20 + len(text) / 4)
    time = read_time(text)
    if time is not None:
        return Form(time, is_words=True)
    residue = _RESIDUE.fullmatch(text)
    if residue:
        remainder = residue[1].replace(r"\equiv", "=")
        return replace(_read_item(remainder), unit=f"mod {residue[2]}")
    if re.search(r"\\(?:pm|mp)(?![A-Za-z])", text):
        plus = re.sub(r"\\pm(?![A-Za-z])", "+", re.sub(r"\\mp(?![A-Za-z])", "-", text))
        minus = re.sub(r"\\pm(?![A-Za-z])", "-", re.sub(r"\\mp(?![A-Za-z])", "+", text))
        return _combine([_read_list(plus), _read_list(minus)])
    text = re.sub(r"^(?:(?:=|\\approx(?![A-Za-z]))\s*)+", "", text)
    exact, approximately, rounded = re.split(r"(\\approx)(?![A-Za-z])|$", text, maxsplit=1)[:3]
    if approximately:  # the exact value counts, unless there is only a name for it
        return _read_item(f"{exact}={rounded}" if _is_name(exact) else exact)
    bars, matrix = _MATRIX_IN_BARS.fullmatch(text), _MATRIX.fullmatch(text)
    if bars:
        matrix = _MATRIX.fullmatch(bars[2])
    if matrix:
        rows = [row for row in _ROW_END.split(matrix[2]) if row.strip()]
        cells = tuple(tuple(_read_item(cell).key for cell in row.split("&")) for row in rows)
        is_determinant = matrix[1] == "vmatrix" or (bars is not None and bars[1] == "|")
        return Form(("matrix", is_determinant, cells))
    if re.search(r"\\in(?![A-Za-z])", text) and not text.startswith(r"\{"):
        name, _, rest = re.split(r"(\\in(?![A-Za-z]))", text, maxsplit=1)
        if not (_is_name(name) or _is_point(name)) or re.search(r"\\in(?![A-Za-z])", rest):
            raise Unreadable(text)
        return _named(_read_list(rest), name)
    if len(split_top_level(text, "=")) > 1:
        return _read_equation(split_top_level(text, "="))
    if _ORDER.search(text) and not text.startswith(r"\{"):
        return _read_inequality(text)
    return _read_set_or_value(text)


def _combine(forms: list[Form]) -> Form:
    r"""The list of several values; of lists in it, such as `\pm 2`, the members."""
    if not forms:
        raise Unreadable("commas alone")
    units = {form.unit for form in forms} - {""}
    names = {form.name for form in forms} - {""}
    if len(units) > 1:
        forms = [replace(form, key=("with unit", form.unit, form.key)) for form in forms]
    if len(names) > 1 and not _all_same(forms):
        forms = [replace(form, key=("named", form.name, form.key)) for form in forms]
    if len({form.is_words for form in forms}) > 1:
        raise Unreadable("words among numbers")
    members: list[Hashable] = []
    for form in forms:
        members.extend(_members(form.key))
    return Form(
        _list_key(members),
        unit=max(units) if len(units) == 1 else "",
        name=max(names) if len(names) == 1 else "",
    )


def _all_same(forms: list[Form]) -> bool:
    return len({form.key for form in forms}) == 1


def _members(form_key: Hashable) -> list[Hashable]:
    if isinstance(form_key, tuple) and form_key[:1] == ("list",):
        return [member for member, count in form_key[1] for _ in range(count)]
    return [form_key]


def _list_key(members: list[Hashable]) -> Hashable:
    """A list has no order; one of a single member is that member."""
    if len(members) == 1:
        return members[0]
    return ("list", frozenset(Counter(members).items()))


def _read_set_or_value(text: str) -> Form:
    spend(5 + len(text) / 2)
    if text == r"\emptyset":
        return Form(("list", frozenset()))
    if _REALS.fullmatch(text):
        return Form(("brackets", "()", (("infinity", True), ("infinity", False))))
    parts = re.split(r"\\cup(?![A-Za-z])", text)
    if len(parts) > 1:
        forms = [_read_set_or_value(part.strip()) for part in parts]
        pieces: dict[Hashable, None] = {}
        for form in forms:
            pieces.update(dict.fromkeys([form.key] if _is_interval(form) else _members(form.key)))
        if len(pieces) > 1 and any(map(_is_interval, forms)):
            return Form(("union", frozenset(pieces)))
        return Form(_list_key(list(pieces)))
    inside = strip_group(text, r"\{", r"\}")
    if inside is not None:
        return _read_set(inside)
    inside = strip_group(text, "{", "}")
    if inside is not None:
        return _read_list(inside)
    if text[:1] in ("(", "["):
        brackets = _read_brackets(text)
        if brackets is not None:
            return brackets
    quantity = read_quantity(text)
    return Form(quantity.key, unit=quantity.unit)


def _read_set(text: str) -> Form:
    if not text.strip():
        return Form(("list", frozenset()))
    builder = _BUILDER.split(text, maxsplit=1)
    if len(builder) == 2 and not re.search(r"\|.*\|", text):
        name, _, domain = re.split(r"(\\in(?![A-Za-z]))|$", builder[0], maxsplit=1)[:3]
        form = _read_list(builder[1].strip())
        if not _is_name(name) or form.name not in ("", _spelled(name)) or not _is_interval(form):
            raise Unreadable(text)
        if domain and not _REALS.fullmatch(domain.strip()):
            return Form(("of", re.sub(r"[\s{}]", "", domain), form.key))
        return replace(form, name="")
    form = _read_list(text)
    return replace(form, key=_list_key(list(dict.fromkeys(_members(form.key)))))


def _is_interval(form: Form) -> bool:
    return isinstance(form.key, tuple) and form.key[0] in ("brackets", "union")


def _read_brackets(text: str) -> Form | None:
    """A point, an interval, or None for a value in brackets."""
    inside = strip_group(text, text[0], ")]")
    if inside is None:
        return None
    parts = split_top_level(inside, ";")
    if len(parts) == 1:
        parts = split_top_level(inside, ",")
    if len(parts) == 1:
        if text[0] + text[-1] != "()":
            return None
        return _read_list(inside)
    forms = [_read_end(part) for part in parts]
    units = {form.unit for form in forms}
    if len(units) > 1:
        forms = [replace(form, key=("with unit", form.unit, form.key)) for form in forms]
    if len({form.key for form in forms}) == 1 and text[0] + text[-1] == "()":
        return replace(_combine(forms), name="")
    brackets = ("brackets", text[0] + text[-1], tuple(form.key for form in forms))
    return Form(brackets, unit=max(units) if len(units) == 1 else "")


def _read_end(text: str) -> Form:
    infinity = read_infinity(text)
    return _read_item(text) if infinity is None else Form(infinity)


# Equations and inequalities -----------------------------------------------------------------------


def _read_equation(parts: list[str]) -> Form:
    """`x=5` is 5 with a name, a chain of equal constants is their value, others are curves."""
    if not all(part.strip() for part in parts):
        raise Unreadable("=")
    names = [re.sub(r"\\text|[\s{}]", "", part) for part in parts]
    if all(re.fullmatch("[A-Z]{1,5}", name) for name in names) and max(map(len, names)) > 1:
        return Form(("same", frozenset(names)))  # of economics: MR = MC
    first = parts[0].strip()
    if not _is_name(first) and len(parts) == 2 and _is_name(parts[1]):
        return _read_equation([parts[1], first])  # 5=x
    if _is_name(first) or _is_point(first):
        forms = [_read_item(part) for part in parts[1:]]
        if len({form.key for form in forms}) > 1:
            raise Unreadable("=")
        name = _NAME.fullmatch(first)
        equation = None
        if len(parts) == 2 and name is not None and not name["arguments"]:
            equation = _curve(parts)
        return replace(_named(forms[-1], first), equation=equation)
    values = [evaluate(part).value for part in parts]
    if len({key(value) for value in values}) == 1 and all(map(is_constant, values)):
        return Form(key(values[0]))
    equation = _curve(parts)
    return Form(equation, equation=equation)


def _curve(parts: list[str]) -> Hashable:
    try:
        values = [evaluate(part).value for part in parts]
    except Unreadable:
        return None
    differences = [_difference(value, values[0]) for value in values[1:]]
    return ("equation", frozenset(ratio_key(difference) for difference in differences))


def _difference(left: Value, right: Value) -> Value:
    return add(left, negative(right))


def _is_name(text: str) -> bool:
    match = _NAME.fullmatch(text.strip())
    return match is not None and (match["greek"] is None or match["greek"] in GREEK | {"pi"})


def _is_point(text: str) -> bool:
    inside = strip_group(text.strip(), "(", ")")
    return inside is not None and "," in inside


def _spelled(name: str) -> str:
    name = re.sub(r"\\(?:text|mathbf|vec|overline)(?![A-Za-z])|[\s{}|]", "", name)
    # f(x) is f, but f(2) is no f(3), and P(A) no P(B)
    return re.sub(r"(?<=\w)\((?:[a-z,]|\\[a-z]+)*\)$", "", name)


def _named(form: Form, name: str) -> Form:
    return replace(form, name=_spelled(name))


def _read_inequality(text: str) -> Form:
    signs = [_sign(sign) for sign in _ORDER.findall(text)]
    parts = [part.strip() for part in _ORDER.split(text)]
    if not all(parts) or ("ne" in signs and len(parts) > 2):
        raise Unreadable(text)
    pieces = without_bars(parts, signs)
    if len(pieces) > 1:
        forms = [_interval(*piece) or _linear_interval(*piece) for piece in pieces]
        if all(forms) and len({form.name for form in forms if form}) == 1:
            keys = frozenset(form.key for form in forms if form)
            return Form(("union", keys), name=forms[0].name if forms[0] else "")
    parts, signs = pieces[0] if len(pieces) == 1 else (parts, signs)
    interval = _interval(parts, signs) or _linear_interval(parts, signs)
    if interval is not None:
        return interval
    if len(parts) == 2:
        difference = _difference(evaluate(parts[0]).value, evaluate(parts[1]).value)
        sign = signs[0]
        if sign != "ne" and not is_positive(difference):
            sign = {"<": ">", ">": "<", "le": "ge", "ge": "le"}[sign]
        return Form(("inequality", sign, ratio_key(difference)))
    if {sign[0] for sign in signs} <= {">", "g"}:
        parts.reverse()
        signs = [{">": "<", "ge": "le"}[sign] for sign in reversed(signs)]
    return Form(("chain", tuple(signs), tuple(key(evaluate(part).value) for part in parts)))


def _linear_interval(parts: list[str], signs: list[str]) -> Form | None:
    solution = solve(parts, signs)
    return None if solution is None else Form(solution[1], name=_spelled(solution[0]))


def _sign(text: str) -> str:
    return {"<=": "le", ">=": "ge"}.get(text, text.lstrip("\\"))


def _interval(parts: list[str], signs: list[str]) -> Form | None:
    r"""The interval of a variable between or beside constants: `0\le x<1`, `3>x`."""
    names = [part for part in parts if _is_name(part)]
    if len(names) != 1 or len(parts) > 3 or (len(parts) == 3 and parts[1] != names[0]):
        return None
    if len({sign[0] in "<l" for sign in signs}) > 1 or "ne" in signs:
        return None
    ends = [None if part == names[0] else _read_end(part).key for part in parts]
    if signs[0] in (">", "ge"):
        ends.reverse()
        signs = list(reversed(signs))
    if len(ends) == 2:
        low_open = ends[0] is None
        ends = (
            [("infinity", True), None, ends[1]]
            if low_open
            else [ends[0], None, ("infinity", False)]
        )
        signs = ["<", signs[0]] if low_open else [signs[0], "<"]
    left = "[" if signs[0] in ("le", "ge") else "("
    right = "]" if signs[1] in ("le", "ge") else ")"
    return Form(("brackets", left + right, (ends[0], ends[2])), name=_spelled(names[0]))
