"""Samples and labels value-model training data for the toy task, in the layout of OpenR1-VM.

    python -m data_prep.toy.rollouts --policy outputs/toy/policy --output outputs/toy/data

For every problem the policy writes a few *roll-ins*; each is cut at random places and every prefix
is completed once. A row holds all responses of one problem, those of one roll-in side by side:

    message_id, problem, solution, answer   strings
    roll_in_ids                             lists of int32: prompt + prefix
    roll_outs_ids                           lists of int32: the completion, never empty
    processed_answer                        strings: the boxed answer, null where there is none
    labels                                  int64: 0 incorrect, 1 correct, 2 unfinished
    reward                                  float64: 1.0 for label 1, else 0.0

A problem without a correct response is dropped, as in the paper, unless ``--keep_unsolved``. With
the paper's 56 responses a problem that is a tenth of the problems, with a dozen it is a fifth: the
value model then never sees how a hopeless problem looks.

The output is ``train/*.parquet`` and ``validation/*.parquet``, split by problem. Two processes with
one thread each (``OMP_NUM_THREADS=1``, ``--shard 0/2`` and ``--shard 1/2``) sample faster than one
with two. A shard is complete or absent, and a second run finds it and leaves it alone.
"""

import asyncio
import dataclasses
import hashlib
import os
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from tqdm import tqdm

from classifier_lib.atomic_files import write_json
from classifier_lib.commands import InputError
from data_prep.toy.sampling import CORRECT, INCORRECT, UNFINISHED, RolloutSampler, in_order
from data_prep.toy.settings import describe_difference, read_settings
from data_prep.toy.task import ToyProblem, training_problems
from search_lib.engines.hf import HfEngine
from search_lib.grading import Grader
from search_lib.prompts import load_tokenizer, stop_token_ids

SPLITS = ("train", "validation")
CONCURRENT_PROBLEMS = 128  # enough to fill the engine's batches; bounds the memory
ROW_GROUP = 128  # rows written at a time
LOG_EVERY = 50  # problems

IDS = pa.list_(pa.list_(pa.int32()))
SCHEMA = pa.schema(
    {
        "message_id": pa.string(),
        "problem": pa.string(),
        "solution": pa.string(),
        "answer": pa.string(),
        "reward": pa.list_(pa.float64()),
        "roll_in_ids": IDS,
        "roll_outs_ids": IDS,
        "processed_answer": pa.list_(pa.string()),
        "labels": pa.list_(pa.int64()),
    }
)


@dataclass(frozen=True)
class RolloutsConfig:
    """Roll-outs of the toy policy."""

    policy: Path
    """Folder of the policy (see data_prep.toy.policy)."""
    output: Path
    """Folder to write to."""
    num_problems: int = 1500
    """Problems of all shards together, validation included."""
    num_validation_problems: int = 100
    """The first so many problems make up the validation split."""
    num_roll_ins: int = 2
    """Responses that the policy starts for a problem."""
    num_cuts: int = 4
    """Cuts of a roll-in, each of which is completed once."""
    keep_unsolved: bool = False
    """Keep problems without a correct response, too."""
    temperature: float = 1.0
    """Softmax temperature of the policy; nothing is cut from its distribution."""
    seed: int = 0
    """Of the problems, the cuts and the samples."""
    shard: str = "0/1"
    """Part i/n of the problems, i from 0."""


