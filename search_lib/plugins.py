"""Strategies, scorers and votes of the user's own, in one file outside of the repository.

`--plugin FILE` runs a Python file that defines one or more of `STRATEGIES`, `SCORERS` and `VOTES`:
what each maps a name to stands in docs/plugins.md, with a complete example. From then on their
names are known like those of this package.
"""

import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from run_lib.commands import InputError
from run_lib.text import one_line
from search_lib.scorers.registry import PLUGIN, SCORERS, ScorerKind
from search_lib.strategies import STRATEGIES
from search_lib.voting import VOTES, Vote

REGISTRIES = ("STRATEGIES", "SCORERS", "VOTES")

_loaded: set[Path] = set()


@dataclass(frozen=True)
class PluginFlag:
    """The flag that adds to what there is."""

    plugin: Path | None = None
    """Python file with strategies, scorers or votes of your own (docs/plugins.md). Its code runs in
    this process."""

    def load(self) -> None:
        """Loads the plugin, if there is one; see `load_plugin`."""
        if self.plugin is not None:
            load_plugin(self.plugin)


def load_plugin(path: Path) -> None:
    """Makes the names of a file known; a file that is loaded already stays as it is.

    Args:
        path: The Python file.

    Raises:
        InputError: If it can't be run, defines nothing, or a name that there is already.
    """
    resolved = path.resolve()
    if resolved in _loaded:
        return
    module = _run(path)
    found = {name: getattr(module, name, {}) for name in REGISTRIES}
    if not any(found.values()):
        raise InputError(f"--plugin {path} defines none of {', '.join(REGISTRIES)}")
    for registry, entries in found.items():
        _check(path, registry, entries)
    STRATEGIES.update(found["STRATEGIES"])
    VOTES.update(found["VOTES"])
    for name, opener in found["SCORERS"].items():
        SCORERS[name] = ScorerKind(_summary(opener), family=PLUGIN, opener=opener)
    _loaded.add(resolved)


def _run(path: Path) -> ModuleType:
    """Returns the module of a file."""
    name = f"vgs_plugin_{len(_loaded)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InputError(f"--plugin {path}: there is no such Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of the user's code
        del sys.modules[name]
        raise InputError(
            f"--plugin {path} can't be run: {type(error).__name__}: {one_line(error)}"
        ) from error
    return module


def _check(path: Path, registry: str, entries: Any) -> None:
    """Raises InputError unless entries are of a registry's kind, with names of their own."""
    kinds: Mapping[str, tuple[Callable[[Any], bool], str, Mapping[str, Any]]] = {
        "STRATEGIES": (callable, "a function of a SearchSpec", STRATEGIES),
        "SCORERS": (callable, "a function of flags, model and place", SCORERS),
        "VOTES": (lambda entry: isinstance(entry, Vote), "a Vote", VOTES),
    }
    is_one, expected, known = kinds[registry]
    if not isinstance(entries, dict):
        raise InputError(f"--plugin {path}: {registry} is no dictionary")
    for name, entry in entries.items():
        # A number behind a name is for the strategy, or the vote.
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w-]*[A-Za-z_]|[A-Za-z]", name):
            raise InputError(
                f"--plugin {path}: {registry} has the name {name!r}; names are letters, digits, _ "
                "and -, and neither begin nor end with a digit"
            )
        if not is_one(entry):
            raise InputError(f"--plugin {path}: {registry}[{name!r}] is not {expected}")
        if name in known:
            raise InputError(f"--plugin {path}: there is a {name!r} in {registry} already")


def _summary(function: Callable[..., Any]) -> str:
    """Returns the first line of a function's docstring."""
    return (function.__doc__ or "of a plugin").strip().splitlines()[0]
