"""The stand-in for math-verify, in place of the real one."""

from pathlib import Path

import pytest

from search_lib.grading import grader as grading
from tests.support.grading import MISBEHAVING_MATH_VERIFY


@pytest.fixture
def fake_math_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = tmp_path / "math_verify.py"
    module.write_text(MISBEHAVING_MATH_VERIFY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # Words, which the tests use for answers, would need no worker.
    monkeypatch.setattr(
        grading, "_decide_without_worker", lambda text, other=None: True if text == other else None
    )
    # The worker must find search_lib from any folder, and take nothing else from there.
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "json.py").write_text("raise ImportError('from the current folder')")
    monkeypatch.chdir(folder)
    return module
