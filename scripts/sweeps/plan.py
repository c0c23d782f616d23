"""The cells of a sweep, from its YAML file: each is one run of `inference_eval.py`."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from run_lib.commands import InputError, naming, parse_command_line
from run_lib.settings import as_json
from search_lib.scorers.flags import ScorerFlags
from search_lib.search_args import PROGRAM, Args
from search_lib.voting import check_names

AXES = ("scorers", "strategies", "budgets")
"""What is swept besides seeds; the first changes least often, since its models must be loaded."""

KEYS = {"flags", "seeds", "votes", "baseline", *AXES}

OWN_FLAGS = {"output_path", "seed", "shard"}
"""Flags that the sweep itself gives to its cells."""

REPEATED_FLAGS = {"scorer_url", "sglang_url"}
"""Flags that are given once for each of their values."""


class _Loader(yaml.SafeLoader):
    """Refuses a name that occurs twice, of which YAML would keep the last."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        names = [(name.tag, name.value) for name, _ in node.value]
        if twice := [name for number, name in enumerate(names) if name in names[:number]]:
            raise yaml.composer.ComposerError(
                None, None, f"{twice[0][1]!r} occurs twice", node.start_mark
            )
        return node


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        scorer: Its name in the file.
        strategy: Its name in the file.
        budget: Its name in the file.
        args: The flags of the run.
        arguments: The same as a command line.
    """

    scorer: str
    strategy: str
    budget: str
    args: Args
    arguments: list[str]

    @property
    def name(self) -> str:
        """What the cell is called in messages."""
        scorer = f", {self.scorer}" if self.scorer else ""
        return f"{self.strategy}{scorer}, budget {self.budget}, seed {self.args.seed}"

    @property
    def command(self) -> str:
        """The command line that runs this cell alone."""
        return shlex.join(["python", PROGRAM, *self.arguments])


@dataclass(frozen=True)
class Sweep:
    """The content of the file.

    Attributes:
        cells: Its runs, those of one scorer in a row.
        left_out: Combinations that there can't be, with the reason.
        votes: The votes of its table; empty for the default ones.
        baseline: Name of the strategy that the others are compared with.
    """

    cells: list[Cell]
    left_out: list[str]
    votes: list[str]
    baseline: str


def read_sweep(path: Path, output: Path) -> Sweep:
    """Reads the file of a sweep.

    Args:
        path: The YAML file.
        output: Folder of the runs.

    Raises:
        InputError: Naming the file, and the key at fault.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict) or not {"strategies", "budgets"} <= content.keys():
        raise InputError(f"{path}: expected a mapping with at least strategies and budgets")
    if unknown := sorted(map(str, content.keys() - KEYS)):
        raise InputError(f"{path}: unknown {', '.join(unknown)}; known: {', '.join(sorted(KEYS))}")
    axes = {axis: _read_axis(path, axis, content.get(axis, {"": {}})) for axis in AXES}
    strategies = list(axes["strategies"])
    baseline = str(content.get("baseline", strategies[0]))
    if baseline not in strategies:
        raise InputError(f"{path}: baseline {baseline!r} is none of {', '.join(strategies)}")
    common = _check_flags(path, "flags", content.get("flags", {}))
    seeds = content.get("seeds", [Args.seed])
    votes = content.get("votes", [])
    for name, values, kind in (("seeds", seeds, int), ("votes", votes, str)):
        is_list = isinstance(values, list) and all(type(value) is kind for value in values)
        if not is_list or len(set(values)) < len(values):
            raise InputError(f"{path}: {name} must be a list of different {kind.__name__} values")
    cells: list[Cell] = []
    left_out = []
    for scorer, strategy, budget in product(*axes.values()):
        names = (scorer, strategy, budget)
        flags = dict(common)
        for axis, name in zip(AXES, names, strict=True):
            flags |= axes[axis][name]
        for seed in seeds:
            folder = output.joinpath(*filter(None, map(_as_folder, names)), f"seed-{seed}")
            named = {"seed": seed, "output_path": str(folder / "records.jsonl")}
            arguments = as_arguments(flags | named)
            args = parse_command_line(Args, f"{path}: {PROGRAM}", None, arguments)
            cell = Cell(scorer, strategy, budget, args, arguments)
            try:
                args.plugin_flag.load()
                reason = _without_values(args)
                if reason is None:
                    args.check()
            except InputError as error:
                raise InputError(f"{path}: {cell.name}: {error}") from error
            if reason is None:
                cells.append(cell)
            else:
                left_out.append(f"{cell.name}: {reason}")
    with naming(f"{path}: votes:"):
        check_names(votes)  # a plugin of the cells is loaded
    if len({cell.args.output_path for cell in cells}) < len(cells):
        raise InputError(f"{path}: two names become one folder; use other letters in them")
    return Sweep(cells, left_out, votes, baseline)


def _read_axis(path: Path, axis: str, content: Any) -> dict[str, dict[str, Any]]:
    """Returns the flags of each entry of an axis by its name."""
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: {axis} must map a name to the flags of each")
    for name in content:
        if not isinstance(name, (str, int, float)) or isinstance(name, bool):
            raise InputError(f"{path}: {axis}: a name reads as {name}, in YAML; write it in quotes")
    return {
        str(name): _check_flags(path, f"{axis}: {name}", flags) for name, flags in content.items()
    }


def _check_flags(path: Path, key: str, flags: Any) -> dict[str, Any]:
    """Returns some flags of `inference_eval.py`, whose names are known."""
    if not isinstance(flags, Mapping):
        raise InputError(f"{path}: {key} must map flags of {PROGRAM} to values")
    known = set(as_json(Args())) - OWN_FLAGS
    for name, value in flags.items():
        if name in OWN_FLAGS:
            raise InputError(f"{path}: {key}: --{name} is the sweep's own")
        if name not in known:
            raise InputError(f"{path}: {key}: {PROGRAM} has no flag {name!r}")
        if not isinstance(value, (str, int, float, bool, list)):
            raise InputError(f"{path}: {key}: {name} must be a number, a text or a list of them")
    return dict(flags)


def as_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Returns flags as a command line has them."""
    arguments: list[str] = []
    for name, value in flags.items():
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no_{name}")
            continue
        values = list(map(str, value)) if isinstance(value, list) else [str(value)]
        if name in REPEATED_FLAGS:
            arguments += [part for one in values for part in (f"--{name}", one)]
        else:
            arguments += [f"--{name}", *values]
    return arguments


def _without_values(args: Args) -> str | None:
    """Returns why a search that selects by values has none, if that is so."""
    if args.scorer_flags.has_values:
        return None
    replace(args, scorer_flags=ScorerFlags()).find_strategy()  # with some it could
    try:
        args.find_strategy()
    except InputError as error:
        return str(error)
    return None


def _as_folder(name: str) -> str:
    """Returns the name of a folder for a name of the file."""
    return "".join(letter if letter.isalnum() or letter in "-_.+" else "_" for letter in name)


def shard_of(cells: Sequence[Cell], index: int, count: int) -> Iterator[tuple[int, Cell]]:
    """Yields the cells of one of several machines, each with its number from 1."""
    for number, cell in enumerate(cells):
        if number % count == index:
            yield number + 1, cell
