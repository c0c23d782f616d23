"""A Python that has some packages, what they require, and nothing else of what is installed."""

import os
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def python_with(packages: Iterable[str], folder: Path) -> tuple[Path, Path]:
    """The interpreter, and a folder of links to its packages, for the search path."""
    links = folder / "packages"
    links.mkdir()
    for found in required(packages):
        for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (links / name).exists():
                (links / name).symlink_to(Path(str(found.locate_file(name))))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # no site-packages
    python.chmod(0o755)
    return python, links


def required(packages: Iterable[str]) -> list[Distribution]:
    """The distributions of packages, and of all that they require, extras left out."""
    found: dict[str, Distribution] = {}
    waiting = list(packages)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = distribution(name)
            requirements = map(Requirement, found[name].requires or ())
            waiting += [
                r.name for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})
            ]
    return list(found.values())


def environment_of(python: Path, *paths: Path) -> dict[str, str]:
    """The environment of a script that runs this Python with these folders on its search path."""
    search_path = os.pathsep.join(map(str, paths))
    return {**os.environ, "PYTHON": str(python), "PYTHONPATH": search_path}
