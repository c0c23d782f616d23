"""Child processes in Python that import this project, wherever this process has it from."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
"""Folder of the packages: the repository, or site-packages."""


def child_environment(**variables: str) -> dict[str, str]:
    """Returns this process's environment with the project on the child's search path.

    Args:
        **variables: More variables, which take precedence.
    """
    search_path = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, search_path))
    return {**os.environ, "PYTHONPATH": path, **variables}
