"""Output records: one JSON line a search, appended whole, recovered after any kill."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from classifier_lib.atomic_files import lock_file
from classifier_lib.commands import InputError
from search_lib.runner import SearchCost, SearchJob
from search_lib.strategies import Node, Response

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


def make_record(
    job: SearchJob, responses: list[tuple[Response, str, str | None]], cost: SearchCost
) -> Record:
    """The record of a finished search.

    Args:
        job: its strategy is done.
        responses: each with its text and its extracted answer.
        cost: from the runner.
    """
    return Record(
        problem_id=job.problem.id,
        repetition=job.repetition,
        problem=job.problem.problem,
        reference=job.problem.answer,
        seed=job.seed,
        responses=[
            RecordedResponse(
                text,
                answer,
                response.value,
                response.finished,
                len(response.token_ids),
                response.node,
            )
            for response, text, answer in responses
        ],
        tree=job.strategy.nodes,
        cost=cost,
    )


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


def read_records(path: Path) -> Iterator[Record]:
    """The whole records of a file, each search once, one in memory at a time."""
    seen: set[RecordKey] = set()
    with path.open("rb") as file:
        for line in file:
            record = parse_record(line) if line.endswith(b"\n") else None
            if record is not None and record.key not in seen:
                seen.add(record.key)
                yield record


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

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written to it."""
        return not self.path.exists() or self.path.stat().st_size == 0

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
    with path.open("rb") as source, whole.open("wb") as target:
        for number, line in enumerate(source, start=1):
            record = parse_record(line) if line.endswith(b"\n") else None
            if record is None and parse_record(line) is None and _is_json_object(line):
                raise InputError(f"{path}, line {number}: JSON, but no record of this version")
            if record is None or record.key in finished:
                damaged.append(line.rstrip(b"\n") + b"\n")
            else:
                finished.add(record.key)
                target.write(line)
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
