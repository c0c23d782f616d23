r"""Labels: grades roll-outs and writes a value-model training set in the columns of OpenR1-VM.

python -m data_prep.label --input outputs/roll_outs --output outputs/openr1_vm \
    --tokenizer deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B

A row is a problem; its lists have one entry for each completion, those of one roll-in side by side:

    message_id, problem, solution, answer   strings
    reward                                  float64: 1.0 for label 1, else 0.0
    roll_in_ids                             lists of int32: prompt and prefix
    roll_outs_ids                           lists of int32: the completion, never empty
    processed_answer                        strings: answer after the thought, such as the last box;
                                            null without one
    labels                                  int32: 0 incorrect, 1 correct, 2 unfinished
    soft_labels                             float64, with --soft_labels: share of label 1 among the
                                            completions of the same prefix

A problem without a correct response is dropped, as in the paper, unless `--keep_unsolved`. Of the
problems with the paper's 56 responses each, these are a tenth; with a dozen they may be a fifth.
The value model then sees no hopeless problem.

The output is `<split>/*.parquet` and a data card with the counts, `README.md`. Train on
`<output>/train`.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.args import LABEL, LabelArgs
    from run_lib.commands import check_command_line
    from run_lib.without_torch import leave_out_torch

    check_command_line(LabelArgs, LABEL, __doc__)
    leave_out_torch()

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from data_prep.args import LABEL, ROLL_OUT, LabelArgs
from data_prep.card import data_card
from data_prep.checks import check_chunks
from data_prep.columns import ASKED, LABEL_SCHEMA, SOFT_LABELS
from data_prep.reports import BadRow, RowReport
from data_prep.sources import RowSource, open_sources
from data_prep.stages import Chunk, FinishedStage, Stage
from run_lib.commands import (
    naming,
    parse_command_line,
    run_command,
)
from run_lib.files import replace_file, try_lock
from run_lib.hub import create_dataset, load_tokenizer, push_dataset
from search_lib.answer_formats import ANSWER_FORMATS, AnswerFormat, Comparer, LetterComparer
from search_lib.grading import Grader
from search_lib.prompts import prompt_holds
from search_lib.thoughts import Thoughts

INCORRECT, CORRECT, UNFINISHED = 0, 1, 2  # the value model's classes
LABEL_NAMES = ("incorrect", "correct", "unfinished")

MADE_HERE = ("reward", "processed_answer", "labels", SOFT_LABELS.name)

READ_COLUMNS = (
    *("message_id", "problem", "solution", "answer"),
    *("prompt_ids", "roll_in_ids", "roll_outs_ids", "finish_reasons"),
)


class AnswerReader:
    """Reads the answers of responses, without decoding the thoughts before them.

    Args:
        tokenizer: Tokenizer of the policy.
        answer_format: How it writes its answer, and thinks before.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, answer_format: AnswerFormat):
        self.tokenizer = tokenizer
        self.answer_format = answer_format
        ids = tokenizer.encode(answer_format.thoughts.end, add_special_tokens=False)
        self._thought_end = ids[0] if len(ids) == 1 else None

    def read(self, prompt: str, response: np.ndarray, is_complete: bool = True) -> str | None:
        """Returns the answer after the thought; None if there is none.

        The result is that of `find_answer` on the whole text: only the text behind the last end of
        a thought counts, and where that is one token, nothing before the last of them matters.

        Args:
            prompt: Text of the prompt.
            response: [tokens] int32, all generated tokens but the one that ended them.
            is_complete: Whether there was one.
        """
        start = 0
        if self._thought_end is not None and self.answer_format.thoughts.opened is not False:
            places = np.flatnonzero(response == self._thought_end)
            start = int(places[-1]) if len(places) else 0
        text = str(self.tokenizer.decode(response[start:].tolist()))
        return self.answer_format.find_answer(prompt, text, is_complete)


