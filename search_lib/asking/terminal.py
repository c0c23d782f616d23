"""Where a question is followed: a picture on a terminal, or lines where there is none."""

import asyncio
import contextlib
import io
import locale
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live

from run_lib.text import one_line
from search_lib.asking.live import LiveQuestion, LiveTree
from search_lib.asking.screen import Screen

PICTURES_A_SECOND = 8

STDOUT, STDERR = 1, 2

HOLD, SHOW = "\x1b[?2026h", "\x1b[?2026l"
"""Terminals that know these show nothing of a picture before it is whole; others ignore them."""

OnChange = Callable[[LiveQuestion], None]


def open_console() -> Console:
    """Returns the terminal, or what stands in its place, whose characters it is known to show.

    Python writes UTF-8 also where the locale is C: pictures and texts are of ASCII there.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        is_utf8 = locale.getencoding().lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(encoding=None if is_utf8 else "ascii", errors="backslashreplace")
    return Console(highlight=False, markup=False, emoji=False)


def is_terminal(console: Console) -> bool:
    """Returns whether pictures can be drawn over each other."""
    return sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal


def claim_stdout() -> TextIO:
    """Returns standard output, and has whatever else is written there go to standard error.

    That holds for libraries and child processes, too.
    """
    sys.stdout.flush()
    own = os.fdopen(os.dup(STDOUT), "w", encoding="utf-8")
    os.dup2(STDERR, STDOUT)
    # Anew: the old one may have found that it can seek, as in a file.
    sys.stdout = os.fdopen(STDOUT, "w", buffering=1, closefd=False)
    return own


@asynccontextmanager
async def drawn(console: Console, screen: Screen) -> AsyncIterator[OnChange]:
    """Draws a question while the block runs, and leaves nothing of that on the terminal.

    Args:
        console: The terminal.
        screen: Draws the question.

    Yields:
        What takes the question whenever it has changed.
    """
    started = time.monotonic()
    latest: LiveQuestion | None = None
    changed = asyncio.Event()

    def change(live: LiveQuestion) -> None:
        nonlocal latest
        latest = live
        changed.set()

    async def keep_drawing(live: Live) -> None:
        width = console.size.width
        while True:
            with contextlib.suppress(TimeoutError):  # its clock goes on
                await asyncio.wait_for(changed.wait(), 1)
            changed.clear()
            if latest is None:
                continue
            if console.size.width != width:  # the old lines are broken elsewhere now
                width = console.size.width
                console.clear()
            console.file.write(HOLD)
            live.update(screen.draw(latest, time.monotonic() - started), refresh=True)
            console.file.write(SHOW)
            console.file.flush()
            await asyncio.sleep(1 / PICTURES_A_SECOND)

    with Live(
        console=console, auto_refresh=False, transient=True, vertical_overflow="crop"
    ) as live:
        drawing = asyncio.create_task(keep_drawing(live))
        try:
            yield change
        finally:
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing


class PlainProgress:
    """Prints a line for every tree that has ended."""

    def __init__(self) -> None:
        self._ended: set[int] = set()

    def change(self, live: LiveQuestion) -> None:
        """Takes the question, which has changed."""
        for tree in live.trees.values():
            if tree.is_done and tree.repetition not in self._ended:
                self._ended.add(tree.repetition)
                print(self._line(live, tree), flush=True)

    def _line(self, live: LiveQuestion, tree: LiveTree) -> str:
        values = [path.value for path in tree.paths() if path.state == "finished"]
        known = [f"{value:.2f}" for value in values if value is not None]
        of_values = f", values {' '.join(known)}" if known else ""
        line = f"tree {tree.repetition + 1}: {tree.num_tokens:,} tokens{of_values}"
        return one_line(f"{live.num_done} of {live.num_trees} trees: {line}")
