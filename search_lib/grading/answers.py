"""Answers as text: the boxed answer of a response, and the numbers that answers spell out."""

import re
from fractions import Fraction

MAX_INTEGER_DIGITS = 4_000
"""Longest integer read, in digits; Python's own limit for `int` of a string is 4,300."""

# An escaped brace does not nest, so each backslash is read with the character that it escapes. The
# optional second backslash is for models that write \\boxed{...}.
_BRACES = re.compile(r"\\(?:(?P<box>\\?boxed\s*\{)|[\s\S])|[{}]")

_THOUSANDS = re.compile(r"\{,\}|,\\!|\\,")

_RATIONAL = re.compile(
    r"(?P<sign>[+-]?)\s*"
    r"(?:(?P<decimal>[0-9]+\.[0-9]+)|(?P<fraction>\\[dt]?frac\{)?\s*(?P<above>[0-9]+)\s*"
    r"(?(fraction)\}\s*\{|/)\s*(?P<below>[0-9]+)\s*(?(fraction)\}))"
)

_INTEGER = re.compile(r"([+-]?)\s*([0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.0*)?")


def extract_answer(response: str, after: str | None = "</think>") -> str | None:
    r"""Returns the contents of the last complete `\boxed{...}` of a response.

    Braces are matched; a box that is never closed does not count, and of nested boxes the inner one
    is the last. Takes time linear in the length of the response.

    Args:
        response: The whole text that the model wrote.
        after: Only the text after the last occurrence of this mark is read. A response without the
            mark has no answer, because its thought was not finished. None reads the whole text.

    Returns:
        The contents without surrounding whitespace; None if there is no box or the last is empty.
    """
    if after is not None:
        _, mark, response = response.rpartition(after)
        if not mark:
            return None
    boxes = boxed_answers(response)
    return (boxes[-1] or None) if boxes else None


def boxed_answers(text: str) -> list[str]:
    r"""Returns the contents of all complete `\boxed{...}`, in order, of nested ones the inner.

    They come without surrounding whitespace. Takes time linear in the length of the text.
    """
    boxes: list[str] = []
    last_start = -1
    open_braces: list[int] = []  # start of the contents of a box, or -1 for any other brace
    for token in _BRACES.finditer(text):
        if token["box"]:
            open_braces.append(token.end())
        elif token[0] == "{":
            open_braces.append(-1)
        elif token[0] == "}" and open_braces:
            start = open_braces.pop()
            if start > last_start:
                last_start = start
                boxes.append(text[start : token.start()].strip())
    return boxes


def parse_integer(answer: str) -> int | None:
    r"""Returns the integer that an answer spells out, or None if it is anything else.

    Reads ASCII digits with a sign, leading zeros, dollar signs around them, thousands separators in
    proper groups (`1,234`, `1{,}234`, `1,\!234`, `1\,234`) and a fraction of zeros (`33.`, `33.0`).
    Returns None past `MAX_INTEGER_DIGITS` digits.
    """
    text = answer.strip().removeprefix("\\$").strip("$").strip()
    match = _INTEGER.fullmatch(_THOUSANDS.sub(",", text))
    if match is None:
        return None
    digits = match[2].replace(",", "").lstrip("0") or "0"
    if len(digits) > MAX_INTEGER_DIGITS:
        return None
    return int(match[1] + digits)


def parse_rational(answer: str) -> Fraction | None:
    r"""Returns the number that an answer spells out, or None if it is anything else.

    Reads what `parse_integer` reads, decimals (`0.75`) and fractions of integers (`3/4`,
    `\frac{3}{4}`, `\dfrac{3}{4}`, `-\frac{3}{4}`), in dollar signs or not.
    """
    integer = parse_integer(answer)
    if integer is not None:
        return Fraction(integer)
    if len(answer) > MAX_INTEGER_DIGITS:
        return None
    match = _RATIONAL.fullmatch(answer.strip().strip("$").strip())
    if match is None or (match["below"] and not int(match["below"])):
        return None
    number = match["decimal"] or f"{int(match['above'])}/{int(match['below'])}"
    return -Fraction(number) if match["sign"] == "-" else Fraction(number)
