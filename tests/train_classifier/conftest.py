"""Command lines of short runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

import train_classifier
from tests.support.training import command_line


@pytest.fixture
def flags(tiny_policy: Path, rollout_folder: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Command line of a short run, with some flags changed (None leaves a flag out)."""

    def make(**changes: object) -> list[str]:
        values = {"output_dir": tmp_path, **changes}
        return command_line(tiny_policy, rollout_folder, **values)

    return make


@pytest.fixture
def train_error(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a command that is refused; returns the one line that says why."""

    def run(argv: list[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            train_classifier.main(argv)
        assert exit_info.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line.startswith("train_classifier.py: error: ")
        return line

    return run


@pytest.fixture
def train_stop(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs a command that stops for a reason outside; returns the line that says why."""

    def run(argv: list[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            train_classifier.main(argv)
        assert exit_info.value.code == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "stopped" in line]
        assert line.startswith("train_classifier.py: stopped: ")
        return line

    return run
