r"""Roll-outs: every roll-in is cut at random places, and each prefix is completed by one policy.

python -m data_prep.roll_out --input outputs/roll_ins --output outputs/roll_outs \
    --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --num_cuts 4

The input is the folder that `data_prep.roll_in` filled, with the roll-ins of all models in it. A
row is a problem, and has one entry for each completion: those of one prefix side by side, and those
of one roll-in:

    message_id, problem, solution, answer   strings
    prompt_ids                              list of int32
    roll_in                                 list of int32: which roll-in, over all models
    cut                                     list of int32: tokens of the roll-in before the cut
    roll_in_ids                             lists of int32: prompt and roll-in up to the cut
    roll_outs_ids                           lists of int32: the completion
    finish_reasons                          strings: stop, or length at the limit

`--max_length` limits the whole response: what stands before the cut counts.
"""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
import tyro

from data_prep.command_line import run_command
from data_prep.cuts import CutLaw, draw_cuts, draw_step_cuts, step_ends
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
from data_prep.roll_in import IDS
from data_prep.roll_in import PROGRAM as ROLL_IN
from data_prep.stages import STAGE_FILE, Chunk, FinishedStage, Stage
from run_lib.commands import InputError
from run_lib.seeds import derive_seed
from search_lib.engines.base import Block
from search_lib.prompts import prompt_holds

PROGRAM = "data_prep.roll_out"

SCHEMA = pa.schema(
    {
        "message_id": pa.string(),
        "problem": pa.string(),
        "solution": pa.string(),
        "answer": pa.string(),
        "prompt_ids": IDS,
        "roll_in": pa.list_(pa.int32()),
        "cut": pa.list_(pa.int32()),
        "roll_in_ids": pa.list_(IDS),
        "roll_outs_ids": pa.list_(IDS),
        "finish_reasons": pa.list_(pa.string()),
    }
)


ORIGIN_SETTINGS = ("model", "roll_ins", "temperature", "top_p", "max_length", "seed")
"""Of the roll-ins, what the next stages are told."""


