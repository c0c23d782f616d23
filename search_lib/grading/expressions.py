r"""Expressions in LaTeX or plain text, read by recursive descent straight into their values."""

import re
from fractions import Fraction
from typing import NamedTuple

from search_lib.grading.latex_tokens import (
    ACCENTS,
    FUNCTIONS,
    GREEK,
    OPERATORS,
    as_latex,
    tokens_of,
)
from search_lib.grading.limits import MAX_DEPTH, TooLarge, Unreadable, spend
from search_lib.grading.values import (
    Value,
    add,
    apply,
    divide,
    exact_root,
    factorial,
    floor,
    is_constant,
    mp,
    multiply,
    numbers,
    power,
    variable,
)

_DERIVATIVE = re.compile(
    r"\s*\{\s*d(?:\^\{?\d\}?)?\s*\\?[A-Za-z]*[^()+{}]{0,12}(?:\{\w\})?\s*\}"
    r"\s*\{\s*d\s*\\?[A-Za-z]+(?:\s*\^\s*\{?\d\}?)?\s*\}"
)
_PROPER_FRACTION = re.compile(
    r"\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
    r"|\s+(\d+)\s*/\s*(\d+)(?!\d)"
)
_CIRCULAR = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])


class Expression(NamedTuple):
    """What an expression says.

    Attributes:
        value: Its value.
        has_degrees: Whether degrees stand outside its functions.
        names: What it depends on.
    """

    value: Value
    has_degrees: bool
    names: frozenset[str]


def evaluate(text: str) -> Expression:
    """Reads an expression.

    Raises:
        Unreadable: If the text is none, or has a word in it.
        TooLarge: If it is too deep or takes too much work.
    """
    spend(10 + len(text))
    reader = _Reader(as_latex(text))
    return Expression(reader.read(), reader.degrees, frozenset(reader.names))


