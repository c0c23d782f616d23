"""Text for messages and terminals: one line, some names, tables."""

import re
from collections.abc import Sequence
from typing import Any

# Control characters, line and paragraph separators, marks that turn the direction of writing, and
# halves of surrogate pairs, which no terminal's encoding takes.
_NOT_PRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(content: Any) -> str:
    r"""Returns what a value says, with control characters as escapes: `\x1b`, `\n`.

    Texts of models and data sets go through here on their way to a terminal, which would obey them:
    move the cursor, change the title, hide what follows.
    """
    text = content.decode(errors="replace") if isinstance(content, bytes) else str(content)
    return _NOT_PRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(content: Any) -> str:
    """Returns what a value says, `printable`, with every run of white space as one blank."""
    text = content.decode(errors="replace") if isinstance(content, bytes) else str(content)
    return printable(" ".join(text.split()))


def shorten(content: Any, length: int = 300, mark: str = " ...") -> str:
    """Returns the beginning of what a value says, on one line.

    Args:
        content: Anything, such as the body of a reply.
        length: Most characters before the mark.
        mark: Ends a text that was cut.
    """
    text = one_line(content)
    return text if len(text) <= length else f"{text[:length]}{mark}"


def some_of(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """Returns the first of some names, `printable`, in one line, and how many more there are."""
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return separator.join([*map(printable, names[:most]), *more])


def format_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table for the terminal: the first column to the left, numbers to the right.

    Args:
        header: Headings of the columns.
        lines: Cells, as many in each as there are headings; the first one is the line's label.
    """
    header, lines = [*map(printable, header)], [[*map(printable, line)] for line in lines]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]

    def render(cells: Sequence[str]) -> str:
        label, *rest = cells
        aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        return "  ".join([label.ljust(widths[0]), *aligned])

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([render(header), rule, *map(render, lines)])
