"""Tools of the rules: a column of a row as text, and the passage that a rule objects to."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from run_lib.text import shorten

Row = Mapping[str, Any]
Rule = Callable[[Row], str | None]
"""Returns the passage that the rule objects to, perhaps an empty string; None for no objection."""

MAX_PASSAGE = 120  # characters


def text(row: Row, column: str) -> str:
    """Returns a column without white space around it; a missing or null one is empty.

    The texts of a list, such as several solutions, become paragraphs.
    """
    value = row.get(column)
    if isinstance(value, list):
        value = "\n\n".join(map(str, value))
    return "" if value is None else str(value).strip()


def passage(pattern: re.Pattern[str], content: str) -> str | None:
    """Returns the first match of a pattern, on one line; None if there is none."""
    match = pattern.search(content)
    return None if match is None else beginning(match[0])


def beginning(content: str) -> str:
    """Returns the beginning of a passage, on one line."""
    return shorten(content[: 2 * MAX_PASSAGE], MAX_PASSAGE, mark="")
