"""The settings that an output was made with, saved beside it, so that a second run can tell."""

import json
from pathlib import Path
from typing import Any


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings in a JSON file; None if there is no such file."""
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def describe_difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What differs, e.g. ``num_steps 450, not 100``; empty if nothing does."""
    return "; ".join(
        f"{name} {found.get(name)}, not {wanted.get(name)}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    )
