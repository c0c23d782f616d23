"""Times of a day and dates of digits: `7:30 p.m.`, `2023-01-05`, `1/5/2023`."""

import re
from collections.abc import Hashable

_CLOCK = re.compile(r"0?(\d{1,2})(?::(\d\d))?\s*([ap])\.?\s?m\.?", re.IGNORECASE)
_DATE = re.compile(r"(?:\d{4}([-/.])\d\d?\1\d\d?|\d\d?([-/.])\d\d?\2\d{4})")


def read_time(text: str) -> Hashable | None:
    r"""Returns the key of a time with "am" or "pm", or of a date; None for anything else.

    A date is its numbers in their order, because `1/5/2023` has two meanings.

    Args:
        text: Without surrounding whitespace, with or without `\text`.
    """
    text = re.sub(r"\s+", " ", re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)).strip()
    clock = _CLOCK.fullmatch(text)
    if clock:
        return ("time", int(clock[1]), int(clock[2] or 0), clock[3].lower())
    if _DATE.fullmatch(text):
        return ("date", tuple(int(number) for number in re.findall(r"\d+", text)))
    return None
