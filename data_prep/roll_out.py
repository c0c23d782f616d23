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

`--max_length` limits the whole response: tokens before the cut count.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.args import ROLL_OUT, RollOutArgs
    from run_lib.commands import check_command_line

    check_command_line(RollOutArgs, ROLL_OUT, __doc__)

import asyncio
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import transformers

from data_prep.args import ROLL_IN, ROLL_OUT, CutFlags, RollOutArgs
from data_prep.columns import ASKED, ROLL_OUT_SCHEMA
from data_prep.cuts import draw_cuts, draw_step_cuts, step_ends
from data_prep.generation import REFUSED, Generated, left_out, run_stage
from data_prep.reports import BadRow, RowReport
from data_prep.sampling import EmptyGeneration, Policy, Sampler, load_policy
from data_prep.stages import STAGE_FILE, Chunk, FinishedStage, Stage
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.seeds import derive_seed
from run_lib.settings import Settings, as_json
from search_lib.engines.base import Block
from search_lib.engines.choice import settle_engine
from search_lib.prompts import prompt_holds

ORIGIN_SETTINGS = ("model", "roll_ins", "temperature", "top_p", "max_length", "seed")
"""Settings of the roll-ins that the next stages are told."""


@dataclass(frozen=True)
class RollIns:
    """A problem and the responses of all policies to it.

    Attributes:
        id: Id of the problem.
        texts: Problem, solution and answer by column.
        prompt: Token ids of the prompt.
        responses: [tokens] int32 each; views of the file.
    """

    id: str
    texts: dict[str, str]
    prompt: list[int]
    responses: list[np.ndarray]


class SplitOfRollIns(NamedTuple):
    """One split of the roll-ins: a `data_prep.stages.StageInput`."""

    num_rows: int
    digest: str


def asked(stage: FinishedStage) -> dict[str, Any]:
    """Returns the settings of some roll-ins that tell how their answers are read."""
    return {name: stage.settings.get(name, usual) for name, usual in ASKED.items()}


