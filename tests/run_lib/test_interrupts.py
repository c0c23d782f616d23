"""Ctrl-C ends a command in one line, also while it imports."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from run_lib import interrupts
from run_lib.interrupts import GOES_ON, INTERRUPTED, leave_on_interrupt
from tests.support.paths import ROOT

CHILD = """
from run_lib.interrupts import leave_on_interrupt
leave_on_interrupt()
import sys
from run_lib.commands import run_command

def wait(line):
    print(line, flush=True)
    sys.stdin.read()

def command():
    try:
        wait("working")
    finally:
        print("cleaned up", flush=True)

{moment}
"""


@pytest.mark.parametrize(
    ("moment", "said", "line"),
    [
        ("wait('importing')", ["importing"], INTERRUPTED),
        ("run_command('program', command)", ["working", "cleaned up"], GOES_ON),
        (
            "run_command('program', lambda: print('done')); wait('ending')",
            ["done", "ending"],
            INTERRUPTED,
        ),
    ],
)
def test_it_is_one_line_and_status_130_at_any_moment(moment, said, line):
    with subprocess.Popen(
        [sys.executable, "-c", CHILD.format(moment=moment)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        heard = [process.stdout.readline().strip() for _ in said if "cleaned" not in _]
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == f"{line}\n"
    assert [*heard, *output.split("\n")[:-1]] == said


def test_where_it_is_ignored_it_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        leave_on_interrupt()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def command_files() -> list[Path]:
    folders = ["run_lib", "classifier_lib", "search_lib", "data_prep"]
    files = [*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py")]
    files += [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    return [
        file
        for file in files
        if "\n    run_command(" in file.read_text() and '__name__ == "__main__"' in file.read_text()
    ]


def test_every_command_begins_with_it():
    begin = ["from run_lib.interrupts import leave_on_interrupt", "leave_on_interrupt()"]
    files = command_files()
    assert len(files) >= 13
    for file in files:
        _, first, *_ = ast.parse(file.read_text()).body
        assert isinstance(first, ast.If), file
        assert ast.unparse(first.test) == "__name__ == '__main__'", file
        assert [ast.unparse(line) for line in first.body[:2]] == begin, file


def test_it_needs_no_import_that_takes_time():
    tree = ast.parse(Path(interrupts.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["import os", "import signal"]
