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

Killed at any moment, the same command goes on. Rows that can't be used are counted and named in
`report.json`.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.args import ROLL_IN, RollInArgs
    from run_lib.commands import check_command_line

    check_command_line(RollInArgs, ROLL_IN, __doc__)

import gc
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import transformers

from data_prep.args import ROLL_IN, RollInArgs
from data_prep.cleaning.filters.rows import text
from data_prep.columns import ASKED, ID_COLUMNS, ROLL_IN_SCHEMA
from data_prep.generation import (
    REFUSED,
    Generated,
    left_out,
    run_stage,
)
from data_prep.reports import BadRow, RowReport
from data_prep.sampling import EmptyGeneration, Sampler, load_policy
from data_prep.sources import RowSource, check_texts, open_sources, read_texts
from data_prep.stages import Chunk, Stage
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.settings import Settings, as_json
from search_lib.benchmark_rows import read_text
from search_lib.conversations import ControlTokensInProblem
from search_lib.engines.base import Block
from search_lib.engines.choice import settle_engine
from search_lib.prompts import PromptTemplate
from search_lib.thoughts import Thoughts


class Problem(NamedTuple):
    """A row of the input, with its number in its split."""

    row: int
    id: str
    problem: str
    solution: str
    answer: str


class RollInStage(Stage):
    """The output folder of one model; `--models` names the model and its number of roll-ins."""

    @staticmethod
    def parse_settings(saved: Mapping[str, Any]) -> Settings:
        """Returns the settings in the content of `STAGE_FILE`, under the names of their flags."""
        settings = Stage.parse_settings(saved)
        flags, contents = dict(settings.flags), dict(settings.contents)
        model, count, digest = flags.pop("model"), flags.pop("roll_ins"), contents.pop("model")
        flags["models"] = f"{model}:{count}"
        for name, value in ASKED.items():
            flags.setdefault(name, value)
        contents["models"] = f"{digest}:{count}" if digest else None
        return Settings(flags, contents)


class RollInRecipe:
    """How the roll-ins of one model are made.

    Args:
        sources: The problems by split.
        count: Roll-ins a problem.
        args: Flags of the run.
    """

    schema = ROLL_IN_SCHEMA

    def __init__(self, sources: Mapping[str, RowSource], count: int, args: RollInArgs):
        self._sources = sources
        self._count = count
        self._args = args
        self._template: PromptTemplate | None = None  # of the policy, once that is there

    def read(self, chunk: Chunk) -> tuple[list[Problem], RowReport]:
        """Returns the problems of a chunk, and a report of the rows without one."""
        return read_problems(self._sources[chunk.split], chunk)

    async def build(self, sampler: Sampler, problem: Problem) -> Generated:
        """Samples the roll-ins of a problem."""
        policy = sampler.policy
        max_length = self._args.sampling.max_length
        with naming(policy.flag):
            try:
                if self._template is None:
                    self._template = PromptTemplate(
                        policy.tokenizer,
                        self._args.prompt_text,
                        Thoughts.of(self._args.think_tags),
                    )
                prompt = self._template.prompt_ids(problem.problem)
            except ControlTokensInProblem as error:
                return left_out(problem.id, "control tokens", str(error))
        excess = policy.excess(prompt, max_length)
        if excess is not None:
            return left_out(problem.id, "prompt too long", excess)

        def is_empty(block: Block) -> bool:
            return not set(block.token_ids) - set(policy.stop_ids)

        report = RowReport()
        # The model's place must not matter, only which of several it is.
        purpose = (problem.id, "roll-in", Path(policy.name).name)
        try:
            blocks = await sampler.generate(
                prompt, self._count, max_length, purpose, is_empty, report
            )
        except EmptyGeneration as error:
            return left_out(problem.id, "empty generation", str(error))
        except ValueError as error:
            return left_out(problem.id, REFUSED, str(error))
        report.totals["responses"] += self._count
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


def parse_models(models: Sequence[str]) -> dict[str, int]:
    """Reads `name:count` as count by name.

    Raises:
        InputError: If one is anything else, or a name comes twice.
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
    """Returns the folder of a model's roll-ins."""
    return output / model.strip("./").replace("/", "--")


def select_splits(
    sources: Mapping[str, RowSource], splits: Sequence[str], source: str
) -> dict[str, RowSource]:
    """Returns the splits asked for, all if none are named.

    Raises:
        InputError: If there is no such split.
    """
    for split in splits:
        if split not in sources:
            raise InputError(f"--splits {split}: {source} has the splits {', '.join(sources)} only")
    return {split: rows for split, rows in sources.items() if not splits or split in splits}


def read_problems(source: RowSource, chunk: Chunk) -> tuple[list[Problem], RowReport]:
    """Returns the problems of a chunk, and a report of the rows without a problem or an answer."""
    id_column = next((name for name in ID_COLUMNS if name in source.column_names), None)
    optional = [name for name in (id_column, "solution") if name in source.column_names]
    table = source.read(chunk.start, chunk.stop, ["problem", "answer", *filter(None, optional)])
    problems: list[Problem] = []
    report = RowReport()
    for number, row in enumerate(read_texts(table), start=chunk.start):
        try:
            problem, answer = read_text(row, "problem"), read_text(row, "answer")
        except ValueError as error:
            report.add(BadRow(f"#{number}", "not text", str(error)))
            continue
        row_id = text(row, id_column) if id_column else ""
        if not row_id:
            digest = hashlib.sha256(problem.encode()).hexdigest()[:16]
            row_id = digest if problem.strip() else f"#{number}"
        if not problem.strip():
            report.add(BadRow(row_id, "no problem", f"row {number} of {chunk.split}"))
        elif not answer.strip():
            report.add(BadRow(row_id, "no answer", problem))
        else:
            solution = row.get("solution")
            as_it_is = solution if isinstance(solution, str) else text(row, "solution")
            problems.append(Problem(number, row_id, problem, as_it_is, answer))
    return problems, report


def roll_in(args: RollInArgs) -> None:
    """Samples the roll-ins of one shard with every model, one model after the other.

    Raises:
        InputError: If something that was given can't be used.
        EngineUnavailable, EngineRefuses: See `run_stage`.
    """
    args.check()
    args = replace(args, engine_flags=settle_engine(args.engine_flags))
    counts = parse_models(args.models)
    if args.engine_flags.engine == "sglang_server" and len(counts) > 1:
        raise InputError("--engine sglang_server: a server has one model, so name one in --models")
    with naming("--input"):
        sources = open_sources(args.input, required=("problem", "answer"))
        check_texts(sources, args.input, ("problem", "answer", "solution"))
    sources = select_splits(sources, args.splits, args.input)
    policies = [load_policy(name, "--models") for name in counts]
    for policy in policies:
        count = counts[policy.name]
        settings = as_json(args.sampling) | {
            "instruction": args.prompt_text,
            **{name: as_json(args)[name] for name in ASKED},
            "model": policy.name,
            "model_digest": policy.digest,
            "roll_ins": count,
        }
        stage = RollInStage(
            model_folder(args.output, policy.name),
            settings,
            sources,
            args.rows_per_file,
            args.shard,
            origin={"input": args.input},
        )
        run_stage(stage, RollInRecipe(sources, count, args), policy, args)
        gc.collect()  # the weights of the last model, before the next ones come


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(RollInArgs, ROLL_IN, __doc__, argv)
    transformers.utils.logging.disable_progress_bar()
    run_command(ROLL_IN, lambda: roll_in(args), at_once=True)


if __name__ == "__main__":
    main()
