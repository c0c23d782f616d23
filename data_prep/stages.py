"""A stage of the pipeline: rows in, whole files out, nothing done twice, nothing lost.

The rows of a stage's input are cut into *chunks* of ``rows_per_file`` rows. A chunk becomes one
file and one manifest::

    <output>/stage.json                           settings and inputs of all chunks
    <output>/train/00012-of-00757.parquet         the rows of chunk 12 that were not left out
    <output>/manifests/train-00012-of-00757.json  written last: with it the chunk is complete
    <output>/report.json                          the sum of all manifests, when all are there

Shard ``i/n`` of a stage works on the chunks whose number leaves the rest i. What a chunk holds does
not depend on n: a stage may be started again with another number of shards, and finds what is done.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from classifier_lib.atomic_files import TEMPORARY_FILES, lock_file, replace_file, write_json
from classifier_lib.commands import InputError, differing_flags
from data_prep.reports import RowReport
from data_prep.sources import RowSource

STAGE_FILE, REPORT_FILE, MANIFESTS = "stage.json", "report.json", "manifests"


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one split of the input.

    Args:
        split: that the rows are of.
        number: of the chunk in its split, from 0.
        num_chunks: of the split.
        start: first row.
        stop: row behind the last.
    """

    split: str
    number: int
    num_chunks: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """File name without a suffix."""
        return f"{self.number:05d}-of-{self.num_chunks:05d}"


