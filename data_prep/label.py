r"""Labels: grades roll-outs and writes a value-model training set in the columns of OpenR1-VM.

python -m data_prep.label --input outputs/roll_outs --output outputs/openr1_vm \
    --tokenizer deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B

A row is a problem; its lists have one entry for each completion, those of one roll-in side by side:

    message_id, problem, solution, answer   strings
    reward                                  float64: 1.0 for label 1, else 0.0
    roll_in_ids                             lists of int32: prompt and prefix
    roll_outs_ids                           lists of int32: the completion, never empty
    processed_answer                        strings: last box after the thought; null without one
    labels                                  int32: 0 incorrect, 1 correct, 2 unfinished
    soft_labels                             float64, with --soft_labels: share of label 1 among the
                                            completions of the same prefix

A problem without a correct response is dropped, as in the paper, unless `--keep_unsolved`. With the
paper's 56 responses a problem that is a tenth of the problems, with a dozen it may be a fifth: the
value model then never sees how a hopeless problem looks.

The output is `<split>/*.parquet` and a data card with the counts, `README.md`. Train on
`<output>/train`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import tyro
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data_prep.card import data_card
from data_prep.command_line import run_command
from data_prep.reports import BadRow, RowReport
from data_prep.roll_in import IDS
from data_prep.roll_out import PROGRAM as ROLL_OUT
from data_prep.sources import open_sources
from data_prep.stages import FinishedStage, Stage
from run_lib.commands import InputError, parse_shard
from run_lib.files import lock_file, replace_file
from run_lib.hub import create_dataset, push_dataset
from search_lib.grading import Grader, extract_answer
from search_lib.prompts import THOUGHT_END, load_tokenizer, prompt_holds, thought_mark

PROGRAM = "data_prep.label"

INCORRECT, CORRECT, UNFINISHED = 0, 1, 2  # the value model's classes
LABEL_NAMES = ("incorrect", "correct", "unfinished")

SCHEMA = pa.schema(
    {
        "message_id": pa.string(),
        "problem": pa.string(),
        "solution": pa.string(),
        "answer": pa.string(),
        "reward": pa.list_(pa.float64()),
        "roll_in_ids": pa.list_(IDS),
        "roll_outs_ids": pa.list_(IDS),
        "processed_answer": pa.list_(pa.string()),
        "labels": pa.list_(pa.int32()),
    }
)
SOFT_LABELS = pa.field("soft_labels", pa.list_(pa.float64()))
MADE_HERE = ("reward", "processed_answer", "labels")

READ_COLUMNS = (
    *("message_id", "problem", "solution", "answer"),
    *("prompt_ids", "roll_in_ids", "roll_outs_ids", "finish_reasons"),
)


@dataclass(frozen=True, kw_only=True)
class LabelArgs:
    """Grade roll-outs and assemble the training set."""

    input: Path
    """Output folder of data_prep.roll_out."""
    output: Path
    """Folder to write to."""
    tokenizer: str
    """Folder or hub id of the policy whose token ids these are."""
    soft_labels: bool = False
    """Adds the column soft_labels; of use when prefixes have several completions.
    train_classifier.py --loss mse works them out itself."""
    keep_unsolved: bool = False
    """Keep problems without a correct response, too."""
    rows_per_file: int = 64
    """Problems that make one file, and are in memory together."""
    num_workers: int = 2
    """Processes that check answers."""
    push_to_hub: str | None = None
    """Uploads the finished data set to this repository, owner/name."""
    shard: str = "0/1"
    """Part i/n of the work, i from 0. The rows do not depend on n."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        if self.num_workers < 1:
            raise InputError(f"--num_workers must be at least 1, got {self.num_workers}")
        if self.push_to_hub is not None and self.push_to_hub.count("/") != 1:
            raise InputError(f"--push_to_hub {self.push_to_hub}: expected owner/name")
        # Not after hours of grading.
        if self.push_to_hub is not None:
            create_dataset(self.push_to_hub)
        parse_shard(self.shard)