class _Reader:
    """Reads one text; a token is (kind, text, where it starts, where it ends)."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = tokens_of(text)
        self.next = 0
        self.depth = 0
        self.in_function = 0
        self.degrees = False
        self.bars = 0
        self.names: set[str] = set()

    def read(self) -> Value:
        value = self._sum()
        if self.next < len(self.tokens):
            raise Unreadable(self.text)
        return value

    def _variable(self, name: str) -> Value:
        self.names.add(name)
        return variable(name)

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.next][:2] if self.next < len(self.tokens) else ("", "")

    def _accept(self, kind: str, *texts: str) -> str:
        found = self._peek()
        if found[0] != kind or found[1] not in texts:
            return ""
        self.next += 1
        return found[1]

    def _expect(self, kind: str, text: str) -> None:
        if not self._accept(kind, text):
            raise Unreadable(self.text)

    def _sum(self) -> Value:
        value = self._product()
        while sign := self._accept("sign", "+", "-"):
            term = self._product()
            value = add(value, term if sign == "+" else multiply(Fraction(-1), term))
        return value

    def _product(self) -> Value:
        sign = Fraction(1)
        while found := self._accept("sign", "+", "-"):
            sign *= 1 if found == "+" else -1
        value = self._mixed_number() or self._power()
        while True:
            if self._accept("sign", "*") or self._accept("command", *OPERATORS):
                value = multiply(value, self._signed_power())
            elif self._accept("sign", "/"):
                value = divide(value, self._signed_power())
            elif self._starts_factor():
                behind_group = self.tokens[self.next - 1][1] in ("}", ")")
                if self._peek()[0] == "number" and not behind_group:  # "2 3" may be anything
                    raise Unreadable(self.text)
                value = multiply(value, self._power())
            else:
                return multiply(sign, value)

    def _signed_power(self) -> Value:
        sign = Fraction(-1 if self._accept("sign", "-") else 1)
        return multiply(sign, self._power())

    def _mixed_number(self) -> Value | None:
        r"""Reads `1\frac{2}{3}` and `1 2/3`: an integer right before a proper fraction."""
        start = self.next
        kind, text = self._peek()
        if kind != "number" or not text.isdigit():
            return None
        match = _PROPER_FRACTION.match(self.text, self.tokens[start][3])
        if match is None:
            return None
        above, below = (int(number) for number in match.groups() if number)
        if not 0 <= above < below:
            return None
        end = match.end()
        self._skip_to(end)
        if self.tokens[self.next - 1][3] > end:  # \frac123 shares a token with what follows
            self.next = start
            return None
        return Fraction(int(text)) + Fraction(above, below)

    def _starts_factor(self) -> bool:
        kind, text = self._peek()
        if kind == "command":
            return text not in ("rfloor", "rceil", "rvert", "mid", "degree")
        if kind == "sign":
            return text in "({[" or (text == "|" and not self.bars)
        return bool(kind)

    def _power(self) -> Value:
        base = self._factor()
        while True:
            if self._accept("sign", "!"):
                base = factorial(base)
            elif self._accept("command", "degree"):
                if self.in_function:
                    base = multiply(base, apply(lambda x: x * mp.pi / 180, Fraction(1)))
                else:
                    self.degrees = True
            elif self._accept("sign", "^"):
                base = power(base, self._argument())
                if self._peek() == ("sign", "^"):
                    raise Unreadable(self.text)
            else:
                return base

    def _argument(self) -> Value:
        """Reads what follows a command: a group, or one digit, letter or command."""
        kind, text = self._peek()
        if (kind, text) == ("sign", "{"):
            return self._group("{", "}")
        if kind == "sign" and text in "-(":
            # 10^-3 and 2^(n+1): not LaTeX, but what is meant.
            if self._accept("sign", "-"):
                return multiply(Fraction(-1), self._factor())
            return self._group("(", ")")
        if kind == "number":
            return self._digit()
        return self._factor()

    def _digit(self) -> Value:
        """Reads the first digit of a number; plain text such as 10^22 has it whole."""
        kind, text, start, end = self.tokens[self.next]
        self.next += 1
        before = self.text[:start].rstrip()
        if len(text) == 1 or before.endswith("^") or not text.isdigit():
            return _number(text)
        self.next -= 1
        self.tokens[self.next] = (kind, text[1:], start + 1, end)
        return _number(text[0])

    def _group(self, left: str, right: str) -> Value:
        self._expect("sign", left)
        bars, self.bars = self.bars, 0
        value = self._sum()
        self._expect("sign", right)
        self.bars = bars
        return value

    def _factor(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLarge
        value = self._factor_inside()
        self.depth -= 1
        return value

    def _factor_inside(self) -> Value:
        kind, text = self._peek()
        if kind == "number":
            return self._number_or_numeral()
        if kind == "letter":
            return self._letter()
        if kind == "sign" and text in ("(", "[", "{"):
            return self._group(text, {"(": ")", "[": "]", "{": "}"}[text])
        if kind == "sign" and text == "|":
            self.next += 1
            self.bars += 1
            value = self._sum()
            self.bars -= 1
            self._expect("sign", "|")
            return apply(abs, value)
        if kind != "command":
            raise Unreadable(self.text)
        return self._command(text)

    def _number_or_numeral(self) -> Value:
        text = self._peek()[1]
        self.next += 1
        if self._peek() == ("sign", "_"):  # of another base: a thing of its own
            return self._variable(text + self._subscript())
        return _number(text)

    def _command(self, name: str) -> Value:
        if name == "frac":
            return self._fraction()
        self.next += 1
        if name == "pi":
            return (mp.mpc(mp.pi),)
        if name in ("lfloor", "lceil"):
            value = self._sum()
            self._expect("command", "r" + name[1:])
            sign = Fraction(1 if name == "lfloor" else -1)
            return multiply(sign, floor(multiply(sign, value)))
        if name == "lvert":
            value = self._sum()
            self._expect("command", "rvert")
            return apply(abs, value)
        if name == "sqrt":
            degree = self._group("[", "]") if self._peek() == ("sign", "[") else Fraction(2)
            return _root(self._argument(), degree)
        if name == "binom":
            above, below = self._argument(), self._argument()
            rest = add(above, multiply(Fraction(-1), below))
            return divide(factorial(above), multiply(factorial(below), factorial(rest)))
        if name in FUNCTIONS:
            return self._function(name)
        if name in ACCENTS:
            return self._variable(f"{name} {self._raw_argument()}{self._marks()}")
        if name == "text":
            return self._text()
        if name in GREEK and name != "infty":
            return self._variable(f"\\{name}{self._marks()}")
        raise Unreadable(name)

    def _text(self) -> Value:
        r"""Reads `\text{A}`: one letter is a symbol, and more of them are a word."""
        content = self._raw_argument()
        if re.fullmatch(r"[A-Za-z]", content):
            return _constant(content) or self._variable(content + self._marks())
        raise Unreadable(content)

    def _fraction(self) -> Value:
        match = _DERIVATIVE.match(self.text, self.tokens[self.next][3])
        self.next += 1
        if match:
            self._skip_to(match.end())
            return self._variable(re.sub(r"[\s{}]", "", match[0]))
        above = self._argument()
        return divide(above, self._argument())

    def _skip_to(self, end: int) -> None:
        while self.next < len(self.tokens) and self.tokens[self.next][2] < end:
            self.next += 1

    def _function(self, name: str) -> Value:
        base = exponent = None
        while True:
            if name == "log" and self._accept("sign", "_"):
                base = self._argument()
            elif self._accept("sign", "^"):
                exponent = self._argument()
            else:
                break
        self.in_function += 1
        value = self._function_argument()
        self.in_function -= 1
        if exponent == Fraction(-1) and name in _CIRCULAR and f"arc{name}" in FUNCTIONS:
            return apply(FUNCTIONS[f"arc{name}"], value)
        e = (mp.mpc(mp.e),)
        result = power(e, value) if name == "exp" else apply(FUNCTIONS[name], value)
        if base is not None:
            result = divide(result, apply(mp.log, base))
        return result if exponent is None else power(result, exponent)

    def _function_argument(self) -> Value:
        r"""Reads a group, or the factors up to the next sign or function: `\sin 2t`."""
        if self._peek() in (("sign", "("), ("sign", "{"), ("sign", "[")):
            return self._power()
        value = self._signed_power()
        while self._starts_factor() and self._peek()[1] not in ("(", "[", *FUNCTIONS):
            if self._peek()[0] == "number":
                raise Unreadable(self.text)
            value = multiply(value, self._power())
        return value

    def _letter(self) -> Value:
        name = self._peek()[1]
        self.next += 1
        marks = self._marks()
        if not marks and (value := _constant(name)) is not None:
            return value
        if self._peek() == ("sign", "(") and (name in "fghFGHP" or self._is_applied(name)):
            return self._unknown_function(name + marks)
        return self._variable(name + marks)

    def _is_applied(self, name: str) -> bool:
        """Returns whether a capital letter stands before a number in parentheses, as in I(0)."""
        kinds = [(token[0], token[1]) for token in self.tokens[self.next + 1 : self.next + 4]]
        number = [kind for kind in kinds if kind != ("sign", "-")][:2]
        is_number = len(number) == 2 and number[0][0] == "number" and number[1] == ("sign", ")")
        return name.isupper() and is_number

    def _unknown_function(self, name: str) -> Value:
        """Reads f(x): nothing is known of f but that it has one value for each argument."""
        degrees = self.degrees
        value = self._group("(", ")")
        self.degrees = degrees
        names = [self._variable(f"{name}({mp.nstr(number, 40)})") for number in numbers(value)]
        if is_constant(value):
            return names[0]
        return tuple(numbers(of_point)[index] for index, of_point in enumerate(names))

    def _marks(self) -> str:
        r"""Reads what belongs to a name: subscripts and primes, `x_{1}'` as `x_1'`."""
        marks = ""
        while True:
            if self._peek() == ("sign", "_"):
                marks += self._subscript()
            elif self._accept("sign", "'"):
                marks += "'"
            elif self._peek() == ("sign", "^") and re.match(
                r"\s*\{?\s*\\prime\b", self.text[self.tokens[self.next][3] :]
            ):
                self.next += 1
                marks += "'" * self._raw_argument().count("prime")
            else:
                return marks

    def _subscript(self) -> str:
        self._expect("sign", "_")
        return "_" + self._raw_argument()

    def _raw_argument(self) -> str:
        """Returns the text of a group, or of one token, without blanks, braces and fonts."""
        if self.next >= len(self.tokens):
            raise Unreadable(self.text)
        kind, text, start, end = self.tokens[self.next]
        self.next += 1
        if (kind, text) == ("command", "text"):
            return self._raw_argument()
        if (kind, text) != ("sign", "{"):
            return text
        depth, first = 1, end
        while depth:
            if self.next >= len(self.tokens):
                raise Unreadable(self.text)
            _, text, start, end = self.tokens[self.next]
            depth += (text == "{") - (text == "}")
            self.next += 1
        return re.sub(r"\\text|[\s{}]", "", self.text[first:start])


def _constant(name: str) -> Value | None:
    if name == "i":
        return (mp.mpc(0, 1),)
    return (mp.mpc(mp.e),) if name == "e" else None


def _number(text: str) -> Value:
    if text.isdigit():
        return Fraction(int(text))
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, decimals = mantissa.partition(".")
    digits = (whole + decimals).lstrip("0") or "0"
    scale = power(Fraction(10), Fraction(int(exponent or 0) - len(decimals)))
    return multiply(Fraction(int(digits)), scale)


def _root(value: Value, degree: Value) -> Value:
    if isinstance(value, Fraction) and isinstance(degree, Fraction) and degree.denominator == 1:
        whole = degree.numerator
        if not 1 <= whole <= 1000:
            raise Unreadable("root")
        if value >= 0:
            root = exact_root(value, whole)
        elif whole % 2:
            return multiply(Fraction(-1), _root(-value, degree))
        else:
            root = None
        if root is not None:
            return root
    return power(value, divide(Fraction(1), degree))
