r"""One run on many machines: the searches of each shard, and the merge of all shards into one run.

Searches are dealt out like cards: shard i of n has the searches i, i + n, i + 2n, ... of the run's
order, problem by problem and within it repetition by repetition. So the repetitions of a problem
are spread over the shards, all shards work through the benchmark from its start, and each has its
share of the hard problems: the first problems are complete early, and the shards end together.
With `--stop`, where a tree depends on those before it, whole problems are dealt out in this way.

The shards of a run become one run by

    python -m search_lib.results.shards merge outputs/aime-24/shard-*-of-8/records.jsonl \
        --output_path outputs/aime-24/records.jsonl
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

import filecmp
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple, Self, TypeVar

import tyro

from run_lib.commands import InputError, parse_shard, run_command
from run_lib.files import atomic_file
from run_lib.settings import free_flags
from run_lib.text import some_of
from search_lib.plugins import PluginFlag
from search_lib.results.blocks import BLOCKS_NAME, RunBlocks
from search_lib.results.record_log import NotARecord, read_lines
from search_lib.results.records import (
    Record,
    RecordFile,
    RecordKey,
    describe,
    parse_record,
)
from search_lib.results.run_config import FORMER_FLAGS, RunConfig, holds_something
from search_lib.results.summary import check_votes, report
from search_lib.search_args import Args

PROGRAM = "python -m search_lib.results.shards"

Asked = TypeVar("Asked")


def shard_path(output_path: Path, index: int, count: int) -> Path:
    """Returns the place of a shard's records: a folder of its own below that of the run."""
    return output_path.parent / f"shard-{index}-of-{count}" / output_path.name


def searches_of(
    problems: Sequence[Asked],
    num_repetitions: int,
    index: int,
    count: int,
    is_stopped: bool = False,
) -> list[tuple[Asked, int]]:
    """Returns the (problem, repetition) pairs of a shard, in the order of the run.

    Args:
        problems: The problems of the run.
        num_repetitions: Most trees of a problem.
        index: Number of the shard, from 0.
        count: Number of shards.
        is_stopped: Whether the run stops problems.
    """
    dealt = problems[index::count] if is_stopped else problems
    searches = [(problem, r) for problem in dealt for r in range(num_repetitions)]
    return searches if is_stopped else searches[index::count]


def needed_searches(searches: Sequence[RecordKey], num_trees: Mapping[str, int]) -> list[RecordKey]:
    """Returns the searches without those that problems did without.

    Args:
        searches: The searches.
        num_trees: Number of trees by problem, of those that stopped.
    """
    return [(own, tree) for own, tree in searches if tree < num_trees.get(own, tree + 1)]


class Place(NamedTuple):
    """Place of a record in a file."""

    path: Path
    start: int
    size: int


class FoundRecords(NamedTuple):
    """The records of a shard.

    Attributes:
        places: Place of each.
        lacking: Searches that should have one, too.
        num_damaged: Damaged lines.
    """

    places: dict[RecordKey, Place]
    lacking: list[RecordKey]
    num_damaged: int


