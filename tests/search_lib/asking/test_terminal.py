"""A picture on a terminal whose process is stopped, and ended."""

import signal

from tests.support.terminals import CTRL_Z, run_in_terminal

CHILD = """
import asyncio, itertools, logging
from run_lib.commands import run_command
from search_lib.asking.terminal import drawn, open_console

class Screen:
    numbers = itertools.count()

    def draw(self, live, seconds):
        number = next(self.numbers)
        if number == 5:
            asyncio.get_running_loop().call_later(0.02, logging.warning, "said meanwhile")
        return f"top\\npicture {number}"

async def show():
    async with drawn(open_console(), Screen()) as on_change:
        while True:
            on_change(object())
            await asyncio.sleep(0.01)

run_command("program", lambda: asyncio.run(show()))
"""
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def test_a_signal_leaves_the_cursor_and_what_was_said_and_no_picture():
    # Nothing stops a process that no shell of its session waits for: it goes on at once.
    when = [("picture 1", CTRL_Z), ("picture 9", signal.SIGTERM)]
    shown = run_in_terminal(["-c", CHILD], 80, 24, when)
    assert shown.output.index(SHOW) < shown.output.rindex(HIDE) < shown.output.index("picture 9")
    assert (shown.status, shown.has_cursor) == (-signal.SIGTERM, True)
    assert [line for line in shown.lines if line] == ["WARNING: said meanwhile"]
