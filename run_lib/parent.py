"""Ends a process of torchrun with its agent, from the import of this module on.

Nobody would start or end such a process any more. Import this before anything that takes long: to
import torch, and to wait for processes that never come, takes minutes.
"""

import contextlib
import os
import threading
import time
from typing import NoReturn

INTERVAL = 0.5
"""Seconds between two looks at the parent."""

_watch: threading.Thread | None = None


def end_with_parent() -> None:
    """Ends this process with exit code 1, and a line on standard error, when its parent is gone."""
    global _watch
    if _watch is None or not _watch.is_alive():  # a fork has the thread no more
        # A daemon, as it must not keep a process alive.
        _watch = threading.Thread(target=_wait, args=(os.getppid(),), name="parent", daemon=True)
        _watch.start()


def end_process(line: str) -> NoReturn:
    """Ends this process at once with exit code 1, and a line on standard error."""
    # Past Python's own standard error, whose lock a stuck main thread may hold, and in a thread, as
    # nobody may be reading a full pipe.
    writer = threading.Thread(target=_write_to_stderr, args=(f"{line}\n".encode(),), daemon=True)
    writer.start()
    writer.join(timeout=1)
    os._exit(1)


def _wait(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    end_process(f"rank {os.environ.get('RANK', '0')} ends: its parent, process {parent}, is gone")


def _write_to_stderr(line: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(2, line)


if "TORCHELASTIC_RUN_ID" in os.environ:
    end_with_parent()
