"""Programs in a terminal of their own, and what it shows in the end."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyte

from tests.support.paths import ROOT

CTRL_C, CTRL_Z = b"\x03", b"\x1a"

PATIENCE = 120.0
"""Seconds without a sign of life after which a program is given up."""


class Shown(NamedTuple):
    """A terminal after its program has ended.

    Attributes:
        lines: What is to be seen, with what has scrolled out of sight above.
        has_cursor: Whether the cursor is to be seen.
        output: All that the program wrote.
        status: Its exit status.
    """

    lines: list[str]
    has_cursor: bool
    output: str
    status: int


def run_in_terminal(
    words: Sequence[Any],
    columns: int,
    rows: int,
    when: Sequence[tuple[str, bytes | signal.Signals]] = (),
) -> Shown:
    """Runs a program of the repository in a terminal.

    Args:
        words: The file and its arguments.
        columns: Columns of the terminal.
        rows: Rows of the terminal.
        when: Texts, one after the other, and what is done after each: keys are pressed, or a signal
            is sent.
    """
    screen = pyte.HistoryScreen(columns, rows, history=1000)
    stream = pyte.ByteStream(screen)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    environment |= {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, *map(str, words)], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    output, waiting = b"", list(when)
    try:
        while select.select([terminal], [], [], PATIENCE)[0]:
            try:
                content = os.read(terminal, 65536)
            except OSError:  # the program has ended
                break
            stream.feed(content)
            output += content
            if waiting and waiting[0][0].encode() in output:
                _, action = waiting.pop(0)
                if isinstance(action, bytes):
                    os.write(terminal, action)
                else:
                    os.kill(process, action)
        else:
            os.kill(process, signal.SIGKILL)
    finally:
        os.close(terminal)
    _, status = os.waitpid(process, 0)
    above = ["".join(line[column].data for column in range(columns)) for line in screen.history.top]
    return Shown(
        [line.rstrip() for line in [*above, *screen.display]],
        not screen.cursor.hidden,
        output.decode(errors="replace"),
        os.waitstatus_to_exitcode(status),
    )
