"""What the rules read: a column of a row as text, and the passage that a pattern finds in it."""

import re
from collections.abc import Callable, Mapping
from typing import Any

Row = Mapping[str, Any]
Rule = Callable[[Row], str | None]
"""What the rule objects to in a row, perhaps an empty string; None for nothing."""

MAX_PASSAGE = 120  # characters


def text(row: Row, column: str) -> str:
    """A column without white space around it; a missing or null one is empty."""
    value = row.get(column)
    return "" if value is None else str(value).strip()


def passage(pattern: re.Pattern[str], content: str) -> str | None:
    """What a pattern finds first, on one line; None for nothing."""
    match = pattern.search(content)
    return None if match is None else shorten(match[0])


def shorten(content: str) -> str:
    """The beginning of a passage, on one line."""
    return " ".join(content[: 2 * MAX_PASSAGE].split())[:MAX_PASSAGE]
