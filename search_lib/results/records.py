"""Output records: one JSON line a search, appended whole, recovered after any kill."""

import json
import math
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from run_lib.commands import InputError
from run_lib.files import atomic_file, lock_file
from run_lib.lines import append_lines
from run_lib.text import shorten
from search_lib.results.cost import SearchCost
from search_lib.strategies.base import Node

LOCK_NAME = ".run.lock"

RecordKey = tuple[str, int]
"""(problem id, repetition): one search."""


@dataclass(frozen=True)
class RecordedResponse:
    """One response of a search.

    Attributes:
        text: All generated tokens but the one that ended it, decoded.
        answer: Last box after the thought; None if there is none.
        value: P(correct) at the last token.
        finished: Whether the policy ended it.
        num_tokens: Generated tokens.
        node: Index of its last block in the record's tree.
    """

    text: str
    answer: str | None
    value: float
    finished: bool
    num_tokens: int
    node: int


@dataclass(frozen=True)
class Record:
    """One finished search, with all that its metrics and its tree need.

    Attributes:
        problem_id: Id of the problem in the benchmark.
        repetition: Number of the tree among the problem's.
        problem: The question.
        reference: The reference answer.
        seed: Seed of the search.
        responses: Responses in slot order.
        tree: Every block, parents before children.
        cost: Tokens and time of the search.
    """

    problem_id: str
    repetition: int
    problem: str
    reference: str
    seed: int
    responses: list[RecordedResponse]
    tree: list[Node]
    cost: SearchCost

    @property
    def key(self) -> RecordKey:
        """Key of this search among those of a run."""
        return self.problem_id, self.repetition


class NotARecord(ValueError):
    """A line is whole, and holds something else than a record of this version."""


def parse_record(line: bytes) -> Record | None:
    """Returns the record of a line, with its newline or without; None if the line is torn.

    Raises:
        NotARecord: Naming the key at fault; begins with it. A number that isn't finite is one.
    """
    try:
        content = json.loads(line)
    except RecursionError:
        raise NotARecord("nested too deep") from None
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    return _read(Record, content, "")


Part = TypeVar("Part")

_TYPE_HINTS: dict[Any, dict[str, Any]] = {
    kind: get_type_hints(kind) for kind in (Record, RecordedResponse, Node, SearchCost)
}


def _read(kind: type[Part], content: Any, place: str) -> Part:
    """Makes a dataclass of its JSON, `place` being where that stands in the record.

    Raises:
        NotARecord: See `parse_record`.
    """
    if not isinstance(content, dict):
        raise NotARecord(f"{place or 'the line'} is not an object")
    hints = _TYPE_HINTS[kind]
    prefix = f"{place}." if place else ""
    if unknown := [name for name in content if name not in hints]:
        raise NotARecord(f"{shorten(prefix + unknown[0], 60)} is no key of a record")
    required = [entry.name for entry in fields(kind) if entry.default is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in content]:
        raise NotARecord(f"{prefix}{missing[0]} is missing")
    return kind(
        **{name: _read_value(hints[name], item, prefix + name) for name, item in content.items()}
    )


