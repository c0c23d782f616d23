"""Which runs and methods a comparison is of, as the user names them: `label=folder:method`."""

import os.path
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from search_lib.voting import find_vote


@dataclass(frozen=True)
class Selection:
    """A run and some of its methods.

    Attributes:
        label: Its name in tables and plots.
        path: Folder of the run, or a file of it.
        method: Name of a vote; None for all that there are.
        is_curve_label: Whether the label names the run with the method already.
    """

    label: str
    path: Path
    method: str | None
    is_curve_label: bool

    @classmethod
    def parse(cls, text: str) -> "Selection":
        """Reads `folder`, `folder:method`, `label=folder` or `label=folder:method`.

        Raises:
            ValueError: If it is none of them; begins with it.
        """
        source, has_method, method = text.rpartition(":")
        if not has_method or Path(text).exists():
            source, method = text, ""
        label, has_label, folder = source.partition("=")
        if not has_label or Path(source).exists():
            label, folder = "", source
        if not folder or (has_method and not method and source != text):
            raise ValueError(f"{text!r} is not of the form label=folder:method")
        if method:
            try:
                find_vote(method)
            except ValueError as error:
                raise ValueError(f"{text!r}: {error}") from None
        path = Path(folder)
        return cls(label or _name_of(path), path, method or None, bool(label and method))

    def label_of(self, method: str) -> str:
        """Returns the name of the curve of one method."""
        return self.label if self.is_curve_label else f"{self.label} {method}"


def parse_selections(texts: Sequence[str]) -> list[Selection]:
    """Returns the selections, whose labels tell them apart.

    Runs whose folders have one name are told apart by their paths.

    Raises:
        ValueError: See `Selection.parse`; or if two are the same.
    """
    selections = [Selection.parse(text) for text in texts]
    paths: dict[str, set[Path]] = {}
    for one in selections:
        paths.setdefault(one.label, set()).add(one.path)
    told = [
        replace(one, label=str(one.path))
        if len(paths[one.label]) > 1 and one.label == _name_of(one.path)
        else one
        for one in selections
    ]
    for index, one in enumerate(told):
        if any((one.label, one.method) == (other.label, other.method) for other in told[:index]):
            raise ValueError(f"{texts[index]!r} is there twice: give one of them another label")
    return told


def check_curve_names(names: Iterable[str]) -> None:
    """Raises ValueError if two curves have one name; begins with it."""
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{name!r} names two curves: give one of them another label")
        seen.add(name)


def _name_of(path: Path) -> str:
    """Returns the last part of a path, also of `.`, which has none of its own."""
    return os.path.basename(os.path.abspath(path)) or str(path)