class Labeller:
    """Labels rows of roll-outs.

    Args:
        tokenizer: Tokenizer of the policy.
        answer_format: How the policy writes its answer, and thinks before.
        comparer: Compares answers.
        keep_unsolved: Whether problems without a correct response stay.
        soft_labels: Whether rows get that column.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        answer_format: AnswerFormat,
        comparer: Comparer,
        keep_unsolved: bool,
        soft_labels: bool,
    ):
        self.tokenizer = tokenizer
        self.comparer = comparer
        self.keep_unsolved = keep_unsolved
        self.schema = LABEL_SCHEMA.append(SOFT_LABELS) if soft_labels else LABEL_SCHEMA
        self._reader = AnswerReader(tokenizer, answer_format)

    def label(self, table: pa.Table) -> tuple[pa.Table, RowReport]:
        """Labels some rows.

        Args:
            table: Rows with the columns of `data_prep.roll_out`. Their token ids are not copied.

        Returns:
            The rows that stay, in the columns of OpenR1-VM, and a report of all.
        """
        report = RowReport()
        answers = self._read_answers(table, report)
        rights = self._grade(table, answers)
        row_ids = table.column("message_id")
        kept: list[int] = []
        made: dict[str, list[Any]] = {name: [] for name in MADE_HERE}
        for index, row_answers in answers.items():
            reasons = table.column("finish_reasons")[index].as_py()
            labels = [
                UNFINISHED if reason != "stop" else CORRECT if right else INCORRECT
                for reason, right in zip(reasons, rights[index], strict=True)
            ]
            if CORRECT not in labels and not self.keep_unsolved:
                report.add(BadRow(row_ids[index].as_py(), "no correct response"))
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

    def _read_answers(self, table: pa.Table, report: RowReport) -> dict[int, list[str | None]]:
        """Returns the answers of the responses of each usable row, and reports the other rows."""
        rows = table.select(["message_id", "problem", "answer", "prompt_ids"]).to_pylist()
        readable = self.comparer.readable([row["answer"] for row in rows])
        answers: dict[int, list[str | None]] = {}
        for index, row in enumerate(rows):
            of_row = self._read_row(table, index, row, readable[index])
            if isinstance(of_row, BadRow):
                report.add(of_row)
            else:
                answers[index] = of_row
        return answers

    def _read_row(
        self, table: pa.Table, index: int, row: dict[str, Any], readable: bool
    ) -> list[str | None] | BadRow:
        """Returns the answers of a row's responses, or the reason why it is left out."""
        row_id = row["message_id"]
        if not readable:
            return BadRow(row_id, "unverifiable answer", row["answer"])
        prompt_ids = row["prompt_ids"]
        if not prompt_holds(self.tokenizer, prompt_ids, row["problem"]):
            return BadRow(row_id, "tokenizer does not match", "it reads another prompt")
        prompt = str(self.tokenizer.decode(prompt_ids))
        answers: list[str | None] = []
        columns = ("roll_in_ids", "roll_outs_ids", "finish_reasons")
        for roll_in, roll_out, reason in zip(
            *(table.column(name)[index] for name in columns), strict=True
        ):
            completion = roll_out.values.to_numpy()
            if not len(completion):
                return BadRow(row_id, "empty generation", f"response {len(answers)}")
            response = np.concatenate([roll_in.values.to_numpy()[len(prompt_ids) :], completion])
            if int(response.max()) >= len(self.tokenizer):
                return BadRow(row_id, "tokenizer does not match", "it has no such token ids")
            is_complete = reason.as_py() == "stop"
            text_ids = response[:-1] if is_complete else response
            answers.append(self._reader.read(prompt, text_ids, is_complete))
        return answers

    def _grade(
        self, table: pa.Table, answers: Mapping[int, Sequence[str | None]]
    ) -> dict[int, list[bool]]:
        """Returns for each row whether its answers equal the reference; all in one request."""
        references = table.column("answer").to_pylist()
        verdicts = iter(
            self.comparer.equivalent(
                [
                    (references[index], answer or "")
                    for index, row_answers in answers.items()
                    for answer in row_answers
                ]
            )
        )
        return {
            index: [next(verdicts) for _ in row_answers] for index, row_answers in answers.items()
        }


