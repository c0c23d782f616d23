"""Files of records: a JSON line each, appended whole, recovered after any kill.

What a record holds is a dataclass: of texts, numbers, other dataclasses, and lists of these.
"""

import json
import os
from collections.abc import Container, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from run_lib.commands import InputError
from run_lib.files import atomic_file, lock_file
from run_lib.lines import append_lines
from search_lib.results.typed_json import Misfit, read_typed

LOCK_NAME = ".run.lock"


class Keyed(Protocol):
    """A record: a dataclass, of which a file has one for each key."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def key(self) -> Hashable:
        """Tells the search from the others of its run."""
        ...

    @property
    def name(self) -> str:
        """What the search is called in messages."""
        ...


AnyRecord = TypeVar("AnyRecord", bound=Keyed)


class NotARecord(ValueError):
    """A line is whole, and holds something else than a record of this version."""


def parse_line(kind: type[AnyRecord], line: bytes) -> AnyRecord | None:
    """Returns the record of a line, with its newline or without; None if the line is torn.

    Args:
        kind: The dataclass of the record.
        line: The line.

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
    try:
        return read_typed(kind, content)
    except Misfit as misfit:
        raise NotARecord(str(misfit)) from misfit


@dataclass(frozen=True)
class Line(Generic[AnyRecord]):
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
    record: AnyRecord | None


def read_lines(
    kind: type[AnyRecord], path: Path, searches: Container[Hashable] | None = None
) -> Iterator[Line[AnyRecord]]:
    """Yields all lines of a file, one in memory at a time.

    A record that only lacks its newline is whole: no part of one is a JSON object.

    Args:
        kind: The dataclass of the records.
        path: The file.
        searches: Keys that it may hold; None if any may be there.

    Raises:
        InputError: At a line that is whole and no record of this version, or of another search;
            names the file and the line.
    """
    start = 0
    with path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            place = f"{path}, line {number}"
            try:
                record = parse_line(kind, content)
            except NotARecord as error:
                raise InputError(f"{place}: JSON, but no record of this version: {error}") from None
            if record is not None and searches is not None and record.key not in searches:
                raise InputError(f"{place}: {record.name} is not one of this run's searches")
            yield Line(number, start, content, record)
            start += len(content)


def read_whole(
    kind: type[AnyRecord], path: Path, searches: Container[Hashable] | None = None
) -> Iterator[AnyRecord]:
    """Yields the whole records of a file, each search once, one in memory at a time.

    Args:
        kind: See `read_lines`.
        path: See `read_lines`.
        searches: See `read_lines`.
    """
    seen: set[Hashable] = set()
    for line in read_lines(kind, path, searches):
        if line.record is not None and line.record.key not in seen:
            seen.add(line.record.key)
            yield line.record


def check_writable(path: Path) -> None:
    """Raises PermissionError if a file in a folder that is there can't be appended to."""
    if path.exists() and not path.is_file():
        raise PermissionError("it is no file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError("no permission")


class RecordLog(Generic[AnyRecord]):
    """An output file that is being written. Only one process at a time may hold its folder.

    `recover` reads the file before anything is appended. As a context manager it releases the
    folder in the end.

    Args:
        kind: The dataclass of the records.
        path: A `.jsonl` file; its folder is made.
        flag: The flag that names it, for messages.

    Attributes:
        finished: Keys of the searches in the file.

    Raises:
        InputError: If the folder or file can't be written, or another process holds it.
    """

    def __init__(self, kind: type[AnyRecord], path: Path, flag: str):
        self.path = path
        self.finished: set[Hashable] = set()
        self._kind = kind
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            busy = f"another process is writing to {path.parent}"
            self._lock = lock_file(path.with_name(LOCK_NAME), busy)
            check_writable(path)
        except OSError as error:
            raise InputError(f"{flag} {path} cannot be written: {error}") from error

    def recover(self, searches: Container[Hashable] | None = None) -> int:
        """Finds the searches that are there, and repairs the damage of a kill or a disk fault.

        Torn or repeated lines are moved to `<path>.damaged`, so that the file holds whole records
        only and their searches run again. A last record without its newline gets one.

        Args:
            searches: Keys of those of the run; None if they are not known.

        Returns:
            Lines moved aside.

        Raises:
            InputError: If a whole line is no record of this version, or of another search; the
                file is left alone.
            OSError: If the disk has no room to move lines aside; the file is left as it was.
        """
        if self.path.exists():
            self.finished, damaged = repair(self._kind, self.path, searches)
            return damaged
        self.finished = set()
        return 0

    def append(self, record: AnyRecord) -> None:
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


def repair(
    kind: type[AnyRecord], path: Path, searches: Container[Hashable] | None = None
) -> tuple[set[Hashable], int]:
    """Repairs a file of records that nobody else writes to; see `RecordLog.recover`.

    Returns:
        The keys of its records, and how many lines were moved aside.
    """
    finished: set[Hashable] = set()
    damaged: list[Line[AnyRecord]] = []
    line = None
    for line in read_lines(kind, path, searches):
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
