"""The stand-in for math-verify, in place of the real one."""

from pathlib import Path

import pytest

from tests.support.grading import MISBEHAVING_MATH_VERIFY


@pytest.fixture
def fake_math_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = tmp_path / "math_verify.py"
    module.write_text(MISBEHAVING_MATH_VERIFY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # The worker must find search_lib from any folder, and take nothing else from there.
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "json.py").write_text("raise ImportError('from the current folder')")
    monkeypatch.chdir(folder)
    return module