def soft_labels(table: pa.Table, index: int, labels: Sequence[int]) -> list[float]:
    """Returns for each completion of a row the share of correct ones among those of its prefix.

    Two roll-ins may begin alike: prefixes with the same tokens are one.
    """
    prefixes = [ids.values.to_numpy().tobytes() for ids in table.column("roll_in_ids")[index]]
    outcomes: dict[bytes, list[bool]] = {}
    for prefix, label in zip(prefixes, labels, strict=True):
        outcomes.setdefault(prefix, []).append(label == CORRECT)
    return [sum(outcomes[prefix]) / len(outcomes[prefix]) for prefix in prefixes]


def label(args: LabelArgs) -> None:
    """Labels one shard, and finishes the data set when all shards are there.

    Raises:
        InputError: If something that was given can't be used.
    """
    args.check()
    if args.push_to_hub is not None:
        with naming("--push_to_hub"):
            create_dataset(args.push_to_hub)  # not after hours of grading
    with naming("--input"):
        roll_outs = FinishedStage(args.input, ROLL_OUT)
        sources = open_sources(str(args.input), required=READ_COLUMNS)
    with naming("--tokenizer"):
        tokenizer = load_tokenizer(args.tokenizer)
    settings = {
        "tokenizer": args.tokenizer,
        "soft_labels": args.soft_labels,
        "keep_unsolved": args.keep_unsolved,
    }
    origin = roll_outs.origin | {
        "roll_outs": roll_outs.settings,
        "left_out": dict(roll_outs.report.bad_rows),
    }
    asked = ASKED | origin["roll_ins"][0]  # alike in all roll-ins
    answer_format = replace(
        ANSWER_FORMATS[asked["answer_format"]], thoughts=Thoughts.of(asked["think_tags"])
    )
    with Stage(args.output, settings, sources, args.rows_per_file, args.shard, origin) as stage:
        label_chunks(args, stage, sources, tokenizer, answer_format)
        finish(stage, args, origin)


def label_chunks(
    args: LabelArgs,
    stage: Stage,
    sources: Mapping[str, RowSource],
    tokenizer: PreTrainedTokenizerBase,
    answer_format: AnswerFormat,
) -> None:
    """Labels the rows of this shard, and prints how their answers were graded."""
    started = time.monotonic()
    with Grader(num_workers=args.num_workers) as grader:
        comparer = grader if answer_format.is_mathematics else LetterComparer()
        labeller = Labeller(
            tokenizer, answer_format, comparer, args.keep_unsolved, args.soft_labels
        )

        def make(chunk: Chunk) -> tuple[pa.Table, RowReport]:
            rows = sources[chunk.split].read(chunk.start, chunk.stop, READ_COLUMNS)
            return labeller.label(rows.combine_chunks())

        num_made = check_chunks(stage, grader, make)
        statistics = grader.statistics
    print(
        f"{args.output}, shard {args.shard}: {stage.num_own_chunks - num_made} files were there, "
        f"{num_made} made in {time.monotonic() - started:.1f} s"
    )
    print(
        f"answers    {statistics.fast_path:,} plain, {statistics.from_cache:,} seen before, "
        f"{statistics.checked:,} checked ({statistics.timed_out} timed out, "
        f"{statistics.crashed} crashed)"
    )


def finish(stage: Stage, args: LabelArgs, origin: Mapping[str, Any]) -> None:
    """Writes the report and the data card once all files are there, and uploads.

    When the shards end together, one of them does so.
    """
    lock = try_lock(args.output / ".finish.lock")
    if lock is None:
        print(f"{args.output}: another process finishes the data set")
        return
    with lock:
        reports = stage.finish()
        if reports is None:
            return
        card = data_card(reports, origin, args.keep_unsolved)
        replace_file(args.output / "README.md", card.encode())
        print(RowReport.sum(reports.values()).format(), flush=True)
        if args.push_to_hub:
            with naming("--push_to_hub"):
                print(f"uploaded to {push_dataset(args.output, args.push_to_hub)}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(LabelArgs, LABEL, __doc__, argv)
    run_command(LABEL, lambda: label(args))


if __name__ == "__main__":
    main()
