"""Child processes import this project from any folder."""

import os
import subprocess
import sys

from run_lib.children import PROJECT, child_environment


def test_a_child_in_another_folder_imports_the_project(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    code = "import run_lib.children; print(run_lib.children.PROJECT)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"{PROJECT}\n"


def test_variables_take_precedence_and_the_search_path_is_kept(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("SOME_VARIABLE", "old")
    environment = child_environment(SOME_VARIABLE="new")
    assert environment["SOME_VARIABLE"] == "new"
    assert environment["PYTHONPATH"] == f"{PROJECT}{os.pathsep}/elsewhere"
    assert os.environ["SOME_VARIABLE"] == "old"
