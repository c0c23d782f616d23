"""Steps in processes of their own: one that fails, hangs or is killed takes nothing along."""

import contextlib
import importlib
import math
import os
import signal
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from run_lib.text import shorten

Figures = dict[str, Any]

GRACE_SECONDS = 5.0
"""Seconds for a process to end after its last message."""


class StepFailed(Exception):
    """The step's figures are bad; the message says which."""


class StepSkipped(Exception):
    """The step can't run on this machine; the message says why."""


class Outcome(NamedTuple):
    """The end of a step.

    Attributes:
        status: `ok`, `failed`, `timed out` or `skipped`.
        reason: Reason for any but `ok`.
        seconds: Seconds that it took, the imports of its process included.
    """

    status: str
    reason: str | None
    seconds: float


def process_context(preload: list[str]) -> BaseContext:
    """Returns how processes are started.

    Args:
        preload: Modules that all of them need. A build of torch for CPUs alone is imported once,
            and each process is a copy of that one. With CUDA each imports for itself: imports may
            ask for a GPU, and after that no copy could use it.
    """
    if not metadata.version("torch").endswith("+cpu"):
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(preload)
    return context


def run_step(
    context: BaseContext, module: str, limit: float, on_row: Callable[[Figures], None]
) -> Outcome:
    """Runs one step to its end, or to its limit.

    Args:
        context: How its process is started.
        module: Name of its module, which has a `measure`.
        limit: Most seconds.
        on_row: Takes each row of figures as it comes.
    """
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(module, there), name=module)  # type: ignore[attr-defined]
    start = time.monotonic()
    process.start()
    there.close()
    try:
        status, reason = _listen(here, process, start + limit, on_row)
        if status == "timed out":
            reason = f"not within {limit:.0f} s"
        else:
            process.join(GRACE_SECONDS)
    finally:
        _kill(process)
    return Outcome(status, reason, time.monotonic() - start)


def _listen(
    connection: Connection, process: BaseProcess, deadline: float, on_row: Callable[[Figures], None]
) -> tuple[str, str | None]:
    """Returns the status that a process ends with, and the reason."""
    while connection.poll(max(deadline - time.monotonic(), 0.0)):
        try:
            kind, content = connection.recv()
        except EOFError:
            process.join(GRACE_SECONDS)
            return "failed", f"its process ended with status {process.exitcode}"
        if kind != "row":
            return kind, content
        on_row(content)
    return "timed out", None


def _kill(process: BaseProcess) -> None:
    """Ends a process, and all that it has started."""
    process.kill()
    process.join()
    with contextlib.suppress(ProcessLookupError):  # nothing is left of its group
        os.killpg(process.pid or 0, signal.SIGKILL)


def _work(module: str, connection: Connection) -> None:
    """Runs a step in its own process: sends its rows, then its status and the reason."""
    os.setsid()  # what it starts is of its group, and ends with it
    message: tuple[str, str | None] = ("ok", None)
    try:
        importlib.import_module(module).measure(
            lambda row: connection.send(("row", _as_json(row._asdict())))
        )
    except StepSkipped as error:
        message = ("skipped", str(error))
    except StepFailed as error:
        message = ("failed", str(error))
    except Exception as error:
        traceback.print_exc()
        message = ("failed", shorten(f"{type(error).__name__}: {error}"))
    connection.send(message)


def _as_json(figures: Figures) -> Figures:
    """Returns figures with numbers that JSON doesn't know as texts: nan, inf."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
