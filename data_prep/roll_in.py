r"""Roll-ins: whole responses of one or several policies to every problem.

python -m data_prep.roll_in --input outputs/openr1_cleaned --output outputs/roll_ins \
    --models deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B:4 \
             deepseek-ai/DeepSeek-R1-Distill-Qwen-7B:4 \
             deepseek-ai/DeepSeek-R1-Distill-Qwen-14B:3 \
             deepseek-ai/DeepSeek-R1-Distill-Qwen-32B:3

The input has the columns `problem` and `answer`, and may have `solution` and an id (`message_id`,
`uuid` or `id`; else a hash of the problem stands for it). Every split of it is rolled in, or those
of `--splits`. Each model gets a folder below `--output`, and further models may be added later; a
server has one model, so with `--engine sglang_server` each has a command of its own. A row of such
a folder is a problem:

    row                                     int32: of the problem in its split of the input
    message_id, problem, solution, answer   strings
    prompt_ids                              list of int32: up to where the policy's thought begins
    response_ids                            lists of int32, one a roll-in
    finish_reasons                          strings: stop, or length at the limit

Killed at any moment, the same command goes on. Rows that nothing can be made of are counted and
named in `report.json`.
"""

import asyncio
import gc
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import tyro

from data_prep.command_line import run_command
from data_prep.generation import (
    REFUSED,
    EmptyGeneration,
    Generated,
    GenerationArgs,
    Policy,
    Sampler,
    check_window,
    generate_stage,
    left_out,
    load_policy,
    print_finish,
)
from data_prep.reports import BadRow, RowReport
from data_prep.sources import ID_COLUMNS, RowSource, open_sources, read_texts
from data_prep.stages import Chunk, Stage
from run_lib.commands import InputError
from search_lib.engines.base import Block
from search_lib.prompts import MATH_INSTRUCTION, build_prompt

PROGRAM = "data_prep.roll_in"

IDS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    {
        "row": pa.int32(),
        "message_id": pa.string(),
        "problem": pa.string(),
        "solution": pa.string(),
        "answer": pa.string(),
        "prompt_ids": IDS,
        "response_ids": pa.list_(IDS),
        "finish_reasons": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True, kw_only=True)
class RollInArgs(GenerationArgs):
    """Sample roll-ins for every problem."""

    input: str
    """Problems: output folder of data_prep.clean, Parquet file or folder, or hub id."""
    output: Path
    """Folder; every model gets one below it."""
    models: tuple[str, ...]
    """Policies with their number of roll-ins a problem: folder or hub id, a colon, a number."""
    splits: tuple[str, ...] = ()
    """Splits of the input to roll in; by default all."""
    instruction: str = MATH_INSTRUCTION
    """What the prompt says after the problem."""
    rows_per_file: int = 16
    """Problems that make one file; what a kill loses is the files in the making."""


class Problem(NamedTuple):
    """A row of the input, with its number in its split."""

    row: int
    id: str
    problem: str
    solution: str
    answer: str


def parse_models(models: Sequence[str]) -> dict[str, int]:
    """``name:count`` as name -> count.

    Raises:
        InputError: if one is anything else, or a name comes twice.
    """
    counts: dict[str, int] = {}
    for model in models:
        name, colon, count = model.rpartition(":")
        if not name or not colon or not count.isascii() or not count.isdigit() or int(count) < 1:
            raise InputError(
                f"--models {model}: expected a folder or hub id, a colon and the number of "
                "roll-ins a problem, e.g. deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B:4"
            )
        if name in counts:
            raise InputError(f"--models {name} is named twice")
        counts[name] = int(count)
    if not counts:
        raise InputError("--models names no model")
    return counts


def model_folder(output: Path, model: str) -> Path:
    """The folder of a model's roll-ins."""
    return output / model.strip("./").replace("/", "--")


def select_splits(
    sources: Mapping[str, RowSource], splits: Sequence[str], source: str
) -> dict[str, RowSource]:
    """The splits asked for, all if none are named.

    Raises:
        InputError: if there is no such split.
    """
    for split in splits:
        if split not in sources:
            raise InputError(f"--splits {split}: {source} has the splits {', '.join(sources)} only")
    return {split: rows for split, rows in sources.items() if not splits or split in splits}


