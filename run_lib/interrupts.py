"""Ctrl-C before and after the work of a command: one line and a status, at once.

Imports take seconds, and a `KeyboardInterrupt` there ends in the traceback of some library, or is
swallowed by it. So commands say ahead of their other imports:

    if __name__ == "__main__":  # ahead of imports that take seconds
        from run_lib.interrupts import leave_on_interrupt

        leave_on_interrupt()

and `run_lib.commands.run_command` does the rest. This module imports only what Python has loaded.
"""

import os
import signal

INTERRUPTED = "interrupted"
GOES_ON = f"{INTERRUPTED}; the same command goes on from here"
INTERRUPTED_STATUS = 128 + signal.SIGINT  # what shells report


def leave_on_interrupt() -> None:
    """Has Ctrl-C end this process at once; unless it is ignored, as it is under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def leave(*_: object) -> None:
    """Ends this process with the status and the line of Ctrl-C; a signal handler."""
    try:
        os.write(2, f"{INTERRUPTED}\n".encode())
    finally:  # also where nobody reads any more
        os._exit(INTERRUPTED_STATUS)
