r"""Asks one question, shows its searches while they run, and answers it.

On a plain CPU, with the models that scripts/quickstart.sh makes, which it takes if none is named:

    python ask.py "start 2 +4 -9 *8 -9 +3 *3 -3 *6 +7" --num_blocks 8 --num_repetitions 8

With the published models, a budget of 8 x 16 = 128:

    python ask.py "What is the sum of all primes below 100?" --num_blocks 8 --num_repetitions 16 \
        --piref_model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
        --classifier_ckpt_path VGS-AI/DeepSeek-VM-1.5B

In a terminal it draws the trees, their paths and the vote; elsewhere it prints lines, with --json
one object. --save keeps a record, which scripts/report.py opens as a page.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from search_lib.asking.ask_args import PROGRAM, AskArgs
    from search_lib.asking.flags import read_command_line

    ARGUMENTS, REMARK = read_command_line(AskArgs, PROGRAM, __doc__)

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from run_lib.commands import InputError, naming, run_command
from run_lib.files import atomic_folder
from run_lib.hub import load_tokenizer, quiet_transformers
from run_lib.text import shorten
from search_lib.answer_formats import AnswerFormat
from search_lib.answer_rules import STRICT
from search_lib.asking.ask_args import PROGRAM, AskArgs
from search_lib.asking.asker import Question, open_asker
from search_lib.asking.ending import document, picture, plain_lines
from search_lib.asking.outcome import Outcome, usual_vote
from search_lib.asking.saving import NO_SETTINGS, describe_record, save_run
from search_lib.asking.screen import Screen
from search_lib.asking.terminal import (
    PlainProgress,
    claim_stdout,
    drawn,
    is_terminal,
    open_console,
)
from search_lib.engines.choice import settle_engine
from search_lib.grading.references import comparable
from search_lib.jobs import Policy, find_stopping
from search_lib.model_checks import Contexts
from search_lib.open_models import OpenModels
from search_lib.prompts import PromptTemplate, stop_token_ids
from search_lib.results.blocks import RecordedBlocks


def main(args: AskArgs, remark: str | None = None) -> None:
    """Asks the question, and prints what it has come to.

    Args:
        args: The flags.
        remark: A line on models that were not named.
    """
    # Check the flags, and read everything but the weights.
    result = claim_stdout() if args.prints_json else None
    console = open_console()
    if remark:
        print(remark, flush=True)
    engine_flags, answer_format = settle_engine(args.engine_flags), args.find_format()
    args = replace(args, engine_flags=engine_flags, answer_format=answer_format.name)
    stopping = find_stopping(args)
    if stopping and args.stop != "decided":
        args = replace(args, stop_confidence=stopping.threshold)
    prepared = prepare(args, answer_format)
    question = prepared.question

    with ExitStack() as stack:
        # Complete in the end, or not there.
        folder = None
        if args.save is not None:
            with naming("--save", OSError):
                folder = stack.enter_context(atomic_folder(args.save, replaces=False))

        # Search.
        blocks: list[RecordedBlocks] = []
        models = stack.enter_context(OpenModels())
        outcome = models.run(search(args, prepared, models, console, blocks))

        # Show the end, and keep it.
        if result is not None:
            content = document(outcome, question, args, NO_SETTINGS)
            print(json.dumps(content, indent=2, allow_nan=False), file=result, flush=True)
        elif is_terminal(console):
            console.print(picture(outcome, question, console))
        else:
            print("\n".join(plain_lines(outcome, question)), flush=True)
        if folder is not None:
            save_run(folder, args, question, outcome, blocks)
    if args.save is not None:
        print(f"\n{describe_record(args.save, outcome)}")


class Prepared(NamedTuple):
    """All that a search needs but the weights.

    Attributes:
        policy: The policy.
        answer_format: How answers are written.
        question: What is asked.
    """

    policy: Policy
    answer_format: AnswerFormat
    question: Question


def prepare(args: AskArgs, answer_format: AnswerFormat) -> Prepared:
    """Reads the question, and checks that models and lengths fit it.

    Raises:
        InputError: If they don't.
    """
    text = args.read_question()
    if args.reference is not None:
        with answer_format.open_comparer(comparison=STRICT.comparison) as comparer:
            if not all(comparable([args.reference], comparer)):
                raise InputError(
                    f"--reference {shorten(args.reference, 60)} can't be compared with an answer"
                )
    with naming("--piref_model"):
        tokenizer = load_tokenizer(args.piref_model)
        policy = Policy(tokenizer, stop_token_ids(args.piref_model, tokenizer))
        template = PromptTemplate(tokenizer, args.find_instruction(), answer_format.thoughts)
        question = Question(text, template.prompt_ids(text), args.reference)
    Contexts(args, tokenizer).check({question.id: question.prompt_ids}, args.max_length)
    return Prepared(policy, answer_format, question)


async def search(
    args: AskArgs,
    prepared: Prepared,
    models: OpenModels,
    console: Console,
    blocks: list[RecordedBlocks],
) -> Outcome:
    """Opens the models and runs the searches; adds their blocks to the list if they are saved."""
    policy, answer_format, question = prepared
    keep = blocks.append if args.save is not None else None
    vote = usual_vote(args.scorer_flags.has_values)
    with log_folder() as logs:
        async with open_asker(args, policy, answer_format, models, logs) as asker:
            if not is_terminal(console):
                return await asker.ask(question, args, vote, PlainProgress().change, keep)

            def decode(token_ids: list[int]) -> str:
                whole = token_ids[:-1] if token_ids[-1] in policy.stop_token_ids else token_ids
                return str(policy.tokenizer.decode(whole))

            screen = Screen(console, question.text, decode, vote)
            async with drawn(console, screen) as on_change:
                return await asker.ask(question, args, vote, on_change, keep)


@contextmanager
def log_folder() -> Iterator[Path]:
    """Yields a folder for what a value server says; it stays if there is something in it."""
    folder = Path(tempfile.mkdtemp(prefix="ask-"))
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()


if __name__ == "__main__":
    quiet_transformers()
    # A search that is given up doesn't wait for the batch that is running.
    run_command(PROGRAM, lambda: main(ARGUMENTS, REMARK), at_once=True, interrupted="interrupted")
