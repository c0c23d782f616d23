"""Imports point one way; `lint-imports` checks the tree itself, see pyproject.toml."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("run_lib", "classifier_lib", "search_lib", "dvo_lib", "data_prep", "scripts")


def lint_imports(folder: Path) -> tuple[int, str]:
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    result = subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("run_lib.text", "classifier_lib.losses", "Imports point one way"),
        ("classifier_lib.losses", "search_lib.runner", "Imports point one way"),
        ("search_lib.voting", "data_prep.cuts", "Imports point one way"),
        ("search_lib.voting", "dvo_lib.losses", "Imports point one way"),
        ("dvo_lib.losses", "data_prep.cuts", "Imports point one way"),
        (
            "classifier_lib.losses",
            "train_classifier",
            "No package imports a command line, or tests",
        ),
        ("run_lib.text", "loggers", "The ground floor stands on nothing"),
        ("run_lib.text", "run_lib.files", "There is no import circle"),
        ("search_lib.results.records", "torch", "Results open without torch"),
        ("search_lib.strategies.base", "asyncio", "Strategies are pure"),
        ("search_lib.scorers.hf", "search_lib.results.records", "Engines and scorers know no run"),
    ],
)
def test_a_forbidden_import_is_found(module, imported, contract, tmp_path):
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module.replace(".", "/")).with_suffix(".py").open("a") as file:
        file.write(f"\nimport {imported}\n")
    status, output = lint_imports(tmp_path)
    assert status == 1
    assert f"{contract} BROKEN" in output
    # A circle is named by its package, and by what closes it.
    assert f"{module} -> {imported}" in output or "No cycles are allowed in run_lib." in output


def test_loggers_import_no_package_but_run_lib():
    tree = ast.parse((ROOT / "loggers.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert not imported & (set(PACKAGES) - {"run_lib"})


def test_results_open_without_torch():
    code = """
import pkgutil, sys
import search_lib.results
for module in pkgutil.walk_packages(search_lib.results.__path__, "search_lib.results."):
    __import__(module.name)
print({"torch", "transformers"} & set(sys.modules))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
