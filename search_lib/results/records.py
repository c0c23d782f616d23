"""Output records: one JSON line a search, appended whole, recovered after any kill."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from run_lib.commands import InputError
from run_lib.files import lock_file
from search_lib.results.cost import SearchCost
from search_lib.strategies import Node

LOCK_NAME = ".run.lock"

RecordKey = tuple[str, int]
"""(problem id, repetition): one search."""


@dataclass(frozen=True)
class RecordedResponse:
    """One response of a search.

    Args:
        text: all generated tokens but the one that ended it, decoded.
        answer: last box after the thought; None if there is none.
        value: P(correct) at the last token.
        finished: whether the policy ended it.
        num_tokens: generated tokens.
        node: index of its last block in the record's tree.
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

    Args:
        problem_id: of the benchmark.
        repetition: which tree of the problem.
        problem: the question.
        reference: the reference answer.
        seed: of the search.
        responses: in slot order.
        tree: every block, parents before children.
        cost: what it took.
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
        """What tells this search from the others of a run."""
        return self.problem_id, self.repetition


def parse_record(line: bytes) -> Record | None:
    """The record that a line holds, or None if the line is torn or not a record."""
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

    Args:
        number: from 1.
        start: its first byte in the file.
        content: its bytes.
        record: what it holds; None if it is torn.
    """

    number: int
    start: int
    content: bytes
    record: Record | None


def read_lines(path: Path) -> Iterator[Line]:
    """All lines of a file, one in memory at a time.

    Raises:
        InputError: at a line of JSON that is no record of this version.
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
    """The whole records of a file, each search once, one in memory at a time."""
    seen: set[RecordKey] = set()
    for line in read_lines(path):
        if line.record is not None and line.record.key not in seen:
            seen.add(line.record.key)
            yield line.record


class RecordFile:
    """An output file that is being written. Only one process at a time may hold its folder.

    ``recover`` reads what is there before anything is appended.

    Args:
        path: a ``.jsonl`` file; its folder is made.

    Attributes:
        finished: keys of the searches in the file.

    Raises:
        InputError: if the folder or file cannot be written, or another process holds it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.finished: set[RecordKey] = set()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(path.with_name(LOCK_NAME))
            if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
                raise PermissionError(f"no permission to write {path}, or it is a folder")
        except BlockingIOError as error:
            raise InputError(f"another process is writing to {path.parent}") from error
        except OSError as error:
            raise InputError(f"--output_path {path} cannot be written: {error}") from error

    def recover(self) -> int:
        """Finds the searches that are there, and repairs what a kill or a disk fault left.

        Torn or repeated lines are moved to ``<path>.damaged``, so that the file holds whole
        records only and their searches run again.

        Returns:
            Lines moved aside.

        Raises:
            InputError: if the file holds JSON that is no record of this version; it is left alone.
        """
        self.finished, damaged = _repair(self.path) if self.path.exists() else (set(), 0)
        return damaged

    def append(self, record: Record) -> None:
        """Writes one record and waits until the disk has it.

        Raises:
            ValueError: if the file has this search already.
        """
        if record.key in self.finished:
            raise ValueError(f"{self.path} already holds the search {record.key}")
        line = json.dumps(asdict(record), ensure_ascii=False, allow_nan=False)
        with self.path.open("ab") as file:
            file.write(line.encode("utf-8", errors="replace") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.finished.add(record.key)

    def close(self) -> None:
        """Lets other processes have the file."""
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
