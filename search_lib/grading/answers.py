"""Answers as text: the boxed answer of a response, and the numbers that answers spell out."""

import re
from fractions import Fraction
from typing import Literal, NamedTuple

Comparison = Literal["strict", "published"]
"""How two answers are compared: by normal forms and math-verify on the whole answer, or as the
published code does (`search_lib.grading.published`)."""

MAX_INTEGER_DIGITS = 4_000
"""Longest integer read, in digits; Python's own limit for `int` of a string is 4,300."""

# An escaped brace does not nest, so each backslash is read with the character that it escapes. The
# optional second backslash is for models that write \\boxed{...}.
_BRACES = re.compile(
    r"\\(?:(?P<box>\\?(?:boxed|fbox)\s*\{)"
    r"|\\?(?:boxed|fbox)(?:\s*(?P<number>[-+]?\d+(?:[.,/]?\d)*)|\s+(?P<letter>[A-Za-z])(?![A-Za-z]))"
    r"|[\s\S])|[{}]"
)
_BETWEEN_NEIGHBOURS = re.compile(
    r"(?:[\s$]|\\[)\],;:! ]|\\q?quad\b)*(?:,|;|,?\s*and\b|,?\s*\\text\s*\{\s*,?\s*and\s*\})"
    r"(?:[\s$]|\\[(\[,;:! ]|\\q?quad\b)*"
)
_MAX_BETWEEN = 40

NO_ANSWER_WORDS = frozenset(
    ["null", "none", "nan", "n/a", "not found", "notfound", "unknown", "-", "?"]
)
"""What stands for no answer in the column of references, in small letters."""

_THOUSANDS = re.compile(r"\{,\}|,\\!|\\,")

_RATIONAL = re.compile(
    r"(?P<sign>[+-]?)\s*"
    r"(?:(?P<decimal>[0-9]+\.[0-9]+)|(?P<fraction>\\[dt]?frac\{)?\s*(?P<above>[0-9]+)\s*"
    r"(?(fraction)\}\s*\{|/)\s*(?P<below>[0-9]+)\s*(?(fraction)\}))"
)

_INTEGER = re.compile(r"([+-]?)\s*([0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.0*)?")


class _Box(NamedTuple):
    """Contents of a box, and where the box starts and ends in the text."""

    contents: str
    start: int
    end: int


def extract_answer(response: str, after: str | None = "</think>") -> str | None:
    r"""Returns the boxed answer of a response.

    - A box is `\boxed{...}` or `\fbox{...}`, with its braces matched, or `\boxed 5` with a number
      or a single letter. A box that is never closed does not count.
    - The last box that has something in it is the answer; of nested boxes the inner one.
    - Neighbouring boxes with nothing but a comma or an "and" between them are one answer, a list:
      `$\boxed{1}$ and $\boxed{2}$` is `1, 2`.

    Takes time linear in the length of the response.

    Args:
        response: The whole text that the model wrote.
        after: Only the text after the last occurrence of this mark is read. A response without the
            mark has no answer, because its thought was not finished. None reads the whole text.

    Returns:
        The contents without surrounding whitespace; None if there is no box with something in it.
    """
    if after is not None:
        _, mark, response = response.rpartition(after)
        if not mark:
            return None
    boxes = [box for box in _boxes(response) if box.contents]
    if not boxes:
        return None
    neighbours = [boxes.pop()]
    while boxes and _are_neighbours(response, boxes[-1], neighbours[0]):
        neighbours.insert(0, boxes.pop())
    return ", ".join(dict.fromkeys(box.contents for box in neighbours))


def last_box(response: str) -> str | None:
    r"""Returns what stands in the last `\boxed{` of a response, as the published code reads it.

    Only the text after the last `</think>` is read, or all of it where there is none. Every brace
    counts, escaped ones too. Takes time linear in the length of the response.

    Returns:
        The contents without surrounding whitespace, even if there are none; None without such a
        box, or if it is never closed.
    """
    _, box, rest = response.rpartition("</think>")[2].rpartition("\\boxed{")
    if not box:
        return None
    depth = 1
    for brace in re.finditer("[{}]", rest):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return rest[: brace.start()].strip()
    return None


def _are_neighbours(text: str, left: _Box, right: _Box) -> bool:
    between = text[left.end : right.start]
    return len(between) <= _MAX_BETWEEN and _BETWEEN_NEIGHBOURS.fullmatch(between) is not None


def boxed_answers(text: str) -> list[str]:
    r"""Returns the contents of all complete boxes, in order, of nested ones the inner.

    What a box is, `extract_answer` says. Contents come without surrounding whitespace. Takes time
    linear in the length of the text.
    """
    return [box.contents for box in _boxes(text)]


def _boxes(text: str) -> list[_Box]:
    boxes: list[_Box] = []
    last_start = -1
    open_braces: list[tuple[int, int]] = []  # starts of a box and its contents; (-1, -1) for others
    for token in _BRACES.finditer(text):
        if token["box"]:
            open_braces.append((token.start(), token.end()))
        elif token[0] == "{":
            open_braces.append((-1, -1))
        elif token[0] == "}" and open_braces:
            start, contents = open_braces.pop()
            if contents > last_start:
                last_start = contents
                boxes.append(_Box(text[contents : token.start()].strip(), start, token.end()))
        elif bare := token["number"] or token["letter"]:
            last_start = token.start()
            boxes.append(_Box(bare, token.start(), token.end()))
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
