"""Limits of the work that reading one answer may take: length, depth and a count of operations.

The count is of estimated microseconds, never of time that passed, so that an answer is read or
refused alike on every machine.
"""

import contextlib
import threading
from collections.abc import Iterator

MAX_CHARS = 2_000
"""Longer answers have no normal form, nor have answers whose LaTeX spelling is longer."""

MAX_DEPTH = 60
"""Deepest nesting that is read."""

MAX_WORK = 25_000
"""Estimated microseconds that reading one answer may take; the longest real ones take a tenth."""


class Unreadable(ValueError):
    """A text that is no answer of the kind that was tried."""


class TooLarge(Exception):
    """An answer with too large numbers, or too many, or too deep: it is compared as written."""


class _Work(threading.local):
    left: float = 0.0


_work = _Work()


@contextlib.contextmanager
def limited_work() -> Iterator[None]:
    """Gives the reading of one answer its share of work."""
    _work.left = MAX_WORK
    try:
        yield
    finally:
        _work.left = 0.0


def spend(work: float) -> None:
    """Counts work.

    Raises:
        TooLarge: If none is left.
    """
    _work.left -= work
    if _work.left < 0:
        raise TooLarge
