"""Where a question is followed: a picture on a terminal, or lines where there is none."""

import asyncio
import contextlib
import io
import locale
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live

from run_lib.text import one_line
from search_lib.asking.live import LiveQuestion, LiveTree
from search_lib.asking.screen import Screen

PICTURES_A_SECOND = 8

STDOUT, STDERR = 1, 2

HOLD, SHOW = "\x1b[?2026h", "\x1b[?2026l"
"""Terminals that know these show nothing of a picture before it is whole; others ignore them."""

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
"""Signals beside Ctrl-C that end or stop a process, and would leave its picture where it is."""

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

    async def keep_drawing(picture: Picture) -> None:
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
            picture.draw(screen.draw(latest, time.monotonic() - started))
            await asyncio.sleep(1 / PICTURES_A_SECOND)

    with Picture(console) as picture:
        drawing = asyncio.create_task(keep_drawing(picture))
        try:
            yield change
        finally:
            drawing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drawing


class Picture:
    """A picture on a terminal that is drawn anew in its place, and goes with the block.

    It goes, and the cursor comes back, also when a signal ends or stops the process; `fg` brings it
    back. An event loop must be running.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console):
        self._console = console
        self._begin()

    def _begin(self) -> None:
        # Another one each time: it knows how many lines it stands above the cursor.
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        self._live.start()
        # Those that are ignored, as under nohup, stay so.
        self._signals = [one for one in SIGNALS if signal.getsignal(one) == signal.SIG_DFL]
        self._take_signals()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_signals()
        self._live.stop()

    def draw(self, content: RenderableType) -> None:
        """Shows a picture in place of the one before."""
        self._console.file.write(HOLD)
        self._live.update(content, refresh=True)
        self._console.file.write(SHOW)
        self._console.file.flush()

    def _take_signals(self) -> None:
        for one in self._signals:
            asyncio.get_running_loop().add_signal_handler(one, self._obey, one)

    def _leave_signals(self) -> None:
        for one in self._signals:
            asyncio.get_running_loop().remove_signal_handler(one)

    def _obey(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._live.stop()
        self._leave_signals()
        signal.raise_signal(number)
        # Here again after a stop alone.
        self._begin()
        self._live.start()
        self._take_signals()


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
