r"""Tokens of expressions: commands, names of functions and the spellings that are not LaTeX."""

import re
from collections.abc import Callable
from typing import Any

from search_lib.grading.limits import Unreadable
from search_lib.grading.values import bounded, mp

_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar "
    "ell odot partial nabla aleph triangle angle prime infty"
)
GREEK = frozenset(_GREEK_NAMES.split())
"""Commands that are names, and two that are none but are read with them."""


def _within_bounds(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: function(bounded(x, 1e6))


_PERIODIC = "sin cos tan cot sec csc sinh cosh tanh coth"
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    **{name: _within_bounds(getattr(mp, name)) for name in _PERIODIC.split()},
    **{f"arc{name}": getattr(mp, f"a{name}") for name in ("sin", "cos", "tan", "cot")},
    "exp": mp.exp,
    "ln": mp.log,
    "log": mp.log,
    "lg": lambda x: mp.log(x) / mp.log(10),
}
_ACCENT_NAMES = "dot ddot vec hat bar overline tilde widehat mathbb mathcal mathscr"
ACCENTS = frozenset(_ACCENT_NAMES.split())
OPERATORS = frozenset(["cdot", "times"])
_OTHERS = "frac binom sqrt pi lfloor lceil rfloor rceil degree text lvert rvert mid"
_COMMANDS = frozenset(_OTHERS.split()) | GREEK | FUNCTIONS.keys() | ACCENTS | OPERATORS
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+(?![\d.]*[A-Za-z(\\]))?)"
    r"|\\(?P<command>[A-Za-z]+)|(?P<letter>[A-Za-z])|(?P<sign>[-+*/^_{}()\[\]|!']))"
)
_PLAIN_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(?:np\.|math\.)?"
    r"(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|exp|log|ln|sqrt|pi)"
    r"(?![A-Za-z])"
)
_REPEATING = re.compile(
    r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))(?!\d)(?:(\d*)\\dot\s*\{?(\d)\}?)?"
)
_WORD = re.compile(r"(?<![A-Za-z\\])(?:[a-z]{4,}|[A-Z][a-z]{2,}|[A-Za-z]{5,})(?![A-Za-z])")
_PRODUCTS = re.compile(r"[abcd]+|[wxyz]+|[uvwxyz]+|[mnpqr]+|[A-Z]{2,5}|[A-Z]*[s-z]+[A-Z]*")

# x1 is x_1, but \frac a2 is a half of a.
_LETTER_AND_NUMBER = re.compile(
    r"(?P<command>\\[A-Za-z]+\s*(?:[A-Za-z]\d)?)"
    r"|(?<![A-Za-z\\._^])(?P<letter>(?<!\d)[A-Za-z]|(?<=\d)[A-DF-Za-df-z])(?P<number>\d+)(?![\d.])"
)

Token = tuple[str, str, int, int]
"""Kind, text, and where it starts and ends."""


def as_latex(text: str) -> str:
    r"""Returns a text with `sin(x)` as `\sin (x)`, `x1` as `x_{1}`, `0.\bar 3` as a fraction.

    Raises:
        Unreadable: If there is a word in it.
    """
    text = _REPEATING.sub(_repeating, _PLAIN_FUNCTION.sub(r"\\\1 ", text))
    for word in _WORD.findall(re.sub(r"\\[A-Za-z]+|_\s*(?:\{[^{}]*\}|\w+)", " ", text)):
        if not _PRODUCTS.fullmatch(word):
            raise Unreadable(word)
    return _LETTER_AND_NUMBER.sub(_with_subscript, text).rstrip()


def _with_subscript(match: re.Match[str]) -> str:
    return match["command"] or f"{match['letter']}_{{{match['number']}}}"


def _repeating(match: re.Match[str]) -> str:
    whole, start, period = match[1] or "0", match[2], match[3] or match[4]
    if match[6]:
        period += match[5] + match[6]
    scale = 10 ** len(start)
    above = int(whole + start) * (10 ** len(period) - 1) + int(period)
    return rf"(\frac{{{above}}}{{{scale * (10 ** len(period) - 1)}}})"


def tokens_of(text: str) -> list[Token]:
    r"""Returns the tokens; of an unknown command such as `\pit` the known beginning and the rest.

    Raises:
        Unreadable: If something is none.
    """
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(text[position:])
        kind = match.lastgroup or ""
        token, start, position = match[kind], match.start(kind), match.end()
        if kind == "command":
            while token not in _COMMANDS:
                token, position = token[:-1], position - 1
                if len(token) < 2:
                    raise Unreadable(match[kind])
        tokens.append((kind, token, start, position))
    return tokens