@dataclass(frozen=True)
class Shard:
    """A shard's file of records.

    Attributes:
        path: The file.
        config: Configuration of its run.
        index: Number of the shard, from 0.
        count: Number of shards.
    """

    path: Path
    config: RunConfig
    index: int
    count: int

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads the configuration of a shard; a run without `--shard` is shard 0 of 1.

        Raises:
            InputError: If there are no records, or they are of an unknown run.
        """
        if not path.is_file():
            raise InputError(f"{path}: there is no such file of records")
        _, config = RunConfig.find(path)
        return cls(path, config, *parse_shard(config.flags.get("shard") or "0/1"))

    @property
    def name(self) -> str:
        """Name of the shard in messages."""
        return f"shard {self.index}/{self.count} ({self.path})"

    @property
    def searches(self) -> list[RecordKey]:
        """Searches of the shard, in order, if no problem stops."""
        config = self.config
        repetitions = config.flags["num_repetitions"]
        parts = self.index, self.count
        return searches_of(config.problem_ids, repetitions, *parts, config.is_stopped)

    def find_records(self) -> "FoundRecords":
        """Returns the place of each search's record.

        Raises:
            InputError: At a search that is another shard's, or that occurs twice.
        """
        own = set(self.searches)
        places: dict[RecordKey, Place] = {}
        num_trees: dict[str, int] = {}
        damaged = 0
        for line in read_lines(Record, self.path):
            if line.record is None:
                damaged += 1
                continue
            key = line.record.key
            if key not in own or key in places:
                fault = "occurs twice" if key in places else "is not one of this shard's searches"
                raise InputError(f"{self.name}, line {line.number}: {describe(key)} {fault}")
            places[key] = Place(self.path, line.start, len(line.content))
            if line.record.is_enough:
                num_trees[line.record.problem_id] = line.record.repetition + 1
        needed = needed_searches(self.searches, num_trees)
        return FoundRecords(places, [key for key in needed if key not in places], damaged)


def merge(
    files: tyro.conf.Positional[tuple[Path, ...]], output_path: Path, plugin: Path | None = None
) -> None:
    """Joins all shards of a run into the folder of one run, with its configuration and metrics.

    Records and their blocks are copied as they are, one in memory at a time, in the order of the
    run: the files do not depend on the number of shards, but for their times. Killed at any moment,
    it can be run again; run twice, it changes nothing.

    Args:
        files: The shards' files of records, in any order.
        output_path: The run's file of records. Its folder also gets run_config.json, metrics.json
            and answers.jsonl, and blocks.jsonl if a shard has it.
        plugin: That of the run, if it asks for a vote of its own.

    Raises:
        InputError: If the shards overlap, are of different configurations or not all of the run,
            naming files, flags and searches; or if the output holds other records.
    """
    if output_path.suffix != ".jsonl":
        raise InputError(f"--output_path must end in .jsonl, got {output_path}")
    if not files:
        raise InputError("no shards to merge")
    PluginFlag(plugin).load()
    shards = sorted(map(Shard.open, files), key=lambda shard: shard.index)
    check_one_run(shards)
    check_votes(shards[0].config)
    places = find_all_records(shards)
    first = shards[0].config
    config = replace(first, flags=first.flags | {"shard": None, "output_path": output_path.name})
    with RecordFile(output_path):
        config.bind(output_path, free_flags(Args))
        # The blocks are there before the records, as in a run.
        with atomic_file(output_path) as file, merged_blocks(shards, output_path) as blocks:
            order = searches_of(config.problem_ids, config.flags["num_repetitions"], 0, 1)
            for key in (key for key in order if key in places):
                copy_search(key, places[key], file, blocks)
            file.flush()
            old = holds_something(output_path)
            if old and not filecmp.cmp(file.name, output_path, shallow=False):
                raise InputError(
                    f"--output_path {output_path} holds other records; remove it to merge anew"
                )
        print(f"{len(places)} searches of {len(shards)} shards")
        # Those of runs with --no_save_blocks lack nothing.
        has_blocks = any(shard.config.flags.get("save_blocks", True) for shard in shards)
        has_blocks |= output_path.with_name(BLOCKS_NAME).is_file()
        if blocks.num_missing and has_blocks:
            print(f"{blocks.num_missing} of them lack their blocks: no {BLOCKS_NAME} has them")
        report(output_path, config)


class BlocksMerger:
    """Copies the blocks of searches from the files that have them into one.

    Args:
        sources: Where they may be.
        file: The one file.

    Attributes:
        num_missing: Searches whose blocks no source has.
    """

    def __init__(self, sources: Sequence[RunBlocks], file: IO[bytes]):
        self.num_missing = 0
        self._sources = sources
        self._file = file

    def copy(self, record: Record) -> None:
        """Copies the blocks that belong to a record, if they are there."""
        lines = (source.line_of(record) for source in self._sources)
        line = next((line for line in lines if line is not None), None)
        if line is None:
            self.num_missing += 1
        else:
            self._file.write(line.rstrip(b"\n") + b"\n")


@contextmanager
def merged_blocks(shards: Sequence[Shard], output_path: Path) -> Iterator[BlocksMerger]:
    """Yields what copies the blocks of the shards beside the merged records.

    What an earlier merge has copied counts as a source. Where there is none, no file is made.
    """
    sources = [RunBlocks(path) for path in [*(shard.path for shard in shards), output_path]]
    sources = [source for source in sources if source.path.is_file()]
    if not sources:
        yield BlocksMerger([], BytesIO())
        return
    with atomic_file(output_path.with_name(BLOCKS_NAME)) as file:
        yield BlocksMerger(sources, file)


def check_one_run(shards: Sequence[Shard]) -> None:
    """Raises InputError unless the shards, sorted by index, make up one run, each of them once."""
    first = shards[0]
    for shard in shards[1:]:
        differing = first.config.settings.differences(
            shard.config.settings,
            free_flags(Args) | FORMER_FLAGS | {"shard", "output_path"},
            "{} and {}",
        )
        if differing:
            raise InputError(
                f"{first.path} and {shard.path} are of different configurations; differing: "
                f"{', '.join(differing)}"
            )
        if shard.count != first.count:
            raise InputError(f"{first.name} and {shard.name} are of different numbers of shards")
    for shard, other in pairwise(shards):
        if shard.index == other.index:
            raise InputError(f"{shard.name} is there twice, also as {other.path}")
    each = 1 if first.config.is_stopped else first.config.flags["num_repetitions"]
    total = len(first.config.problem_ids) * each
    with_searches = range(min(first.count, total))
    missing = sorted(set(with_searches) - {shard.index for shard in shards})
    if missing:
        names = [f"{index}/{first.count}" for index in missing]
        raise InputError(f"{len(missing)} of {first.count} shards are missing: {some_of(names)}")


def find_all_records(shards: Sequence[Shard]) -> dict[RecordKey, Place]:
    """Returns the place of every search's record.

    Raises:
        InputError: Naming the searches that no shard has.
    """
    places: dict[RecordKey, Place] = {}
    gaps = []
    for shard in shards:
        found = shard.find_records()
        places |= found.places
        if found.lacking:
            lines = f", with {found.num_damaged} damaged lines," if found.num_damaged else ""
            named = some_of(list(map(describe, found.lacking)), separator="; ")
            gaps.append(f"{shard.name}{lines} lacks {len(found.lacking)} searches: {named}")
    if gaps:
        raise InputError(". ".join([*gaps, "The same command with the same --shard runs them"]))
    return places


def copy_search(key: RecordKey, place: Place, file: IO[bytes], blocks: BlocksMerger) -> None:
    """Copies a record and its blocks; its own function, so that no two are in memory."""
    line, record = read_record(key, place)
    file.write(line)
    blocks.copy(record)


def read_record(key: RecordKey, place: Place) -> tuple[bytes, Record]:
    """Returns the line of a record that was found before, with its newline, and the record.

    Raises:
        InputError: If the file has changed since.
    """
    with place.path.open("rb") as file:
        file.seek(place.start)
        line = file.read(place.size)
    changed = InputError(f"{place.path} was changed while it was merged")
    try:
        record = parse_record(line)
    except NotARecord:
        raise changed from None
    if record is None or record.key != key:
        raise changed
    return line.rstrip(b"\n") + b"\n", record


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `python -m search_lib.results.shards`."""
    run_command(
        PROGRAM,
        lambda: tyro.extras.subcommand_cli_from_dict(
            {"merge": merge}, args=argv, prog=PROGRAM, use_underscores=True
        ),
    )


if __name__ == "__main__":
    main()