class AnswerReader:
    """The answers of responses, without decoding the thoughts before them.

    Args:
        tokenizer: of the policy.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        ids = tokenizer.encode(THOUGHT_END, add_special_tokens=False)
        self._thought_end = ids[0] if len(ids) == 1 else None

    def read(self, prompt: str, response: np.ndarray) -> str | None:
        """The last box after the thought; None if there is none.

        The same as ``extract_answer`` of the whole text: only what follows the last end of a
        thought counts, and where that is one token, nothing before the last of them can matter.

        Args:
            prompt: text.
            response: [tokens] int32, all generated tokens.
        """
        start = 0
        if self._thought_end is not None:
            places = np.flatnonzero(response == self._thought_end)
            start = int(places[-1]) if len(places) else 0
        text = str(self.tokenizer.decode(response[start:].tolist()))
        return extract_answer(text, thought_mark(prompt, text))


class Labeller:
    """Labels rows of roll-outs.

    Args:
        tokenizer: of the policy.
        grader: compares answers.
        keep_unsolved: whether problems without a correct response stay.
        soft_labels: whether rows get that column.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        grader: Grader,
        keep_unsolved: bool,
        soft_labels: bool,
    ):
        self.tokenizer = tokenizer
        self.grader = grader
        self.keep_unsolved = keep_unsolved
        self.schema = SCHEMA.append(SOFT_LABELS) if soft_labels else SCHEMA
        self._reader = AnswerReader(tokenizer)

    def label(self, table: pa.Table) -> tuple[pa.Table, RowReport]:
        """Labels some rows.

        Args:
            table: with the columns of ``data_prep.roll_out``. Its token ids are not copied.

        Returns:
            The rows that stay, in the columns of OpenR1-VM, and a report of all.
        """
        report = RowReport()
        rows = table.select(["message_id", "problem", "answer", "prompt_ids"]).to_pylist()
        readable = self.grader.readable([row["answer"] for row in rows])
        answers: list[list[str | None]] = []
        good: list[int] = []
        for index, row in enumerate(rows):
            problem = self._read_row(table, index, row, readable[index])
            if isinstance(problem, BadRow):
                report.add(problem)
            else:
                good.append(index)
                answers.append(problem)
        verdicts = iter(
            self.grader.equivalent(
                [
                    (rows[index]["answer"], answer or "")
                    for index, row_answers in zip(good, answers, strict=True)
                    for answer in row_answers
                ]
            )
        )
        kept: list[int] = []
        made: dict[str, list[Any]] = {name: [] for name in (*MADE_HERE, SOFT_LABELS.name)}
        for index, row_answers in zip(good, answers, strict=True):
            reasons = table.column("finish_reasons")[index].as_py()
            rights = [next(verdicts) for _ in row_answers]
            labels = [
                UNFINISHED if reason != "stop" else CORRECT if right else INCORRECT
                for reason, right in zip(reasons, rights, strict=True)
            ]
            if CORRECT not in labels and not self.keep_unsolved:
                report.add(BadRow(rows[index]["message_id"], "no correct response"))
                continue
            kept.append(index)
            made["reward"].append([float(label == CORRECT) for label in labels])
            made["processed_answer"].append(row_answers)
            made["labels"].append(labels)
            made["soft_labels"].append(soft_labels(table, index, labels))
            for label, name in enumerate(LABEL_NAMES):
                report.totals[f"{name} responses"] += labels.count(label)
        stays = table.take(pa.array(kept, pa.int64()))
        for column, name in (("roll_in_ids", "roll-in"), ("roll_outs_ids", "roll-out")):
            token_ids = stays.column(column).combine_chunks().flatten().flatten()
            report.totals[f"{name} tokens"] += len(token_ids)
        arrays = [
            pa.array(made[field.name], field.type)
            if field.name in made
            else stays.column(field.name)
            for field in self.schema
        ]
        return pa.table(arrays, schema=self.schema), report

    def _read_row(
        self, table: pa.Table, index: int, row: dict[str, Any], readable: bool
    ) -> list[str | None] | BadRow:
        """The answers of a row's responses, or why it is left out."""
        row_id = row["message_id"]
        if not readable:
            return BadRow(row_id, "unverifiable answer", row["answer"])
        prompt_ids = row["prompt_ids"]
        if not prompt_holds(self.tokenizer, prompt_ids, row["problem"]):
            return BadRow(row_id, "tokenizer does not match", "it reads another prompt")
        prompt = str(self.tokenizer.decode(prompt_ids))
        answers: list[str | None] = []
        for roll_in, roll_out in zip(
            table.column("roll_in_ids")[index], table.column("roll_outs_ids")[index], strict=True
        ):
            completion = roll_out.values.to_numpy()
            if not len(completion):
                return BadRow(row_id, "empty generation", f"response {len(answers)}")
            response = np.concatenate([roll_in.values.to_numpy()[len(prompt_ids) :], completion])
            if int(response.max()) >= len(self.tokenizer):
                return BadRow(row_id, "tokenizer does not match", "it has no such token ids")
            answers.append(self._reader.read(prompt, response))
        return answers


