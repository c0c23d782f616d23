r"""Cleans a set of problems into the form of OpenR1-Cleaned.

python -m data_prep.clean --input open-r1/OpenR1-Math-220k --output outputs/openr1_cleaned \
    --decontaminate aime-24 aime-25 hmmt-feb-24 hmmt-feb-25

The input has the columns `problem` and `answer`, and should have `solution` and `question_type`.
All its splits are read. A row is left out if a rule of `data_prep.cleaning.filters` objects to it,
if it shares runs of `--ngram` words with a problem of a benchmark that `--decontaminate` names (see
`data_prep.cleaning.contamination`), or if it repeats an earlier row (see
`data_prep.cleaning.duplicates`). Where the references of repeated problems differ, all of them are
left out. The rows that stay keep all their columns:

    <output>/train, validation, test    Parquet files, divided by a hash of the problem
    <output>/report.md, report.json     how many rows each rule left out, with five examples

The rows are checked in parts of `--rows_per_file`, which several processes can share out
(`--shard i/n`). The process that finds all parts done removes repeated problems and writes the
output. Killed at any moment, the same command goes on.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.args import CLEAN, CleanArgs
    from run_lib.commands import check_command_line

    check_command_line(CleanArgs, CLEAN, __doc__)

import hashlib
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from data_prep.args import CLEAN, CleanArgs
from data_prep.checks import check_chunks
from data_prep.cleaning.contamination import BenchmarkWords, load_benchmark_words
from data_prep.cleaning.duplicates import DuplicateFinder, judge_duplicates
from data_prep.cleaning.filters import READ_COLUMNS, Finding, find_faults
from data_prep.cleaning.filters.rows import text
from data_prep.cleaning.normalise import normalise
from data_prep.cleaning.report import MARKDOWN_FILE, CleanReport, Place
from data_prep.columns import KEPT_SCHEMA
from data_prep.reports import BadRow, RowReport
from data_prep.sources import (
    RowSource,
    as_types,
    check_texts,
    open_sources,
    read_texts,
    unify_types,
)
from data_prep.stages import STAGE_FILE, Chunk, FinishedStage, Stage
from run_lib.commands import (
    InputError,
    naming,
    parse_command_line,
    run_command,
)
from run_lib.files import TEMPORARY_FILES, try_lock
from run_lib.seeds import derive_seed
from search_lib.grading import Grader

FILTERED = ".filtered"  # hidden, so that nobody takes its Parquet files for a split
WINDOW = 256  # rows of the input in memory at once, while the output is written


class SelectedRows:
    """Some rows of a data set, as a source of rows.

    Args:
        sources: The data set by split.
        rows: Split and number of each row, in the order of the data set.
    """

    def __init__(self, sources: Mapping[str, RowSource], rows: Sequence[Place]):
        self.num_rows = len(rows)
        self.column_names = next(iter(sources.values())).column_names
        self.schema = unify_types([source.schema for source in sources.values()])
        self._sources, self._rows = sources, rows
        digest = hashlib.sha256()
        for split, source in sources.items():
            digest.update(f"{split} {source.digest}\n".encode())
        for split, row in rows:
            digest.update(f"{split} {row}\n".encode())
        self.digest = digest.hexdigest()

    def read(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Returns some columns of rows `start` to `stop - 1`, reading a window at a time."""
        parts = []
        schema = pa.schema([self.schema.field(name) for name in columns])
        for (split, _), group in groupby(
            self._rows[start:stop], key=lambda place: (place[0], place[1] // WINDOW)
        ):
            rows = [row for _, row in group]
            table = self._sources[split].read(rows[0], rows[-1] + 1, columns)
            parts.append(as_types(table.take([row - rows[0] for row in rows]), schema))
        return pa.concat_tables(parts)


def clean(args: CleanArgs) -> CleanReport | None:
    """Cleans one shard, and writes the output if no other shard is missing.

    Returns:
        The report of the rows left out; None while the output isn't complete.

    Raises:
        InputError: If something that was given can't be used.
    """
    args.check()
    with naming("--input"):
        sources = open_sources(args.input, args.config, required=("problem", "answer"))
        check_columns(sources, args.input)
        check_texts(sources, args.input, READ_COLUMNS)
    check_counts(args, sum(source.num_rows for source in sources.values()), "rows of --input")
    with naming("--decontaminate"):
        benchmark_words = load_benchmark_words(args.decontaminate, args.ngram)
    settings: dict[str, Any] = {"decontaminate": benchmark_words.digests}
    if args.decontaminate:
        settings["ngram"] = args.ngram
    check_output(args.output)
    folder = args.output / FILTERED
    with Stage(folder, settings, sources, args.rows_per_file, args.shard) as stage:
        with Grader(num_workers=args.num_workers) as grader:
            check_chunks(
                stage,
                grader,
                lambda chunk: filter_chunk(sources[chunk.split], chunk, grader, benchmark_words),
            )
        by_split = stage.finish()
    if by_split is None:
        return None
    lock = try_lock(args.output / ".write.lock")
    if lock is None:
        print(f"{args.output}: another process is writing the output")
        return None
    with lock:
        report, splits = divide_rows(args, by_split, sources)
        settings |= {
            "num_validation": args.num_validation,
            "num_test": args.num_test,
            "seed": args.seed,
        }
        write_splits(args, settings, splits)
        report.write(args.output)
    return report


def check_columns(sources: Mapping[str, RowSource], name: str) -> None:
    """Checks that the splits of a data set go together, and notes columns that it lacks.

    Raises:
        ValueError: If two splits have different columns; begins with the name.
    """
    first, *others = sources
    for split in others:
        if list(sources[split].column_names) != list(sources[first].column_names):
            raise ValueError(f"{name}: {split} has other columns than {first}")
        try:
            unify_types([sources[first].schema, sources[split].schema])
        except pa.ArrowException as error:
            raise ValueError(
                f"{name}: {split} has columns of other types than {first}: {error}"
            ) from error
    for column in READ_COLUMNS:
        if column not in sources[first].column_names:
            print(f"note: the input has no column {column}; the rules do without", file=sys.stderr)


def check_counts(args: CleanArgs, num_rows: int, kind: str) -> None:
    """Raises InputError if validation and test would leave no row to train on."""
    if num_rows <= args.num_validation + args.num_test:
        raise InputError(
            f"{num_rows} {kind} are too few for --num_validation {args.num_validation} and "
            f"--num_test {args.num_test}"
        )


def check_output(output: Path) -> None:
    """Raises InputError if a folder holds something that isn't this command's."""
    if (output / FILTERED / STAGE_FILE).exists() or not output.exists():
        return
    if not output.is_dir() or any(entry.name[0] != "." for entry in output.iterdir()):
        raise InputError(f"--output {output} holds something else: choose another folder")


def filter_chunk(
    source: RowSource, chunk: Chunk, grader: Grader, benchmark_words: BenchmarkWords
) -> tuple[pa.Table, RowReport]:
    """Returns the rows of a chunk that no rule objects to, and a report of the others by number."""
    columns = [name for name in READ_COLUMNS if name in source.column_names]
    rows = read_texts(source.read(chunk.start, chunk.stop, columns))
    kept = []
    report = RowReport()
    for number, (row, finding) in enumerate(
        zip(rows, find_faults(rows, grader), strict=True), start=chunk.start
    ):
        spelling = normalise(text(row, "problem"))
        if finding is None:
            shared = benchmark_words.find(spelling)
            finding = None if shared is None else Finding("contaminated", shared)
        if finding is not None:
            report.add(BadRow(str(number), finding.rule, finding.passage))
            continue
        kept.append({"row": number, "text": spelling, "answer": text(row, "answer")})
    return pa.Table.from_pylist(kept, KEPT_SCHEMA), report


def divide_rows(
    args: CleanArgs, by_split: Mapping[str, RowReport], sources: Mapping[str, RowSource]
) -> tuple[CleanReport, dict[str, SelectedRows]]:
    """Leaves out repeated problems, and divides the rest into splits.

    Args:
        args: Flags of the run.
        by_split: Reports of the rules, by split of the input.
        sources: The input.

    Returns:
        The report, and the rows of each split of the output, empty ones left out.

    Raises:
        InputError: If too few rows are left.
    """
    filtered = FinishedStage(args.output / FILTERED, CLEAN)
    places: list[Place] = []
    matches, answers, order = [], [], []
    finder = DuplicateFinder()
    for chunk in filtered.chunks:
        table = filtered.read(chunk)
        for row in table.to_pylist() if table is not None else ():
            matches.append(finder.add(row["text"]))
            places.append((chunk.split, row["row"]))
            answers.append(row["answer"])
            order.append(derive_seed(args.seed, "split", row["text"]))
    with Grader(num_workers=args.num_workers) as grader:
        findings = judge_duplicates(matches, answers, grader)

    report = CleanReport(sources)
    for split, part in by_split.items():
        report.add_filtered(split, part)
    for place, finding, match in zip(places, findings, matches, strict=True):
        if finding is not None:
            repeats = None if match is None else places[match.first]
            report.add(place, finding.rule, finding.passage, repeats)

    kept = [position for position, finding in enumerate(findings) if finding is None]
    check_counts(args, len(kept), "problems that are kept")
    kept.sort(key=order.__getitem__)
    test, validation = args.num_test, args.num_test + args.num_validation
    parts = {"train": kept[validation:], "validation": kept[test:validation], "test": kept[:test]}
    splits = {
        split: SelectedRows(sources, [places[position] for position in sorted(part)])
        for split, part in parts.items()
        if part
    }
    report.rows_out = {split: rows.num_rows for split, rows in splits.items()}
    return report, splits


def write_splits(
    args: CleanArgs, settings: Mapping[str, object], splits: Mapping[str, SelectedRows]
) -> None:
    """Writes the files of the output that aren't there yet."""
    with Stage(args.output, settings, splits, args.rows_per_file) as stage:
        for chunk in tqdm(list(stage.pending()), unit="file", disable=None):
            rows = splits[chunk.split]
            stage.write(chunk, rows.read(chunk.start, chunk.stop, rows.column_names), RowReport())
        # Not stage.finish: the report of this command marks the output as complete.
        stage.remove_left_overs()
        for left_over in args.output.glob(TEMPORARY_FILES):
            left_over.unlink(missing_ok=True)


def clean_and_print(args: CleanArgs) -> None:
    """Cleans, and prints the report if the output is complete."""
    report = clean(args)
    if report is not None:
        print(f"{args.output}\n{report.format()}\nmore of each: {args.output / MARKDOWN_FILE}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(CleanArgs, CLEAN, __doc__, argv)
    run_command(CLEAN, lambda: clean_and_print(args))


if __name__ == "__main__":
    main()