def _read_value(hint: Any, value: Any, place: str) -> Any:
    if get_origin(hint) is list and isinstance(value, list):
        (kind,) = get_args(hint)
        return [_read(kind, item, f"{place}[{index}]") for index, item in enumerate(value)]
    if hint is SearchCost:
        return _read(SearchCost, value, place)
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    # JSON knows one kind of number, and true is none.
    if type(value) not in allowed and not (type(value) is int and float in allowed):
        raise NotARecord(f"{place} is a value of another type: {shorten(value, 60)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise NotARecord(f"{place} is {value}")
    return value


class Line(NamedTuple):
    """One line of a file of records.

    Attributes:
        number: Number of the line, from 1.
        start: Place of its first byte in the file.
        content: Its bytes.
        record: Its record; None if the line is torn.
    """

    number: int
    start: int
    content: bytes
    record: Record | None


def read_lines(path: Path, searches: Collection[RecordKey] | None = None) -> Iterator[Line]:
    """Yields all lines of a file, one in memory at a time.

    A record that only lacks its newline is whole: no part of one is a JSON object.

    Args:
        path: The file.
        searches: Those that it may hold; None if any may be there.

    Raises:
        InputError: At a line that is whole and no record of this version, or of another search;
            names the file and the line.
    """
    start = 0
    with path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            place = f"{path}, line {number}"
            try:
                record = parse_record(content)
            except NotARecord as error:
                raise InputError(f"{place}: JSON, but no record of this version: {error}") from None
            if record is not None and searches is not None and record.key not in searches:
                search = describe(record.key)
                raise InputError(f"{place}: {search} is not one of this run's searches")
            yield Line(number, start, content, record)
            start += len(content)


def describe(key: RecordKey) -> str:
    """Returns what a search is called in messages."""
    return f"problem {key[0]}, repetition {key[1]}"


def read_records(path: Path, searches: Collection[RecordKey] | None = None) -> Iterator[Record]:
    """Yields the whole records of a file, each search once, one in memory at a time.

    Args:
        path: The file.
        searches: See `read_lines`.
    """
    seen: set[RecordKey] = set()
    for line in read_lines(path, searches):
        if line.record is not None and line.record.key not in seen:
            seen.add(line.record.key)
            yield line.record


class RecordFile:
    """An output file that is being written. Only one process at a time may hold its folder.

    `recover` reads the file before anything is appended. As a context manager it releases the
    folder in the end.

    Args:
        path: A `.jsonl` file; its folder is made.

    Attributes:
        finished: Keys of the searches in the file.

    Raises:
        InputError: If the folder or file can't be written, or another process holds it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.finished: set[RecordKey] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            busy = f"another process is writing to {path.parent}"
            self._lock = lock_file(path.with_name(LOCK_NAME), busy)
            if path.exists() and not path.is_file():
                raise PermissionError("it is no file")
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise PermissionError("no permission")
        except OSError as error:
            raise InputError(f"--output_path {path} cannot be written: {error}") from error

    def recover(self, searches: Collection[RecordKey] | None = None) -> int:
        """Finds the searches that are there, and repairs the damage of a kill or a disk fault.

        Torn or repeated lines are moved to `<path>.damaged`, so that the file holds whole records
        only and their searches run again. A last record without its newline gets one.

        Args:
            searches: Those of the run; None if they are not known.

        Returns:
            Lines moved aside.

        Raises:
            InputError: If a whole line is no record of this version, or of another search; the
                file is left alone.
            OSError: If the disk has no room to move lines aside; the file is left as it was.
        """
        if self.path.exists():
            self.finished, damaged = _repair(self.path, searches)
            return damaged
        self.finished = set()
        return 0

    def append(self, record: Record) -> None:
        """Writes one record and waits until the disk has it.

        Raises:
            ValueError: If the file has this search already.
            OSError: If the disk doesn't take it; the file is left as it was.
        """
        if record.key in self.finished:
            raise ValueError(f"{self.path} already holds the search {record.key}")
        line = json.dumps(asdict(record), ensure_ascii=False, allow_nan=False)
        # Half of a surrogate pair, which UTF-8 doesn't take, becomes JSON's escape for it.
        append_lines(self.path, [line.encode("utf-8", errors="backslashreplace") + b"\n"])
        self.finished.add(record.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the folder."""
        self._lock.close()


def _repair(path: Path, searches: Collection[RecordKey] | None) -> tuple[set[RecordKey], int]:
    finished: set[RecordKey] = set()
    damaged: list[Line] = []
    line = None
    for line in read_lines(path, searches):
        if line.record is None or line.record.key in finished:
            damaged.append(line)
        else:
            finished.add(line.record.key)
    if damaged:
        aside = path.with_name(path.name + ".damaged")
        append_lines(aside, [line.content.rstrip(b"\n") + b"\n" for line in damaged])
        _remove(path, damaged)
    is_kept = line is not None and (not damaged or line is not damaged[-1])
    if line is not None and is_kept and not line.content.endswith(b"\n"):
        append_lines(path, [b"\n"])
    return finished, len(damaged)


def _remove(path: Path, damaged: Sequence[Line]) -> None:
    first, last = damaged[0], damaged[-1]
    if first is last and not first.content.endswith(b"\n"):
        # The half line of a kill. Full disks have no room for a copy of the file.
        with path.open("rb+") as file:
            file.truncate(first.start)
        return
    starts = {line.start for line in damaged}
    start = 0
    with path.open("rb") as source, atomic_file(path) as whole:
        for content in source:
            if start not in starts:
                whole.write(content)
            start += len(content)