class ParquetShard:
    """A Parquet file of rows that appears under its name when it is complete.

    Attributes:
        num_rows: appended so far.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.num_rows = 0
        self._temporary = path.with_name(path.name + ".tmp")
        self._file = self._temporary.open("wb")
        self._writer = pq.ParquetWriter(self._file, SCHEMA)
        self._rows: list[dict[str, Any]] = []

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row; ``ROW_GROUP`` of them are held in memory at most."""
        self.num_rows += 1
        self._rows.append(row)
        if len(self._rows) == ROW_GROUP:
            self._write_rows()

    def commit(self) -> None:
        """Completes the file."""
        self._write_rows()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)

    def _write_rows(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows = []


async def write_shard(config: RolloutsConfig, shard: int, num_shards: int) -> dict[str, Any]:
    """Samples the problems of one shard into its two files and returns the report."""
    rng = random.Random(f"toy roll-outs, {config.seed}")
    problems = list(enumerate(islice(training_problems(rng), config.num_problems)))
    problems = problems[shard::num_shards]
    name = f"{shard:05d}-of-{num_shards:05d}.parquet"
    splits = {split: ParquetShard(config.output / split / name) for split in SPLITS}
    labels: Counter[int] = Counter()

    policy = str(config.policy)
    tokenizer = load_tokenizer(policy)
    engine = HfEngine.load(policy)
    interactive = sys.stderr.isatty()
    start = time.monotonic()
    with Grader() as grader, tqdm(total=len(problems), disable=not interactive) as progress:
        sampler = RolloutSampler(
            engine,
            tokenizer,
            grader,
            stop_token_ids(policy, tokenizer),
            config.num_roll_ins,
            config.num_cuts,
            config.temperature,
        )

        async def build_row(numbered: tuple[int, ToyProblem]) -> dict[str, Any]:
            index, problem = numbered
            return await sampler.build_row(f"toy-{config.seed}-{index:06d}", problem)

        done = 0
        async for (index, _), row in in_order(build_row, problems, CONCURRENT_PROBLEMS):
            labels.update(row["labels"])
            if config.keep_unsolved or CORRECT in row["labels"]:
                split = "validation" if index < config.num_validation_problems else "train"
                splits[split].append(row)
            done += 1
            rate = sampler.num_tokens / (time.monotonic() - start)
            progress.set_postfix_str(f"{rate:,.0f} tok/s", refresh=False)
            progress.update()
            if not interactive and done % LOG_EVERY == 0:
                print(f"{done}/{len(problems)} problems, {rate:,.0f} tok/s", flush=True)
    seconds = time.monotonic() - start
    await engine.close()
    for split_file in splits.values():
        split_file.commit()
    return {
        "problems": len(problems),
        **{f"{split}_rows": splits[split].num_rows for split in SPLITS},
        "responses": {
            "incorrect": labels[INCORRECT],
            "correct": labels[CORRECT],
            "unfinished": labels[UNFINISHED],
        },
        "sampled_tokens": sampler.num_tokens,
        "seconds": round(seconds, 1),
    }


def parse_shard(shard: str) -> tuple[int, int]:
    """``"i/n"`` as (i, n).

    Raises:
        InputError: if it is anything else, or i is not in [0, n).
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if match is None or int(match[1]) >= int(match[2]):
        raise InputError(f"--shard {shard}: expected i/n with i from 0 to n - 1, e.g. 0/2")
    return int(match[1]), int(match[2])


def check_output(output: Path, num_shards: int, settings: dict[str, Any]) -> None:
    """Makes sure that what a folder holds already belongs to the data set about to be written.

    Raises:
        InputError: if it was sampled with other settings or another number of shards.
    """
    for path in (*output.glob("*-of-*.json"), *output.glob("*/*-of-*.parquet")):
        if not path.stem.endswith(f"-of-{num_shards:05d}"):
            difference = f"{path.name} is of another number of shards"
        else:
            found = read_settings(path) if path.suffix == ".json" else None
            difference = describe_difference(found["settings"], settings) if found else ""
        if difference:
            raise InputError(
                f"--output {output} holds other roll-outs: {difference}. "
                "Choose another folder or delete this one"
            )


def sample(config: RolloutsConfig) -> None:
    """Writes one shard, unless it is there already, and prints its report.

    Raises:
        InputError: for settings that make no sense, a policy that cannot be read, or an output
            folder with other data.
    """
    shard, num_shards = parse_shard(config.shard)
    weights = config.policy / "model.safetensors"
    if not weights.exists():
        raise InputError(f"--policy {config.policy}: there is no {weights.name} in this folder")
    for flag in ("num_problems", "num_roll_ins", "num_cuts"):
        if getattr(config, flag) < 1:
            raise InputError(f"--{flag} must be at least 1, got {getattr(config, flag)}")
    with weights.open("rb") as file:
        # Of the weights, not the folder's name: a policy trained anew makes other data.
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    settings = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in ("policy", "output", "shard")
    } | {"policy_sha256": fingerprint}
    check_output(config.output, num_shards, settings)

    report_path = config.output / f"{shard:05d}-of-{num_shards:05d}.json"
    finished = read_settings(report_path)
    if finished is not None:
        print(f"{config.output}: shard {config.shard} is complete (cached)")
        report = finished["report"]
    else:
        report = asyncio.run(write_shard(config, shard, num_shards))
        # Last of all: the files are complete when it is there.
        write_json(report_path, {"settings": settings, "report": report})
    print_report(report)


def print_report(report: dict[str, Any]) -> None:
    """Prints what a shard holds and what it took."""
    rows = [report[f"{split}_rows"] for split in SPLITS]
    responses = report["responses"]
    shares = ", ".join(
        f"{count / sum(responses.values()):.1%} {label}" for label, count in responses.items()
    )
    rate = report["sampled_tokens"] / report["seconds"]
    print(f"problems          {report['problems']:,}")
    print(f"rows              {rows[0]:,} train, {rows[1]:,} validation")
    print(f"dropped           {report['problems'] - sum(rows):,} without a correct response")
    print(f"responses         {shares}, dropped problems included")
    print(f"sampled           {report['sampled_tokens']:,} tokens in {report['seconds']} s")
    print(f"throughput        {rate:,.0f} tok/s")


def main() -> None:
    """Command line."""
    config = tyro.cli(
        Annotated[RolloutsConfig, tyro.conf.FlagCreatePairsOff],
        description=__doc__,
        use_underscores=True,
    )
    try:
        sample(config)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
