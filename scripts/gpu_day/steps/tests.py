"""The tests that need a GPU: tests/test_gpu.py."""

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from run_lib.children import PROJECT
from run_lib.text import shorten
from scripts.gpu_day.processes import StepFailed, StepSkipped


class Row(NamedTuple):
    """One test.

    Attributes:
        test: Its name.
        outcome: passed, failed or skipped.
        seconds: Seconds that it took.
        note: The end of the error, or the reason for which it was skipped.
    """

    test: str
    outcome: str
    seconds: float
    note: str


def measure(report: Callable[[Row], None]) -> None:
    """Reports a row a test, as soon as it has ended.

    Raises:
        StepFailed: If some test failed, or pytest itself did.
        StepSkipped: Without a GPU.
    """
    os.chdir(PROJECT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    listener = Listener(report)
    # Without conftest.py, which imports what only the other tests need.
    status = pytest.main(
        ["--noconftest", "-p", "no:cacheprovider", "tests/test_gpu.py"], [listener]
    )
    failed = [row.test for row in listener.rows if row.outcome == "failed"]
    if failed or status:
        raise StepFailed(
            f"{len(failed)} of {len(listener.rows)} tests failed: {', '.join(failed)}"
            if failed
            else f"pytest ended with status {int(status)}"
        )
    if not torch.cuda.is_available():
        raise StepSkipped("needs a CUDA device")


class Listener:
    """A plugin of pytest that reports the outcome of each test.

    Args:
        report: Takes the rows.

    Attributes:
        rows: All that were reported.
    """

    def __init__(self, report: Callable[[Row], None]):
        self._report = report
        self.rows: list[Row] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hears of the set-up, the call and the end of a test; the call counts, and faults do."""
        if report.when != "call" and report.outcome == "passed":
            return
        note = ""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            note = report.longrepr[2].removeprefix("Skipped: ")
        elif report.outcome == "failed":
            note = shorten(report.longreprtext[-300:])
        name = report.nodeid.rpartition("::")[2]
        self.rows.append(Row(name, report.outcome, report.duration, note))
        self._report(self.rows[-1])
