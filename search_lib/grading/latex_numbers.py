r"""The values of answers that are plainly real numbers: `2\sqrt{3}`, `\frac{3\pi}{4}`, `1.5`.

They show in microseconds, and without sympy, that two answers are far apart. Texts that can be read
in two ways have no value here: mixed numbers, functions, units, letters.
"""

import math
import re

MAX_CHARS = 200
"""Longer texts have no value."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?)|(?P<command>\\(?:[dt]?frac|sqrt|pi|cdot|times))(?![a-zA-Z])"
    r"|(?P<other>[-+*/^{}()\[\]]))"
)
_IGNORED = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,;!]|~")


class _NoNumberError(ValueError):
    """The text is no plain number."""


def plain_value(text: str) -> float | None:
    r"""Returns the value of a text that is plainly a real number; None for anything else.

    It knows decimal numbers, `+ - * / ^ \cdot \times`, brackets, `\frac`, `\sqrt`, `\pi`, and
    products without a sign that can't be mixed numbers.
    """
    if len(text) > MAX_CHARS:
        return None
    try:
        value = _Reader(_IGNORED.sub(" ", text)).read()
    except (_NoNumberError, ArithmeticError, RecursionError, ValueError):
        return None
    return value if math.isfinite(value) else None


class _Reader:
    """Reads one text by recursive descent; a token is (kind, text)."""

    def __init__(self, text: str):
        self.tokens: list[tuple[str, str]] = []
        position = 0
        text = text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _NoNumberError
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind]))
            position = match.end()
        self.next = 0

    def read(self) -> float:
        value = self._sum()
        if self.next < len(self.tokens):
            raise _NoNumberError
        return value

    def _peek(self) -> str:
        return self.tokens[self.next][1] if self.next < len(self.tokens) else ""

    def _take(self, *wanted: str) -> str:
        found = self._peek()
        if found not in wanted or not found:
            raise _NoNumberError
        self.next += 1
        return found

    def _sum(self) -> float:
        value = self._product()
        while self._peek() in ("+", "-"):
            value += self._product() if self._take("+", "-") == "+" else -self._product()
        return value

    def _product(self) -> float:
        if self._peek() in ("+", "-"):
            return self._product() if self._take("+", "-") == "+" else -self._product()
        value = self._power()
        divided = False
        while (sign := self._peek()) and sign not in ("+", "-", ")", "}", "]"):
            if sign in ("*", "\\cdot", "\\times"):
                self.next += 1
                value *= self._power()
            elif sign == "/":
                self.next += 1
                value /= self._power()
                divided = True
            else:
                # `2\frac{1}{2}` may be a sum, `1/2\pi` a half of pi or not, and `2 3` anything.
                is_number = self.tokens[self.next][0] == "number"
                if divided or is_number or sign.endswith("frac"):
                    raise _NoNumberError
                value *= self._power()
        return value

    def _power(self) -> float:
        base = self._factor()
        if self._peek() != "^":
            return base
        self.next += 1
        if self._peek() == "{":
            exponent = self._group("{", "}")
        else:
            # Without braces the exponent is one digit, and -2 is none.
            kind, text = self.tokens[self.next] if self.next < len(self.tokens) else ("", "")
            if kind != "number" or len(text) != 1:
                raise _NoNumberError
            exponent = self._factor()
        if abs(exponent) > 1000 or self._peek() == "^":
            raise _NoNumberError
        value = base**exponent
        if isinstance(value, complex):
            raise _NoNumberError
        return value

    def _factor(self) -> float:
        if self.next >= len(self.tokens):
            raise _NoNumberError
        kind, text = self.tokens[self.next]
        if kind == "number":
            self.next += 1
            return float(text)
        if text in ("(", "["):
            return self._group(text, ")" if text == "(" else "]")
        if text == "{":
            return self._group("{", "}")
        self.next += 1
        if text == "\\pi":
            if self._peek() in ("(", "["):  # read as a function of what follows
                raise _NoNumberError
            return math.pi
        if text == "\\sqrt":
            root = self._group("[", "]") if self._peek() == "[" else 2.0
            radicand = self._group("{", "}")
            if radicand < 0 or root < 1:
                raise _NoNumberError
            return radicand ** (1 / root)
        if text.endswith("frac"):
            above = self._group("{", "}")
            return above / self._group("{", "}")
        raise _NoNumberError

    def _group(self, left: str, right: str) -> float:
        self._take(left)
        value = self._sum()
        self._take(right)
        return value
