"""Output records: one JSON line a search, appended whole, recovered after any kill."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from run_lib.commands import InputError
from run_lib.files import lock_file
from run_lib.lines import append_lines
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


def parse_record(line: bytes) -> Record | None:
    """Returns the record of a line, or None if the line is torn or not a record."""
    try:
        fields: dict[str, Any] = json.loads(line)
        return Record(
            **fields
            | {
                "responses": [RecordedResponse(**response) for response in fields["responses"]],
                "tree": [Node(**node) for node in fields["tree"]],
                "cost": SearchCost(**fields["cost"]),
            }
        )
    except (ValueError, TypeError, KeyError):
        return None


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


def read_lines(path: Path) -> Iterator[Line]:
    """Yields all lines of a file, one in memory at a time.

    Raises:
        InputError: At a line of JSON that is no record of this version.
    """
    start = 0
    with path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            record = parse_record(content)
            if record is None and _is_json_object(content):
                raise InputError(f"{path}, line {number}: JSON, but no record of this version")
            # Without its end it may be whole by chance, but the next one would run into it.
            yield Line(number, start, content, record if content.endswith(b"\n") else None)
            start += len(content)


def read_records(path: Path) -> Iterator[Record]:
    """Yields the whole records of a file, each search once, one in memory at a time."""
    seen: set[RecordKey] = set()
    for line in read_lines(path):
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
            if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
                raise PermissionError(f"no permission to write {path}, or it is a folder")
        except OSError as error:
            raise InputError(f"--output_path {path} cannot be written: {error}") from error

    def recover(self) -> int:
        """Finds the searches that are there, and repairs the damage of a kill or a disk fault.

        Torn or repeated lines are moved to `<path>.damaged`, so that the file holds whole records
        only and their searches run again.

        Returns:
            Lines moved aside.

        Raises:
            InputError: If the file holds JSON that is no record of this version; it is left alone.
        """
        self.finished, damaged = _repair(self.path) if self.path.exists() else (set(), 0)
        return damaged

    def append(self, record: Record) -> None:
        """Writes one record and waits until the disk has it.

        Raises:
            ValueError: If the file has this search already.
        """
        if record.key in self.finished:
            raise ValueError(f"{self.path} already holds the search {record.key}")
        line = json.dumps(asdict(record), ensure_ascii=False, allow_nan=False)
        append_lines(self.path, [line.encode("utf-8", errors="replace") + b"\n"])
        self.finished.add(record.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the folder."""
        self._lock.close()


def _repair(path: Path) -> tuple[set[RecordKey], int]:
    finished: set[RecordKey] = set()
    damaged: list[bytes] = []
    whole = path.with_name(path.name + ".tmp")
    with whole.open("wb") as target:
        for line in read_lines(path):
            if line.record is None or line.record.key in finished:
                damaged.append(line.content.rstrip(b"\n") + b"\n")
            else:
                finished.add(line.record.key)
                target.write(line.content)
        target.flush()
        os.fsync(target.fileno())
    if damaged:
        with path.with_name(path.name + ".damaged").open("ab") as aside:
            aside.writelines(damaged)
        os.replace(whole, path)
    else:
        whole.unlink()
    return finished, len(damaged)


def _is_json_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