def parse_shard(shard: str) -> tuple[int, int]:
    """``"i/n"`` as (i, n).

    Raises:
        InputError: if it is anything else, or i is not in [0, n).
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or int(match[1]) >= int(match[2]):
        raise InputError(f"--shard {shard}: expected i/n with i from 0 to n - 1, e.g. 0/2")
    return int(match[1]), int(match[2])


class Stage:
    """The output folder of a stage, and what of it is this process's to fill.

    Args:
        output: the folder; is made.
        settings: whatever the rows depend on, by flag. They are saved, and a later run with others
            is refused.
        sources: the input by split.
        rows_per_file: rows of the input that make one file.
        shard: ``i/n``.

    Raises:
        InputError: if the folder holds anything else, or another process works on this shard.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        sources: Mapping[str, RowSource],
        rows_per_file: int,
        shard: str = "0/1",
    ):
        if rows_per_file < 1:
            raise InputError(f"--rows_per_file must be at least 1, got {rows_per_file}")
        self.output = output
        self._index, self._count = parse_shard(shard)
        self.chunks = [
            chunk
            for split, source in sources.items()
            for chunk in cut_rows(split, source.num_rows, rows_per_file)
        ]
        self._inputs = {split: source.digest for split, source in sources.items()}
        self._saved = {
            "settings": {**settings, "rows_per_file": rows_per_file},
            "inputs": self._inputs,
        }
        try:
            (output / MANIFESTS).mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(output / f".shard-{self._index}-of-{self._count}.lock")
        except BlockingIOError as error:
            raise InputError(
                f"another process is working on --shard {shard} in {output}"
            ) from error
        except OSError as error:
            raise InputError(f"--output {output} cannot be written: {error}") from error
        self._check_settings()

    def _check_settings(self) -> None:
        path = self.output / STAGE_FILE
        saved = read_json(path)
        if saved is None:
            # Another shard may be starting, too, and has just written its settings.
            found = {entry.name for entry in self.output.iterdir() if entry.name[0] != "."}
            if found - {MANIFESTS, STAGE_FILE}:
                raise InputError(
                    f"--output {self.output} holds something else: choose another folder"
                )
            write_json(path, self._saved)
            return
        differing = differing_flags(saved["settings"], self._saved["settings"], frozenset())
        if saved["inputs"] != self._inputs:
            differing.append("the rows of the input")
        if differing:
            raise InputError(
                f"--output {self.output} was made with other settings: {', '.join(differing)}. "
                "Choose another folder or delete this one"
            )

    @property
    def num_own_chunks(self) -> int:
        """Chunks of this shard, complete ones included."""
        return sum(self._is_own(chunk) for chunk in self.chunks)

    def pending(self) -> Iterator[Chunk]:
        """The chunks of this shard that are not complete, in order."""
        return (c for c in self.chunks if self._is_own(c) and not self._is_complete(c))

    def missing(self) -> list[Chunk]:
        """The chunks of all shards that are not complete."""
        return [chunk for chunk in self.chunks if not self._is_complete(chunk)]

    def write(self, chunk: Chunk, table: pa.Table, report: RowReport) -> None:
        """Completes a chunk: its file first, then its manifest.

        Args:
            chunk: of this stage.
            table: its rows; no file is made of none.
            report: of its rows; its numbers of rows are filled in here.
        """
        report.rows_in, report.rows_out = chunk.stop - chunk.start, table.num_rows
        path = self.data_path(chunk)
        if table.num_rows:
            path.parent.mkdir(exist_ok=True)
            sink = pa.BufferOutputStream()
            # Ids are stored plain: dictionaries don't pay for numbers that hardly repeat.
            pq.write_table(table, sink, compression="zstd", use_dictionary=False)
            replace_file(path, sink.getvalue())
        manifest = {
            "split": chunk.split,
            "rows": [chunk.start, chunk.stop],
            "input": self._inputs[chunk.split],
            "settings": self._saved["settings"],
            "file": str(path.relative_to(self.output)) if table.num_rows else None,
            "bytes": path.stat().st_size if table.num_rows else 0,
            "report": report.as_json(),
        }
        write_json(self._manifest_path(chunk), manifest)

    def finish(self) -> RowReport | None:
        """Writes the report, if all chunks of all shards are complete.

        Returns:
            The report; None if chunks are missing.
        """
        if self.missing():
            return None
        by_split: dict[str, RowReport] = {}
        for chunk in self.chunks:
            manifest = read_json(self._manifest_path(chunk))
            if manifest is None:
                raise RuntimeError(f"{self._manifest_path(chunk)} has vanished")
            report = RowReport.from_json(manifest["report"])
            by_split.setdefault(chunk.split, RowReport()).merge(report)
        total = RowReport()
        for report in by_split.values():
            total.merge(report)
        content = {
            "all": total.as_json(),
            "splits": {split: report.as_json() for split, report in by_split.items()},
        }
        write_json(self.output / REPORT_FILE, content)
        # What was cut off in the middle of a file is not needed any more.
        for left_over in self.output.rglob(TEMPORARY_FILES):
            left_over.unlink(missing_ok=True)
        return total

    def close(self) -> None:
        """Lets another process have the shard."""
        self._lock.close()

    def data_path(self, chunk: Chunk) -> Path:
        """Where the rows of a chunk go."""
        return self.output / chunk.split / f"{chunk.name}.parquet"

    def _manifest_path(self, chunk: Chunk) -> Path:
        return self.output / MANIFESTS / f"{chunk.split}-{chunk.name}.json"

    def _is_own(self, chunk: Chunk) -> bool:
        return chunk.number % self._count == self._index

    def _is_complete(self, chunk: Chunk) -> bool:
        manifest = read_json(self._manifest_path(chunk))
        if manifest is None:
            return False
        if manifest["file"] is None:
            return True
        path = self.output / manifest["file"]
        return path.is_file() and path.stat().st_size == manifest["bytes"]


def cut_rows(split: str, num_rows: int, rows_per_file: int) -> list[Chunk]:
    """The chunks of a split."""
    starts = range(0, num_rows, rows_per_file)
    return [
        Chunk(split, number, len(starts), start, min(start + rows_per_file, num_rows))
        for number, start in enumerate(starts)
    ]


def check_complete(folder: Path, flag: str, program: str) -> dict[str, Any]:
    """The report of a finished stage, with its settings under ``"settings"``.

    Args:
        folder: output of the stage.
        flag: what named it, for the error.
        program: what fills such a folder, for the error.

    Raises:
        InputError: if the folder is no stage's, or the stage is not finished.
    """
    stage, report = read_json(folder / STAGE_FILE), read_json(folder / REPORT_FILE)
    if stage is None:
        raise InputError(f"{flag} {folder}: no output of {program} (it has no {STAGE_FILE})")
    if report is None:
        raise InputError(f"{flag} {folder} is not complete: run {program} to its end first")
    return report | {"settings": stage["settings"]}


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no such file.

    Raises:
        InputError: if it holds anything else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: not a JSON object")
    return content