def soft_labels(table: pa.Table, index: int, labels: Sequence[int]) -> list[float]:
    """For each completion of a row, the share of correct ones among those of its prefix.

    Two roll-ins may begin alike: what counts is the tokens of the prefix.
    """
    prefixes = [ids.values.to_numpy().tobytes() for ids in table.column("roll_in_ids")[index]]
    outcomes: dict[bytes, list[bool]] = {}
    for prefix, label in zip(prefixes, labels, strict=True):
        outcomes.setdefault(prefix, []).append(label == CORRECT)
    return [sum(outcomes[prefix]) / len(outcomes[prefix]) for prefix in prefixes]


def label(args: LabelArgs) -> None:
    """Labels one shard, and finishes the data set when all shards are there.

    Raises:
        InputError: if something that was given can't be used.
    """
    args.check()
    roll_outs = FinishedStage(args.input, "--input", ROLL_OUT)
    sources = open_sources(str(args.input), required=READ_COLUMNS)
    tokenizer = load_tokenizer(args.tokenizer, "--tokenizer")
    settings = {
        "tokenizer": args.tokenizer,
        "soft_labels": args.soft_labels,
        "keep_unsolved": args.keep_unsolved,
    }
    origin = roll_outs.origin | {
        "roll_outs": roll_outs.settings,
        "left_out": dict(roll_outs.report.bad_rows),
    }
    stage = Stage(args.output, settings, sources, args.rows_per_file, args.shard, origin)
    try:
        pending = list(stage.pending())
        started = time.monotonic()
        with (
            Grader(num_workers=args.num_workers) as grader,
            tqdm(total=len(pending), unit="file", disable=None) as progress,
        ):
            labeller = Labeller(tokenizer, grader, args.keep_unsolved, args.soft_labels)
            statistics = grader.statistics
            for chunk in pending:
                rows = sources[chunk.split].read(chunk.start, chunk.stop, READ_COLUMNS)
                before = statistics.timed_out, statistics.crashed
                table, report = labeller.label(rows.combine_chunks())
                report.totals["checks timed out"] = statistics.timed_out - before[0]
                report.totals["checks crashed"] = statistics.crashed - before[1]
                stage.write(chunk, table, report)
                progress.update()
        print(
            f"{args.output}, shard {args.shard}: {stage.num_own_chunks - len(pending)} files were "
            f"there, {len(pending)} made in {time.monotonic() - started:.1f} s"
        )
        print(
            f"answers    {statistics.fast_path:,} plain, {statistics.from_cache:,} seen before, "
            f"{statistics.checked:,} checked ({statistics.timed_out} timed out, "
            f"{statistics.crashed} crashed)"
        )
        finish(stage, args, origin)
    finally:
        stage.close()


def finish(stage: Stage, args: LabelArgs, origin: Mapping[str, Any]) -> None:
    """Writes the report and the data card once all files are there, and uploads.

    When the shards end together, one of them does so.
    """
    try:
        lock = lock_file(args.output / ".finish.lock")
    except BlockingIOError:
        print(f"{args.output}: another process finishes the data set")
        return
    with lock:
        reports = stage.finish()
        if reports is None:
            return
        replace_file(
            args.output / "README.md", data_card(reports, origin, args.keep_unsolved).encode()
        )
        print(RowReport.sum(reports.values()).format(), flush=True)
        if args.push_to_hub:
            print(f"uploaded to {push_dataset(args.output, args.push_to_hub)}", flush=True)


def main() -> None:
    """Command line."""
    args = tyro.cli(
        Annotated[LabelArgs, tyro.conf.FlagCreatePairsOff],
        description=__doc__,
        use_underscores=True,
    )
    run_command(PROGRAM, label, args)


if __name__ == "__main__":
    main()
