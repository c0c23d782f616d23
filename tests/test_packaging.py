"""The wheel holds the packages whole, and what it installs runs from another folder."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

PACKAGES = ("run_lib", "classifier_lib", "search_lib", "dvo_lib", "data_prep")
MODULES = ("loggers.py", "inference_eval.py", "train_classifier.py", "train_dvo.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built from a copy: setuptools writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (*PACKAGES, "scripts", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*MODULES, "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with what the wheel installs, and nothing else."""
    target = wheel.parent / "installed"
    pip("install", "--no-index", "--target", str(target), str(wheel))
    return target


def pip(command: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments], check=True
    )


def run_elsewhere(installed: Path, *arguments: str) -> str:
    """Runs Python in another folder, with the installed packages first on its path."""
    result = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel):
    expected = set(MODULES)
    for package in PACKAGES:
        files = (path for path in (ROOT / package).rglob("*") if path.is_file())
        expected |= {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "data_prep/toy/test_problems.jsonl" in expected


def test_the_wheel_holds_the_licence(wheel):
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/LICENSE"))
    assert zipfile.ZipFile(wheel).read(name) == (ROOT / "LICENSE").read_bytes()


def test_installed_packages_are_imported_from_another_folder(installed):
    modules = (
        "classifier_lib",
        "search_lib.results.records",
        "run_lib.commands",
        "data_prep.toy.task",
        "loggers",
    )
    show = f"for name in {modules}: print(sys.modules[name].__file__)"
    code = f"import {', '.join(modules)}, sys\n{show}"
    files = run_elsewhere(installed, "-c", code).splitlines()
    assert len(files) == len(modules)
    assert all(Path(file).is_relative_to(installed) for file in files)


def test_an_installed_command_runs_in_another_folder(installed):
    assert "merge" in run_elsewhere(installed, "-m", "search_lib.results.shards", "--help")


def test_the_pinned_versions_are_within_the_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(re.findall(r"^([\w-]+)==(.*)$", (ROOT / "constraints.txt").read_text(), re.M))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for text in sum(project["optional-dependencies"].values(), project["dependencies"]):
        requirement = Requirement(text)
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text