class RollInFolders:
    """The roll-ins of several models, chunk by chunk.

    Args:
        folder: Output of `data_prep.roll_in`.

    Attributes:
        origin: Settings and counts of the roll-ins, for `Stage`.
        rows_per_file: Problems of a chunk.
        inputs: Splits of the problems, for `Stage`.

    Raises:
        ValueError: If there are none, they are not finished, or not of the same problems; begins
            with the folder.
    """

    def __init__(self, folder: Path):
        # The star also stands for the hidden folder of data_prep.clean.
        paths = sorted(path.parent for path in folder.glob(f"[!.]*/{STAGE_FILE}"))
        if not paths:
            raise ValueError(f"{folder}: no output of {ROLL_IN}")
        self._stages = [FinishedStage(path, ROLL_IN) for path in paths]
        for stage in self._stages:
            if not stage.settings.keys() >= set(ORIGIN_SETTINGS):
                raise ValueError(f"{stage.folder}: no output of {ROLL_IN}")
        first = self._stages[0]
        for stage in self._stages[1:]:
            same = stage.inputs == first.inputs and all(
                stage.settings[name] == first.settings[name]
                for name in ("rows_per_file", "instruction")
            )
            same = same and asked(stage) == asked(first)
            if not same:
                raise ValueError(
                    f"{folder}: {stage.folder.name} and {first.folder.name} differ in "
                    "their problems, or in the instruction, --answer_format, --think_tags or "
                    f"--rows_per_file of {ROLL_IN}"
                )
        self.origin = {
            "roll_ins": [
                {
                    **stage.origin,
                    **{name: stage.settings[name] for name in ORIGIN_SETTINGS},
                    **asked(stage),
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
        """Returns the problems that all models have roll-ins for, and a report of the others."""
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
        nowhere = chunk.num_rows - len(found)
        if nowhere:
            report.bad_rows["left out by roll_in"] += nowhere
        return problems, report


def join_roll_ins(places: Sequence[tuple[pa.Table, int]]) -> RollIns:
    """Joins one problem from the tables of some models, each with its row there."""
    table, index = places[0]
    row_id = table.column("message_id")[index].as_py()
    texts = {name: table.column(name)[index].as_py() for name in ("problem", "solution", "answer")}
    responses = [
        response.values.to_numpy()
        for table, index in places
        for response in table.column("response_ids")[index]
    ]
    return RollIns(row_id, texts, table.column("prompt_ids")[index].as_py(), responses)


class RollOutStage(Stage):
    """The output folder of the roll-outs. Its files are those of the roll-ins."""

    @staticmethod
    def parse_settings(saved: Mapping[str, Any]) -> Settings:
        """Returns the settings in the content of `STAGE_FILE`, under the names of their flags."""
        settings = Stage.parse_settings(saved)
        # Not a flag here: it follows from the input.
        flags = {name: value for name, value in settings.flags.items() if name != "rows_per_file"}
        return Settings(flags, settings.contents)


class Prefix(NamedTuple):
    """The beginning of a roll-in.

    Attributes:
        roll_in: Number of the roll-in, over all models.
        token_ids: Its tokens before the cut, without the prompt.
    """

    roll_in: int
    token_ids: list[int]


class RollOutRecipe:
    """How the roll-ins of a problem are cut and completed.

    Args:
        roll_ins: The roll-ins of all models.
        args: Flags of the run.
    """

    schema = ROLL_OUT_SCHEMA

    def __init__(self, roll_ins: RollInFolders, args: RollOutArgs):
        self._roll_ins = roll_ins
        self._sampling = args.sampling
        self._cuts = args.cuts

    def read(self, chunk: Chunk) -> tuple[list[RollIns], RowReport]:
        """Returns the problems that all models have roll-ins for, and a report of the others."""
        return self._roll_ins.read(chunk)

    async def build(self, sampler: Sampler, problem: RollIns) -> Generated:
        """Cuts the roll-ins of a problem and completes every prefix."""
        policy = sampler.policy
        mismatch = find_mismatch(problem, policy)
        if mismatch is not None:
            return left_out(problem.id, "tokenizer does not match", mismatch)
        excess = policy.excess(problem.prompt, self._sampling.max_length)
        if excess is not None:
            return left_out(problem.id, "prompt too long", excess)
        report = RowReport()
        prefixes = self._cut(problem, policy, report)
        try:
            blocks = await self._complete(sampler, problem, prefixes, report)
        except EmptyGeneration as error:
            return left_out(problem.id, "empty generation", str(error))
        except ValueError as error:
            return left_out(problem.id, REFUSED, str(error))
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

    def _cut(self, problem: RollIns, policy: Policy, report: RowReport) -> list[Prefix]:
        prefixes: list[Prefix] = []
        for number, response in enumerate(problem.responses):
            rng = random.Random(derive_seed(self._sampling.seed, problem.id, "cuts", number))
            # Something is left to generate behind a cut, within the limit.
            token_ids = response[: self._sampling.max_length].tolist()
            cuts, fell_back = cut_response(token_ids, self._cuts, policy, rng)
            report.totals["roll-ins without a step end"] += fell_back
            prefixes += [Prefix(number, token_ids[:cut]) for cut in cuts]
        return prefixes

    async def _complete(
        self, sampler: Sampler, problem: RollIns, prefixes: Sequence[Prefix], report: RowReport
    ) -> list[list[Block]]:
        """Returns the completions of each prefix.

        Raises:
            ValueError: The error of the first prefix that couldn't be completed.
        """

        async def complete(index: int, prefix: Prefix) -> list[Block]:
            return await sampler.generate(
                problem.prompt + prefix.token_ids,
                self._cuts.num_completions,
                self._sampling.max_length - len(prefix.token_ids),
                (problem.id, "roll-out", index),
                lambda block: not block.token_ids,
                report,
            )

        # Collected, as the first error to arrive may be of any prefix.
        results = await asyncio.gather(
            *(complete(index, prefix) for index, prefix in enumerate(prefixes)),
            return_exceptions=True,
        )
        blocks: list[list[Block]] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            blocks.append(result)
        return blocks


def find_mismatch(problem: RollIns, policy: Policy) -> str | None:
    """Describes why a policy can't continue the token ids of a problem; None if it can."""
    if not prompt_holds(policy.tokenizer, problem.prompt, problem.texts["problem"]):
        return f"{policy.name} reads another prompt"
    if max(int(response.max()) for response in problem.responses) >= policy.vocab_size:
        return f"{policy.name} has no such token ids"
    return None


def cut_response(
    token_ids: Sequence[int], flags: CutFlags, policy: Policy, rng: random.Random
) -> tuple[list[int], bool]:
    """Draws the places where a roll-in is cut.

    Args:
        token_ids: The roll-in, up to `--max_length`.
        flags: How it is cut.
        policy: The policy that completes the prefixes.
        rng: Source of the draws.

    Returns:
        The cuts, and whether they are at any token because no step ends.
    """
    if flags.cut != "step":
        return draw_cuts(len(token_ids), flags.num_cuts, flags.cut, rng), False
    ends = step_ends(token_ids, policy.tokenizer, flags.step_delimiter)
    if ends:
        return draw_step_cuts(ends, flags.num_cuts, rng), False
    return draw_cuts(len(token_ids), flags.num_cuts, "uniform", rng), True


def roll_out(args: RollOutArgs) -> None:
    """Makes the roll-outs of one shard.

    Raises:
        InputError: If something that was given can't be used.
        EngineUnavailable, EngineRefuses: See `run_stage`.
    """
    args.check()
    args = replace(args, engine_flags=settle_engine(args.engine_flags))
    with naming("--input"):
        roll_ins = RollInFolders(Path(args.input))
    if args.window < roll_ins.rows_per_file:
        raise InputError(
            f"--window {args.window} must be at least {roll_ins.rows_per_file}, the "
            f"--rows_per_file of {ROLL_IN}"
        )
    policy = load_policy(args.model, "--model")
    settings = {
        **as_json(args.sampling),
        "model": policy.name,
        "model_digest": policy.digest,
        **as_json(args.cuts),
    }
    stage = RollOutStage(
        args.output,
        settings,
        roll_ins.inputs,
        roll_ins.rows_per_file,
        args.shard,
        origin=roll_ins.origin,
    )
    run_stage(stage, RollOutRecipe(roll_ins, args), policy, args)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(RollOutArgs, ROLL_OUT, __doc__, argv)
    transformers.utils.logging.disable_progress_bar()
    run_command(ROLL_OUT, lambda: roll_out(args), at_once=True)


if __name__ == "__main__":
    main()
