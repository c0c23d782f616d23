"""Which runs and methods a comparison is of, as the user names them: `label=folder:method`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from search_lib.voting import VOTES


@dataclass(frozen=True)
class Selection:
    """A run and some of its methods.

    Attributes:
        label: Its name in tables and plots.
        path: Folder of the run, or a file of it.
        method: Key of `VOTES`; None for all that there are.
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
        if method and method not in VOTES:
            raise ValueError(f"{text!r}: there is no method {method!r}; known: {', '.join(VOTES)}")
        return cls(label or Path(folder).name, Path(folder), method or None, bool(label and method))

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
    labels = Counter((one.label, one.method) for one in selections)
    told = [
        replace(one, label=str(one.path))
        if labels[one.label, one.method] > 1 and one.label == one.path.name
        else one
        for one in selections
    ]
    for index, one in enumerate(told):
        if any((one.label, one.method) == (other.label, other.method) for other in told[:index]):
            raise ValueError(f"{texts[index]!r} is there twice: give one of them another label")
    return told
