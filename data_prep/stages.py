"""A stage of the pipeline: rows in, whole files out, nothing done twice, nothing lost.

The rows of a stage's input are cut into *chunks* of ``rows_per_file`` rows. A chunk becomes one
file and one manifest::

    <output>/stage.json                           settings and inputs of all chunks
    <output>/train/00012-of-00757.parquet         the rows of chunk 12 that were not left out
    <output>/manifests/train-00012-of-00757.json  written last: with it the chunk is complete
    <output>/report.json                          the sum of all manifests, when all are there

Shard ``i/n`` of a stage works on every n-th chunk from the i-th on. What a chunk holds does not
depend on n: a stage may be started again with another number of shards, and finds what is done.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.reports import RowReport
from run_lib.commands import InputError, differing_flags, parse_shard
from run_lib.files import TEMPORARY_FILES, lock_file, replace_file, write_json

STAGE_FILE, REPORT_FILE, MANIFESTS = "stage.json", "report.json", "manifests"

ROW_GROUP = 16
"""Rows that are read at once, at 3 MB a row of 56 responses."""


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


class StageInput(Protocol):
    """What a stage must know of one split of its input.

    Attributes:
        num_rows: in it.
        digest: of its content; another digest is another input.
    """

    @property
    def num_rows(self) -> int: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102


class Stage:
    """The output folder of a stage, and what of it is this process's to fill.

    Args:
        output: the folder; is made.
        settings: whatever the rows depend on, by flag. They are saved, and a later run with others
            is refused.
        inputs: by split.
        rows_per_file: rows of the input that make one file.
        shard: ``i/n``.
        origin: what made the input, for the next stages and for people; binds nobody.

    Raises:
        InputError: if the folder holds anything else, or another process works on this shard.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        inputs: Mapping[str, StageInput],
        rows_per_file: int,
        shard: str = "0/1",
        origin: Mapping[str, Any] | None = None,
    ):
        if rows_per_file < 1:
            raise InputError(f"--rows_per_file must be at least 1, got {rows_per_file}")
        self.output = output
        index, count = parse_shard(shard)
        self._saved: dict[str, Any] = {
            "settings": {**settings, "rows_per_file": rows_per_file},
            "inputs": {
                split: {"num_rows": source.num_rows, "digest": source.digest}
                for split, source in inputs.items()
            },
            "origin": origin,
        }
        self.chunks = list_chunks(self._saved)
        self._own_chunks = self.chunks[index::count]
        try:
            (output / MANIFESTS).mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(output / f".shard-{index}-of-{count}.lock")
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
        settings = self._saved["settings"]
        # The digest of what a flag names says nothing to a reader.
        contents = {name for name in settings if name.endswith("_digest")}
        differing = differing_flags(saved["settings"], settings, frozenset(contents)) + [
            f"the content of --{name.removesuffix('_digest')}"
            for name in sorted(contents)
            if saved["settings"].get(name) != settings[name]
        ]
        if saved["inputs"] != self._saved["inputs"]:
            differing.append("the rows of the input")
        if differing:
            raise InputError(
                f"--output {self.output} was made with other settings: {', '.join(differing)}. "
                "Choose another folder or delete this one"
            )

    @property
    def num_own_chunks(self) -> int:
        """Chunks of this shard, complete ones included."""
        return len(self._own_chunks)

    def pending(self) -> Iterator[Chunk]:
        """The chunks of this shard that are not complete, in order."""
        return (chunk for chunk in self._own_chunks if not self._is_complete(chunk))

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
        path = data_path(self.output, chunk)
        if table.num_rows:
            path.parent.mkdir(exist_ok=True)
            sink = pa.BufferOutputStream()
            # Ids are stored plain: dictionaries don't pay for numbers that hardly repeat.
            pq.write_table(
                table, sink, row_group_size=ROW_GROUP, compression="zstd", use_dictionary=False
            )
            replace_file(path, sink.getvalue())
        manifest = {
            "split": chunk.split,
            "rows": [chunk.start, chunk.stop],
            "input": self._saved["inputs"][chunk.split]["digest"],
            "settings": self._saved["settings"],
            "file": str(path.relative_to(self.output)) if table.num_rows else None,
            "bytes": path.stat().st_size if table.num_rows else 0,
            "report": report.as_json(),
        }
        write_json(manifest_path(self.output, chunk), manifest)
        # A sign of life for scripts that start a shard again for as long as it gets on.
        self._lock.write(f"{chunk.split} {chunk.name}\n".encode())
        self._lock.flush()

    def finish(self) -> dict[str, RowReport] | None:
        """Writes the report, if all chunks of all shards are complete.

        Returns:
            The report of each split; None if chunks are missing.
        """
        missing = len(self.missing())
        if missing:
            print(f"{self.output}: {missing} files of other shards are missing", flush=True)
            return None
        by_split: dict[str, RowReport] = {}
        for chunk in self.chunks:
            manifest = read_json(manifest_path(self.output, chunk))
            if manifest is None:
                raise RuntimeError(f"{manifest_path(self.output, chunk)} has vanished")
            report = RowReport.from_json(manifest["report"])
            by_split.setdefault(chunk.split, RowReport()).merge(report)
        self.remove_left_overs()
        content = {
            "all": RowReport.sum(by_split.values()).as_json(),
            "splits": {split: report.as_json() for split, report in by_split.items()},
        }
        write_json(self.output / REPORT_FILE, content)
        return by_split

    def remove_left_overs(self) -> None:
        """Removes what was cut off in the middle of a file of a chunk that is complete."""
        for folder in {self.output / MANIFESTS, *(self.output / c.split for c in self.chunks)}:
            for left_over in folder.glob(TEMPORARY_FILES):
                left_over.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets another process have the shard."""
        self._lock.close()

    def _is_complete(self, chunk: Chunk) -> bool:
        manifest = read_json(manifest_path(self.output, chunk))
        if manifest is None:
            return False
        if manifest["file"] is None:
            return True
        path = self.output / manifest["file"]
        return path.is_file() and path.stat().st_size == manifest["bytes"]


class FinishedStage:
    """The complete output of a stage, as the next one reads it.

    Args:
        folder: output of the stage.
        flag: what named it, for the errors.
        program: what fills such a folder, for the errors.

    Attributes:
        settings: of the stage.
        inputs: of the stage by split: number of rows, and digest.
        origin: what made its input.
        report: of all its rows.
        digest: of all its manifests.

    Raises:
        InputError: if the folder is no stage's, or the stage is not finished.
    """

    def __init__(self, folder: Path, flag: str, program: str):
        stage, report = read_json(folder / STAGE_FILE), read_json(folder / REPORT_FILE)
        if stage is None:
            raise InputError(f"{flag} {folder}: no output of {program} (it has no {STAGE_FILE})")
        if report is None:
            raise InputError(f"{flag} {folder} is not complete: run {program} to its end first")
        self.folder = folder
        self.settings: dict[str, Any] = stage["settings"]
        self.inputs: dict[str, Any] = stage["inputs"]
        self.origin: dict[str, Any] = stage.get("origin") or {}
        self.report = RowReport.from_json(report["all"])
        digest = hashlib.sha256()
        for chunk in list_chunks(stage):
            digest.update(manifest_path(folder, chunk).read_bytes())
        self.digest = digest.hexdigest()

    def read(self, chunk: Chunk) -> pa.Table | None:
        """The rows of a chunk; None if there are none."""
        manifest = read_json(manifest_path(self.folder, chunk))
        if manifest is None or manifest["file"] is None:
            return None
        path = self.folder / manifest["file"]
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} can't be read: {error}") from error


def list_chunks(saved: Mapping[str, Any]) -> list[Chunk]:
    """All chunks of a stage with these settings and inputs (see ``STAGE_FILE``)."""
    rows_per_file = saved["settings"]["rows_per_file"]
    chunks = []
    for split, source in saved["inputs"].items():
        starts = range(0, source["num_rows"], rows_per_file)
        for number, start in enumerate(starts):
            stop = min(start + rows_per_file, source["num_rows"])
            chunks.append(Chunk(split, number, len(starts), start, stop))
    return chunks


def data_path(folder: Path, chunk: Chunk) -> Path:
    """Where the rows of a chunk are."""
    return folder / chunk.split / f"{chunk.name}.parquet"


def manifest_path(folder: Path, chunk: Chunk) -> Path:
    """What says that a chunk is complete."""
    return folder / MANIFESTS / f"{chunk.split}-{chunk.name}.json"


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
