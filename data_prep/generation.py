"""The run of a stage that generates: its flags, its engine, and the way of its rows into files."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import pyarrow as pa
import torch
from tqdm import tqdm

from data_prep.args import GenerationArgs
from data_prep.reports import BadRow, RowReport
from data_prep.sampling import Policy, Sampler
from data_prep.stages import Chunk, Stage
from data_prep.window import run_rows
from run_lib.commands import RunStopped, naming
from search_lib.engines.factory import open_engine

REFUSED = "refused by the engine"
"""Reason of rows for which the engine gave an error."""

MAX_REFUSALS = 8
"""Consecutive refusals before the run stops: the cause is not in the rows."""

LOG_SECONDS = 30
"""Between two lines of progress, where there is no terminal."""

Row = TypeVar("Row")


class EngineRefuses(RunStopped):
    """The engine refuses consecutive rows."""


class Generated(NamedTuple):
    """A row that a stage has made, or has left out.

    Attributes:
        columns: The row; None if it is left out.
        report: Report of this row alone.
    """

    columns: dict[str, Any] | None
    report: RowReport


def left_out(row_id: str, reason: str, detail: str = "") -> Generated:
    """Returns the result for a row that is left out; see `BadRow`."""
    report = RowReport()
    report.add(BadRow(row_id, reason, detail))
    return Generated(None, report)


class Recipe(Protocol[Row]):
    """How a stage makes its rows.

    Attributes:
        schema: Columns of the rows made.
    """

    schema: pa.Schema

    def read(self, chunk: Chunk) -> tuple[Sequence[Row], RowReport]:
        """Returns the usable rows of a chunk of the input, and a report of the others."""
        ...

    async def build(self, sampler: Sampler, row: Row) -> Generated:
        """Makes a row."""
        ...


def run_stage(stage: Stage, recipe: Recipe[Row], policy: Policy, args: GenerationArgs) -> None:
    """Makes the missing files of a stage's shard; with the last shard, completes the stage.

    Args:
        stage: The stage; it is closed at the end.
        recipe: Makes its rows.
        policy: The model that generates.
        args: Flags of the run.

    Raises:
        InputError: If the engine can't be opened.
        EngineUnavailable: If a server stays away.
        EngineRefuses: If it is there, but refuses `MAX_REFUSALS` consecutive rows.
    """
    with stage:
        asyncio.run(_generate(stage, recipe, policy, args))
        reports = stage.finish()
        if reports is not None:
            print(f"{stage.output}\n{RowReport.sum(reports.values()).format()}", flush=True)


async def _generate(
    stage: Stage, recipe: Recipe[Row], policy: Policy, args: GenerationArgs
) -> None:
    pending = list(stage.pending())
    done = stage.num_own_chunks - len(pending)
    name = f"{stage.output}, shard {args.shard}"
    if not pending:
        print(f"{name}: all {done} files are there")
        return
    print(f"{name}: {done} files are there, {len(pending)} to make", flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with naming(policy.flag):
        engine = open_engine(args.engine_flags, policy.name, device)
    sampler = Sampler(engine, policy, args.sampling)
    progress = _Progress(name, sum(chunk.num_rows for chunk in pending), sampler)
    files = _FilesInTheMaking(stage, recipe, sampler, progress)
    try:
        await run_rows(pending, files.read, files.build, files.on_chunk, args.window)
        files.write_held()
    finally:
        progress.close()
        await engine.close()
    progress.print_total()


class _FilesInTheMaking(Generic[Row]):
    """The chunks of a stage from the input to their files, for `run_rows`.

    A complete chunk with refused rows is held back until the engine has taken another row: no row
    is given up because the engine is at fault.
    """

    def __init__(self, stage: Stage, recipe: Recipe[Row], sampler: Sampler, progress: "_Progress"):
        self._stage = stage
        self._recipe = recipe
        self._sampler = sampler
        self._progress = progress
        self._read_reports: dict[Chunk, RowReport] = {}
        self._num_refusals = 0  # consecutive ones
        self._held: dict[Chunk, list[Generated]] = {}

    def read(self, chunk: Chunk) -> Sequence[Row]:
        """Returns the usable rows of a chunk of the input."""
        rows, self._read_reports[chunk] = self._recipe.read(chunk)
        return rows

    async def build(self, row: Row) -> Generated:
        """Makes a row.

        Raises:
            EngineRefuses: If it is the last of `MAX_REFUSALS` consecutive rows that are refused.
        """
        result = await self._recipe.build(self._sampler, row)
        if REFUSED not in result.report.bad_rows:
            self._num_refusals = 0
            self.write_held()
            return result
        self._num_refusals += 1
        if self._num_refusals == MAX_REFUSALS:
            ((row_id, detail),) = result.report.examples[REFUSED]
            raise EngineRefuses(
                f"the engine refused {MAX_REFUSALS} consecutive rows, the last one ({row_id}) "
                f"with: {detail}"
            )
        return result

    def on_chunk(self, chunk: Chunk, results: list[Generated]) -> None:
        """Writes the file of a chunk, or holds it back."""
        if self._num_refusals and any(REFUSED in result.report.bad_rows for result in results):
            self._held[chunk] = results
        else:
            self._write(chunk, results)

    def write_held(self) -> None:
        """Writes the files of the chunks that were held back."""
        while self._held:
            self._write(*self._held.popitem())

    def _write(self, chunk: Chunk, results: list[Generated]) -> None:
        report = self._read_reports.pop(chunk)
        for result in results:
            report.merge(result.report)
        rows = [result.columns for result in results if result.columns is not None]
        self._stage.write(chunk, pa.Table.from_pylist(rows, self._recipe.schema), report)
        self._progress.update(chunk)


class _Progress:
    """A bar on a terminal, else a line now and then, with the tokens generated a second."""

    def __init__(self, name: str, num_rows: int, sampler: Sampler):
        self._name = name
        self._sampler = sampler
        self._bar = tqdm(total=num_rows, unit="row", disable=None)
        self._started = self._last_line = time.monotonic()

    def update(self, chunk: Chunk) -> None:
        """Counts the rows of a chunk that is written."""
        now = time.monotonic()
        rate = f"{self._sampler.num_tokens / (now - self._started):,.0f} tok/s"
        self._bar.set_postfix_str(rate, refresh=False)
        self._bar.update(chunk.num_rows)
        if self._bar.disable and now - self._last_line > LOG_SECONDS:
            self._last_line = now
            print(f"{self._name}: {chunk.split} {chunk.name}, {rate}", flush=True)

    def close(self) -> None:
        """Takes the bar off the terminal."""
        self._bar.close()

    def print_total(self) -> None:
        """Prints tokens, seconds, and tokens a second."""
        seconds = time.monotonic() - self._started
        num_tokens = self._sampler.num_tokens
        print(
            f"{self._name}: {num_tokens:,} tokens in {seconds:.1f} s, "
            f"{num_tokens / seconds:,.0f} tok/s",
            flush=True,
        )
