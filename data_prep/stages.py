"""A stage of the pipeline: rows in, complete files out, nothing done twice, nothing lost.

The rows of a stage's input are cut into *chunks* of `rows_per_file` rows. A chunk becomes one file
and one manifest:

    <output>/stage.json                           settings and inputs of all chunks
    <output>/train/00012-of-00757.parquet         the rows of chunk 12 that were not left out
    <output>/manifests/train-00012-of-00757.json  written last: with it the chunk is complete
    <output>/report.json                          the sum of all manifests, when all are there

Shard `i/n` of a stage works on every n-th chunk from the i-th on. The content of a chunk does not
depend on n: a stage may be started again with another number of shards, and skips finished chunks.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.reports import RowReport
from run_lib.commands import InputError, at_least, parse_shard
from run_lib.files import TEMPORARY_FILES, lock_file, read_json, replace_file, write_json
from run_lib.settings import Settings, SettingsFile

STAGE_FILE, REPORT_FILE, MANIFESTS = "stage.json", "report.json", "manifests"

ROW_GROUP = 16
"""Rows that are read at once, at 3 MB a row of 56 responses."""

_DIGEST = "_digest"
"""Suffix of digests among the settings: `model_digest` is of the content of `--model`."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of one split of the input.

    Attributes:
        split: Split of the rows.
        number: Number of the chunk in its split, from 0.
        num_chunks: Chunks of the split.
        start: First row.
        stop: One past the last row.
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

    @property
    def num_rows(self) -> int:
        """Rows of the chunk, before any are left out."""
        return self.stop - self.start


class StageInput(Protocol):
    """One split of the input, as far as a stage must know it.

    Attributes:
        num_rows: Rows of the split.
        digest: Digest of its content; another digest is another input.
    """

    @property
    def num_rows(self) -> int: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102


class Stage:
    """The output folder of a stage, with a lock on one shard of it.

    As a context manager it releases the lock on exit.

    Args:
        output: The folder; it is made if there is none.
        settings: All flags that the rows depend on, by name. They are saved, and a later run with
            other values is refused. `model_digest` is the content of `--model`, and so on.
        inputs: The input by split.
        rows_per_file: Rows of the input that make one file.
        shard: `i/n`.
        origin: The settings of the stages before, for the next stages and for people. It may
            change between two runs.

    Raises:
        InputError: If the folder holds anything else, or another process works on this shard.
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
        at_least(1, rows_per_file=rows_per_file)
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
            self._bind_settings()
            self._lock = lock_file(
                output / f".shard-{index}-of-{count}.lock",
                f"another process is working on --shard {shard} in {output}",
            )
        except OSError as error:
            raise InputError(f"--output {output} cannot be written: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bind_settings(self) -> None:
        # Another shard may be starting at the same time, and have made its folder or its settings.
        found = {entry.name for entry in self.output.iterdir() if entry.name[0] != "."}
        file = SettingsFile(
            self.output / STAGE_FILE,
            self.output,
            "Choose another folder or delete this one",
            parse=self.parse_settings,
        )
        file.bind(self.parse_settings(self._saved), not found - {MANIFESTS}, self._saved)

    @staticmethod
    def parse_settings(saved: Mapping[str, Any]) -> Settings:
        """Returns the settings in the content of `STAGE_FILE`, under the names of their flags."""
        settings, inputs = saved["settings"], json.dumps(saved["inputs"], sort_keys=True)
        contents = {
            name.removesuffix(_DIGEST): digest
            for name, digest in settings.items()
            if name.endswith(_DIGEST)
        }
        contents["input"] = hashlib.sha256(inputs.encode()).hexdigest()
        flags = {name: value for name, value in settings.items() if not name.endswith(_DIGEST)}
        return Settings(flags, contents)

    @property
    def num_own_chunks(self) -> int:
        """Chunks of this shard, complete ones included."""
        return len(self._own_chunks)

    def pending(self) -> Iterator[Chunk]:
        """Yields the chunks of this shard that are not complete, in order."""
        return (chunk for chunk in self._own_chunks if not self._is_complete(chunk))

    def missing(self) -> list[Chunk]:
        """Returns the chunks of all shards that are not complete."""
        return [chunk for chunk in self.chunks if not self._is_complete(chunk)]

    def write(self, chunk: Chunk, table: pa.Table, report: RowReport) -> None:
        """Completes a chunk: its file first, then its manifest.

        Args:
            chunk: A chunk of this stage.
            table: Its rows; an empty table makes no file.
            report: The report of its rows; the numbers of rows are filled in here.
        """
        report.rows_in, report.rows_out = chunk.num_rows, table.num_rows
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
        # A heartbeat for scripts that start a shard again for as long as it makes progress.
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
        """Removes the temporary files of killed processes; all chunks must be complete."""
        for folder in {self.output / MANIFESTS, *(self.output / c.split for c in self.chunks)}:
            for left_over in folder.glob(TEMPORARY_FILES):
                left_over.unlink(missing_ok=True)

    def close(self) -> None:
        """Releases the lock on the shard."""
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
        folder: Output of the stage.
        program: The command that fills such a folder, for the errors.

    Attributes:
        settings: Settings of the stage.
        inputs: Its input by split: number of rows, and digest.
        origin: The settings of the stages before it.
        report: Report of all its rows.
        digest: Digest of all its manifests.

    Raises:
        ValueError: If the folder is no output of a stage, or the stage is not finished; begins
            with the folder.
    """

    def __init__(self, folder: Path, program: str):
        stage, report = read_json(folder / STAGE_FILE), read_json(folder / REPORT_FILE)
        if stage is None:
            raise ValueError(f"{folder}: no output of {program} (it has no {STAGE_FILE})")
        if report is None:
            raise ValueError(f"{folder} is not complete: run {program} to its end first")
        self.folder = folder
        self.settings: dict[str, Any] = stage["settings"]
        self.inputs: dict[str, Any] = stage["inputs"]
        self.origin: dict[str, Any] = stage.get("origin") or {}
        self.report = RowReport.from_json(report["all"])
        self.chunks = list_chunks(stage)
        digest = hashlib.sha256()
        for chunk in self.chunks:
            digest.update(manifest_path(folder, chunk).read_bytes())
        self.digest = digest.hexdigest()

    def read(self, chunk: Chunk) -> pa.Table | None:
        """Returns the rows of a chunk; None if all of them were left out."""
        manifest = read_json(manifest_path(self.folder, chunk))
        if manifest is None or manifest["file"] is None:
            return None
        path = self.folder / manifest["file"]
        with reading_parquet(path):
            return pq.read_table(path)


@contextlib.contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Raises InputError in place of any error of the block, which reads a Parquet file."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} can't be read as Parquet: {error}") from error


def list_chunks(saved: Mapping[str, Any]) -> list[Chunk]:
    """Returns all chunks of a stage, from the content of its `STAGE_FILE`."""
    rows_per_file = saved["settings"]["rows_per_file"]
    chunks = []
    for split, source in saved["inputs"].items():
        starts = range(0, source["num_rows"], rows_per_file)
        for number, start in enumerate(starts):
            stop = min(start + rows_per_file, source["num_rows"])
            chunks.append(Chunk(split, number, len(starts), start, stop))
    return chunks


def data_path(folder: Path, chunk: Chunk) -> Path:
    """Returns the path of the rows of a chunk."""
    return folder / chunk.split / f"{chunk.name}.parquet"


def manifest_path(folder: Path, chunk: Chunk) -> Path:
    """Returns the path of the manifest of a chunk, with which it is complete."""
    return folder / MANIFESTS / f"{chunk.split}-{chunk.name}.json"