def read_problems(source: RowSource, chunk: Chunk) -> tuple[list[Problem], RowReport]:
    """The problems of a chunk, and a report of the rows that are none."""
    id_column = next((name for name in ID_COLUMNS if name in source.column_names), None)
    optional = [name for name in (id_column, "solution") if name in source.column_names]
    table = source.read(chunk.start, chunk.stop, ["problem", "answer", *filter(None, optional)])
    problems: list[Problem] = []
    report = RowReport()
    for number, row in enumerate(read_texts(table), start=chunk.start):
        problem = _text(row["problem"])
        row_id = _text(row[id_column]) if id_column else ""
        if not row_id:
            row_id = hashlib.sha256(problem.encode()).hexdigest()[:16] if problem else f"#{number}"
        answer = _text(row["answer"])
        if not problem:
            report.add(BadRow(row_id, "no problem", f"row {number} of {chunk.split}"))
        elif not answer:
            report.add(BadRow(row_id, "no answer", problem))
        else:
            problems.append(Problem(number, row_id, problem, _text(row.get("solution")), answer))
    return problems, report


def _text(value: Any) -> str:
    return "" if value is None or not str(value).strip() else str(value)


async def build_row(sampler: Sampler, problem: Problem, count: int, args: RollInArgs) -> Generated:
    """Samples the roll-ins of a problem.

    Args:
        sampler: draws from the policy.
        problem: to be solved.
        count: roll-ins.
        args: of the run.
    """
    policy = sampler.policy
    prompt = build_prompt(policy.tokenizer, problem.problem, args.instruction)
    if len(prompt) + args.max_length > policy.context:
        return left_out(
            problem.id,
            "prompt too long",
            f"{len(prompt)} tokens and --max_length {args.max_length} exceed the context of "
            f"{policy.context}",
        )

    def is_empty(block: Block) -> bool:
        return not set(block.token_ids) - set(policy.stop_ids)

    report = RowReport()
    # The model's place must not matter, only which of several it is.
    purpose = (problem.id, "roll-in", Path(policy.name).name)
    try:
        blocks = await sampler.generate(
            prompt, count, args.max_length, *purpose, is_empty=is_empty, report=report
        )
    except EmptyGeneration as error:
        return left_out(problem.id, "empty generation", str(error))
    except ValueError as error:
        return left_out(problem.id, REFUSED, str(error))
    report.totals["responses"] += count
    report.totals["tokens"] += sum(len(block.token_ids) for block in blocks)
    report.totals["unfinished"] += sum(block.finish_reason == "length" for block in blocks)
    columns = {
        "row": problem.row,
        "message_id": problem.id,
        "problem": problem.problem,
        "solution": problem.solution,
        "answer": problem.answer,
        "prompt_ids": prompt,
        "response_ids": [block.token_ids for block in blocks],
        "finish_reasons": [block.finish_reason for block in blocks],
    }
    return Generated(columns, report)


def roll_in(args: RollInArgs) -> None:
    """Samples the roll-ins of one shard with every model, one model after the other.

    Raises:
        InputError: if something that was given can't be used.
        EngineUnavailable, EngineRefuses: see ``generate_stage``.
    """
    args.check()
    check_window(args.window, args.rows_per_file)
    counts = parse_models(args.models)
    if args.engine == "sglang_server" and len(counts) > 1:
        raise InputError("--engine sglang_server: a server has one model, so name one in --models")
    sources = select_splits(
        open_sources(args.input, required=("problem", "answer")), args.splits, args.input
    )
    policies = [load_policy(name, "--models") for name in counts]
    for policy in policies:
        roll_in_with(policy, counts[policy.name], sources, args)
        gc.collect()  # the weights of the last model, before the next ones come


def roll_in_with(
    policy: Policy, count: int, sources: Mapping[str, RowSource], args: RollInArgs
) -> None:
    """Samples the roll-ins of one shard with one model."""
    settings = args.settings() | {
        "instruction": args.instruction,
        "model": policy.name,
        "model_digest": policy.digest,
        "roll_ins": count,
    }
    stage = Stage(
        model_folder(args.output, policy.name),
        settings,
        sources,
        args.rows_per_file,
        args.shard,
        origin={"input": args.input},
    )

    async def build(sampler: Sampler, problem: Problem) -> Generated:
        return await build_row(sampler, problem, count, args)

    def read(chunk: Chunk) -> tuple[list[Problem], RowReport]:
        return read_problems(sources[chunk.split], chunk)

    try:
        asyncio.run(generate_stage(stage, policy, "--models", args, SCHEMA, read, build))
        print_finish(stage)
    finally:
        stage.close()


def main() -> None:
    """Command line."""
    args = tyro.cli(
        Annotated[RollInArgs, tyro.conf.FlagCreatePairsOff],
        description=__doc__,
        use_underscores=True,
    )
    run_command(PROGRAM, roll_in, args)


if __name__ == "__main__":
    main()
