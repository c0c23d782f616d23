"""A question's searches as a run of their own, which scripts/report.py opens."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from shlex import quote

from run_lib.files import write_json
from search_lib.asking.ask_args import AskArgs
from search_lib.asking.asker import Question
from search_lib.asking.flags import QuestionFlags
from search_lib.asking.outcome import Outcome
from search_lib.benchmarks import Problem
from search_lib.results.blocks import BlocksFile, RecordedBlocks
from search_lib.results.records import RecordFile
from search_lib.results.run_config import CONFIG_NAME, RunConfig
from search_lib.results.summary import report

RECORDS_NAME = "records.jsonl"

BENCHMARK = "question"
"""What stands in a run's configuration in place of a benchmark."""

NO_SETTINGS = {one.name for one in fields(AskArgs)} - {one.name for one in fields(QuestionFlags)}
"""Flags of `ask.py` that say what is asked, and what becomes of the answer."""


def save_run(
    folder: Path,
    args: AskArgs,
    question: Question,
    outcome: Outcome,
    blocks: Sequence[RecordedBlocks],
) -> None:
    """Writes the files of a run of `inference_eval.py`.

    Args:
        folder: An empty folder.
        args: Its flags, the answer format and the engine named.
        question: What was asked.
        outcome: The end.
        blocks: The blocks of its searches.
    """
    path = folder / RECORDS_NAME
    problem = Problem(question.id, question.text, question.reference)
    config = RunConfig.of(args, [problem], output_path=path.name, benchmark=BENCHMARK)
    for name in NO_SETTINGS:
        del config.flags[name]
    write_json(folder / CONFIG_NAME, config.document())
    of_blocks = BlocksFile(path)
    for one in blocks:
        of_blocks.append(one)
    with RecordFile(path) as records:
        for record in outcome.records:
            records.append(record)
    with redirect_stdout(io.StringIO()):  # its table is of accuracies
        report(path, config)


def describe_record(folder: Path, outcome: Outcome) -> str:
    """Returns a line on a record, and what opens it: a page needs the trees of all searches."""
    opens = f"python -m scripts.report {quote(str(folder))} --out report.html"
    if outcome.failures:
        opens = f"without the trees of {len(outcome.failures)} failed searches: no page shows it"
    return f"saved: {folder} ({opens})"