@dataclass(frozen=True, kw_only=True)
class RollOutArgs(GenerationArgs):
    """Cut roll-ins and complete the prefixes."""

    input: str
    """Output folder of data_prep.roll_in."""
    output: Path
    """Folder to write to."""
    model: str
    """The policy that completes: folder or hub id. Its values are what is learned."""
    num_cuts: int = 4
    """Cuts of a roll-in."""
    num_completions: int = 1
    """Completions of a prefix."""
    cut: CutLaw = "sqrt"
    """Where a roll-in of n tokens is cut: sqrt draws the prefix length i in 1..n-1 with probability
    proportional to sqrt(i), uniform each alike, step at the ends of steps (uniform where there is
    none)."""
    step_delimiter: str = "\n\n"
    """What ends a step, for --cut step."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        super().check()
        for flag in ("num_cuts", "num_completions"):
            if getattr(self, flag) < 1:
                raise InputError(f"--{flag} must be at least 1, got {getattr(self, flag)}")
        if not self.step_delimiter:
            raise InputError("--step_delimiter must not be empty")


@dataclass(frozen=True)
class RollIns:
    """A problem and the responses of all policies to it.

    Args:
        id: of the problem.
        texts: problem, solution and answer by column.
        prompt: token ids.
        responses: [tokens] int32 each; views of the file.
    """

    id: str
    texts: dict[str, str]
    prompt: list[int]
    responses: list[np.ndarray]


class RollInFolders:
    """The roll-ins of several models, chunk by chunk.

    Args:
        folder: output of ``data_prep.roll_in``.

    Attributes:
        origin: of the roll-ins, for ``Stage``.
        rows_per_file: problems of a chunk.
        inputs: splits of the problems, for ``Stage``.

    Raises:
        InputError: if there are none, they are not finished, or not of the same problems.
    """

    def __init__(self, folder: Path):
        paths = sorted(path.parent for path in folder.glob(f"*/{STAGE_FILE}"))
        if not paths:
            raise InputError(f"--input {folder}: no output of {ROLL_IN}")
        self._stages = [FinishedStage(path, "--input", ROLL_IN) for path in paths]
        first = self._stages[0]
        for stage in self._stages[1:]:
            same = stage.inputs == first.inputs and all(
                stage.settings[name] == first.settings[name]
                for name in ("rows_per_file", "instruction")
            )
            if not same:
                raise InputError(
                    f"--input {folder}: {stage.folder.name} and {first.folder.name} differ in "
                    "their problems, --instruction or --rows_per_file"
                )
        self.models = {
            stage.settings["model"]: stage.settings["roll_ins"] for stage in self._stages
        }
        self.origin = {
            "roll_ins": [
                {
                    **stage.origin,
                    **{name: stage.settings[name] for name in ORIGIN_SETTINGS},
                    "left_out": dict(stage.report.bad_rows),
                }
                for stage in self._stages
            ]
        }
        self.rows_per_file: int = first.settings["rows_per_file"]
        digest = hashlib.sha256("".join(stage.digest for stage in self._stages).encode())
        self.inputs = {
            split: SplitOfRollIns(source["num_rows"], digest.hexdigest())
            for split, source in first.inputs.items()
        }

    def read(self, chunk: Chunk) -> tuple[list[RollIns], RowReport]:
        """The problems of a chunk that all models have roll-ins for, and a report of the others."""
        tables = [stage.read(chunk) for stage in self._stages]
        found: dict[int, list[tuple[pa.Table, int]]] = {}
        for table in tables:
            rows = table.column("row").to_pylist() if table is not None else []
            for index, row in enumerate(rows):
                found.setdefault(row, []).append((table, index))
        problems, report = [], RowReport()
        for _, places in sorted(found.items()):
            problem = join_roll_ins(places)
            if len(places) == len(tables):
                problems.append(problem)
            else:
                detail = f"{len(places)} of {len(tables)} models have roll-ins"
                report.add(BadRow(problem.id, "missing roll-ins", detail))
        # Rows that no model has roll-ins for were reported there.
        nowhere = chunk.stop - chunk.start - len(found)
        if nowhere:
            report.bad_rows["left out by roll_in"] += nowhere
        return problems, report


class SplitOfRollIns(NamedTuple):
    """See ``data_prep.sources.StageInput``."""

    num_rows: int
    digest: str


def join_roll_ins(places: Sequence[tuple[pa.Table, int]]) -> RollIns:
    """One problem from the tables of some models, each with the row that it is in."""
    table, index = places[0]
    row_id = table.column("message_id")[index].as_py()
    texts = {name: table.column(name)[index].as_py() for name in ("problem", "solution", "answer")}
    responses = [
        response.values.to_numpy()
        for table, index in places
        for response in table.column("response_ids")[index]
    ]
    return RollIns(row_id, texts, table.column("prompt_ids")[index].as_py(), responses)


async def build_row(sampler: Sampler, problem: RollIns, args: RollOutArgs) -> Generated:
    """Cuts the roll-ins of a problem and completes every prefix.

    Args:
        sampler: draws from the policy.
        problem: with its roll-ins.
        args: of the run.
    """
    policy = sampler.policy
    if not prompt_holds(policy.tokenizer, problem.prompt, problem.texts["problem"]):
        return left_out(
            problem.id, "tokenizer does not match", f"{policy.name} reads another prompt"
        )
    if max(int(response.max()) for response in problem.responses) >= policy.vocab_size:
        return left_out(
            problem.id, "tokenizer does not match", f"{policy.name} has no such token ids"
        )
    if len(problem.prompt) + args.max_length > policy.context:
        return left_out(
            problem.id,
            "prompt too long",
            f"{len(problem.prompt)} tokens and --max_length {args.max_length} exceed the context "
            f"of {policy.context}",
        )
    report = RowReport()
    prefixes: list[tuple[int, list[int]]] = []
    for number, response in enumerate(problem.responses):
        rng = random.Random(derive_seed(args.seed, problem.id, "cuts", number))
        cuts, fell_back = cut_response(response, args, policy, rng)
        report.totals["roll-ins without a step end"] += fell_back
        prefixes += [(number, response[:cut].tolist()) for cut in cuts]

    async def complete(index: int) -> list[Block]:
        _, prefix = prefixes[index]
        return await sampler.generate(
            problem.prompt + prefix,
            args.num_completions,
            args.max_length - len(prefix),
            *(problem.id, "roll-out", index),
            is_empty=lambda block: not block.token_ids,
            report=report,
        )

    results = await asyncio.gather(*map(complete, range(len(prefixes))), return_exceptions=True)
    blocks: list[list[Block]] = []
    for result in results:
        if isinstance(result, EmptyGeneration):
            return left_out(problem.id, "empty generation", str(result))
        if isinstance(result, ValueError):
            return left_out(problem.id, REFUSED, str(result))
        if isinstance(result, BaseException):
            raise result
        blocks.append(result)
    entries = [
        (number, prefix, block)
        for (number, prefix), drawn in zip(prefixes, blocks, strict=True)
        for block in drawn
    ]
    report.totals["responses"] += len(entries)
    report.totals["unfinished"] += sum(b.finish_reason == "length" for _, _, b in entries)
    report.totals["prefix tokens"] += sum(len(prefix) for _, prefix, _ in entries)
    report.totals["completion tokens"] += sum(len(block.token_ids) for _, _, block in entries)
    columns = {
        "message_id": problem.id,
        **problem.texts,
        "prompt_ids": problem.prompt,
        "roll_in": [number for number, _, _ in entries],
        "cut": [len(prefix) for _, prefix, _ in entries],
        "roll_in_ids": [problem.prompt + prefix for _, prefix, _ in entries],
        "roll_outs_ids": [block.token_ids for _, _, block in entries],
        "finish_reasons": [block.finish_reason for _, _, block in entries],
    }
    return Generated(columns, report)


def cut_response(
    response: np.ndarray, args: RollOutArgs, policy: Policy, rng: random.Random
) -> tuple[list[int], bool]:
    """Where a roll-in is cut, and whether that is at any token for want of a step's end.

    A roll-in longer than ``--max_length`` counts up to there.
    """
    # Something is left to generate behind a cut, within the limit.
    length = min(len(response), args.max_length)
    if args.cut != "step":
        return draw_cuts(length, args.num_cuts, args.cut, rng), False
    ends = step_ends(response[:length].tolist(), policy.tokenizer, args.step_delimiter)
    if ends:
        return draw_step_cuts(ends, args.num_cuts, rng), False
    return draw_cuts(length, args.num_cuts, "uniform", rng), True


def roll_out(args: RollOutArgs) -> None:
    """Makes the roll-outs of one shard.

    Raises:
        InputError: if something that was given can't be used.
        EngineUnavailable, EngineRefuses: see ``generate_stage``.
    """
    args.check()
    roll_ins = RollInFolders(Path(args.input))
    check_window(args.window, roll_ins.rows_per_file)
    policy = load_policy(args.model, "--model")
    settings = args.settings() | {
        "model": policy.name,
        "model_digest": policy.digest,
        "num_cuts": args.num_cuts,
        "num_completions": args.num_completions,
        "cut": args.cut,
        "step_delimiter": args.step_delimiter,
    }
    stage = Stage(
        args.output,
        settings,
        roll_ins.inputs,
        roll_ins.rows_per_file,
        args.shard,
        origin=roll_ins.origin,
    )

    async def build(sampler: Sampler, problem: RollIns) -> Generated:
        return await build_row(sampler, problem, args)

    try:
        asyncio.run(generate_stage(stage, policy, "--model", args, SCHEMA, roll_ins.read, build))
        print_finish(stage)
    finally:
        stage.close()


def main() -> None:
    """Command line."""
    args = tyro.cli(
        Annotated[RollOutArgs, tyro.conf.FlagCreatePairsOff],
        description=__doc__,
        use_underscores=True,
    )
    run_command(PROGRAM, roll_out, args)


if __name__ == "__main__":
    main()
