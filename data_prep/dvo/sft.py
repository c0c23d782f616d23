r"""SFT: a policy's own right responses in steps, on which it is trained before the first trees.

The paper's 64 samples for each of 10,000 problems, and the choice among them:

    python -m data_prep.roll_in --input problems.parquet --output outputs/sft/roll_ins \
        --models meta-llama/Meta-Llama-3-8B-Instruct:64 --max_length 2048 \
        --answer_format final_answer
    python -m data_prep.dvo sft --output outputs/sft/sft.jsonl --answer_format final_answer \
        --input outputs/sft/roll_ins/meta-llama--Meta-Llama-3-8B-Instruct

A response is taken if it ended by itself, if its answer equals the reference, and if a tree could
hold it: it consists of `--min_steps` to `--max_steps` steps, of which the last one alone has an
answer. Of responses to one problem with the same text one is taken, and at most `--per_problem`
altogether, drawn by `--seed`.

A line is a response in the columns of `data_prep.dvo export --format rft`. Responses that are left
out are counted by reason, here and in `<output>.report.json`. The file is complete or absent: a
killed command begins anew.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.dvo.args import SFT, SftArgs
    from run_lib.commands import check_command_line
    from run_lib.without_torch import leave_out_torch

    check_command_line(SftArgs, SFT, __doc__)
    leave_out_torch()

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from data_prep.args import ROLL_IN
from data_prep.columns import ROLL_IN_SCHEMA
from data_prep.cuts import step_ends
from data_prep.dvo.args import SFT, SftArgs
from data_prep.dvo.export import Line, Texts, bind_output, completion_line, open_texts
from data_prep.reports import BadRow, RowReport
from data_prep.sources import RowSource, open_sources
from data_prep.stages import STAGE_FILE, FinishedStage
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.files import atomic_file, write_json
from run_lib.seeds import derive_seed
from search_lib.answer_formats import ANSWER_FORMATS, AnswerFormat, Comparer
from search_lib.grading import Grader
from search_lib.prompts import prompt_holds
from search_lib.thoughts import Thoughts

WINDOW_ROWS = 64
"""Problems that are read and graded together."""


@dataclass(frozen=True)
class Chooser:
    """Chooses among the responses to problems.

    Attributes:
        args: The flags.
        texts: Token ids as texts.
        answer_format: How answers are written.
        comparer: Compares them with references.
    """

    args: SftArgs
    texts: Texts
    answer_format: AnswerFormat
    comparer: Comparer

    def choose(self, rows: Sequence[dict[str, Any]], report: RowReport) -> Iterator[Line]:
        """Yields the lines of some problems.

        Args:
            rows: Rows in the columns of `ROLL_IN_SCHEMA`.
            report: Counts the responses.

        Raises:
            InputError: If the tokenizer is another policy's.
        """
        readable = self.comparer.readable([row["answer"] for row in rows])
        answers = [
            self._answers(row, report) if is_readable else self._unreadable(row, report)
            for row, is_readable in zip(rows, readable, strict=True)
        ]
        verdicts = iter(
            self.comparer.equivalent(
                [
                    (row["answer"], answer)
                    for row, found in zip(rows, answers, strict=True)
                    for answer in found.values()
                ]
            )
        )
        for row, found in zip(rows, answers, strict=True):
            right = []
            for number, answer in found.items():
                if next(verdicts):
                    right.append(number)
                else:
                    report.add(BadRow(_name(row, number), "wrong answer", answer))
            for number in self._draw(row, right, report):
                report.rows_out += 1
                ids = row["response_ids"][number]
                report.totals["tokens"] += len(ids)
                yield completion_line(row["message_id"], row["prompt_ids"], ids, self.texts)

    def _unreadable(self, row: dict[str, Any], report: RowReport) -> dict[int, str]:
        for number in range(len(row["response_ids"])):
            report.rows_in += 1
            report.add(BadRow(_name(row, number), "unverifiable answer", row["answer"]))
        return {}

    def _answers(self, row: dict[str, Any], report: RowReport) -> dict[int, str]:
        """Returns the answers of the responses that have the right form, by their number."""
        tokenizer, prompt_ids = self.texts.tokenizer, row["prompt_ids"]
        if not prompt_holds(tokenizer, prompt_ids, row["problem"]):
            raise InputError(
                f"--tokenizer {self.args.tokenizer}: it reads another prompt than the one of "
                f"problem {row['message_id']}: the roll-ins are of another policy"
            )
        prompt = self.texts.decode(prompt_ids)
        answers: dict[int, str] = {}
        seen: set[str] = set()
        responses = zip(row["response_ids"], row["finish_reasons"], strict=True)
        for number, (ids, reason) in enumerate(responses):
            report.rows_in += 1
            text = self.texts.completion(ids) if ids else ""
            answer = self.answer_format.find_answer(prompt, text)
            fault, detail = self._fault(prompt, ids, reason, answer)
            if not fault and text in seen:
                fault = "the same as another response"
            if fault:
                report.add(BadRow(_name(row, number), fault, detail))
            else:
                seen.add(text)
                answers[number] = str(answer)
        return answers

    def _fault(
        self, prompt: str, ids: list[int], reason: str, answer: str | None
    ) -> tuple[str, str]:
        """Returns why a response has not the right form, as a reason and details; "" if it has."""
        if reason != "stop":
            return "not ended by itself", reason
        if answer is None:
            return "no answer", ""
        ends = step_ends(ids, self.texts.tokenizer, self.args.step_delimiter)
        num_steps = len(ends) + 1
        if num_steps < self.args.min_steps:
            return "too few steps", str(num_steps)
        if num_steps > self.args.max_steps:
            return "too many steps", str(num_steps)
        # A tree ends with the first step that has one.
        before = self.texts.decode(ids[: ends[-1]]) if ends else ""
        if self.answer_format.find_answer(prompt, before) is not None:
            return "goes on behind an answer", ""
        return "", ""

    def _draw(self, row: dict[str, Any], right: list[int], report: RowReport) -> list[int]:
        """Returns which of the right responses are taken, in their order."""
        if len(right) <= self.args.per_problem:
            return right
        rng = random.Random(derive_seed(self.args.seed, row["message_id"]))
        taken = sorted(rng.sample(right, self.args.per_problem))
        for number in sorted(set(right) - set(taken)):
            report.add(BadRow(_name(row, number), "more than --per_problem"))
        return taken


def _name(row: dict[str, Any], number: int) -> str:
    return f"response {number} to {row['message_id']}"


def choose_all(source: RowSource, chooser: Chooser, report: RowReport) -> Iterator[Line]:
    """Yields the lines of all problems, and shows the progress."""
    with tqdm(total=source.num_rows, unit="problem", disable=None) as progress:
        for start in range(0, source.num_rows, WINDOW_ROWS):
            stop = min(start + WINDOW_ROWS, source.num_rows)
            rows = source.read(start, stop, ROLL_IN_SCHEMA.names).to_pylist()
            yield from chooser.choose(rows, report)
            progress.update(len(rows))


def run(args: SftArgs) -> None:
    """Writes the file, unless it is there, and prints the report.

    Raises:
        InputError: If something that was given can't be used, or no response is left.
    """
    args.check()
    with naming("--input"):
        sources = open_sources(str(args.input), required=ROLL_IN_SCHEMA.names)
    if args.split not in sources:
        raise InputError(f"--split {args.split}: {args.input} has {', '.join(sources)} only")
    source = sources[args.split]
    made: Mapping[str, Any] = {}
    if (args.input / STAGE_FILE).is_file():
        with naming("--input"):
            made = FinishedStage(args.input, ROLL_IN).settings
    args = replace(args, tokenizer=args.tokenizer or made.get("model"))
    if args.tokenizer is None:
        raise InputError("--tokenizer is needed: name the policy that made the roll-ins")
    texts = open_texts(args.tokenizer)
    if not bind_output(args, source.digest):
        return
    thoughts = Thoughts.of(made.get("think_tags", "auto"))
    answer_format = replace(ANSWER_FORMATS[args.answer_format], thoughts=thoughts)
    report = RowReport()
    with answer_format.open_comparer(args.num_workers) as comparer:
        chooser = Chooser(args, texts, answer_format, comparer)
        with naming("--output", OSError), atomic_file(args.output) as file:
            for line in choose_all(source, chooser, report):
                file.write(f"{json.dumps(line, allow_nan=False)}\n".encode("ascii"))
            if not report.rows_out:
                reasons = [f"{count:,} {reason}" for reason, count in report.bad_rows.most_common()]
                raise InputError(
                    f"--input {args.input}: no response is left of {report.rows_in:,}: "
                    f"{', '.join(reasons)}"
                )
        if isinstance(comparer, Grader):
            report.totals["checks timed out"] = comparer.statistics.timed_out
            report.totals["checks crashed"] = comparer.statistics.crashed
    write_json(args.output.with_name(f"{args.output.name}.report.json"), report.as_json())
    print(f"{args.output} (rows in: responses, rows out: lines)\n{report.format()}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(SftArgs, SFT, __doc__, argv)
    run_command(SFT, lambda: run(args))


if __name__ == "__main__":
    main()
