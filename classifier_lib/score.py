"""The value, P(correct) in [0, 1], of many prompts and responses: JSON lines in, JSON lines out.

python -m classifier_lib.score --model outputs/my_run/final --input rows.jsonl \
    --output values.jsonl

A row of the input is a JSON object with `prompt` and `response` texts, or with `prompt_ids` and
`response_ids`, lists of token ids, which count where both are there. `prompt` is the full text that
the policy was given, with its role tokens and its `<think>` mark, as
`search_lib.prompts.build_prompt` makes it: no template is applied. Special tokens in a text are
recognised; prompt and response are tokenised apart and joined, as in generation. An empty response
is valued at the end of its prompt. A row may have an `id`, a string or number; without one its line
number, from 0, stands for it.

Line n of the output is of line n of the input:

    {"id": "a", "index": 0, "value": 0.731059, "num_tokens": 512}

`num_tokens` counts prompt and response. `--at tokens` adds `values`, the value after every response
token; `value` is the last of them. A row that can't be scored gets `"value": null` and an `error`;
such rows are counted and the first of them named at the end, and the exit status is 1 if no row has
a value. Blank lines at the end of the input are ignored, one further up is such a row.

Killed at any moment, the same command goes on, and the file becomes what it would have been.
`<output>.config.json` says what the values are of; a run that would mix in others is refused.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from classifier_lib.args import SCORE, ScoreArgs
    from run_lib.commands import check_command_line

    check_command_line(ScoreArgs, SCORE, __doc__)

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers.utils import is_flash_attn_2_available

from classifier_lib.args import SCORE, ScoreArgs
from classifier_lib.loading import load_value_model
from classifier_lib.modeling import ValueModel
from classifier_lib.score_files import (
    NUM_NAMED,
    WINDOW_ROWS,
    OutputFile,
    ParsedRow,
    RowParser,
    ScoreSummary,
    digest_lines,
    open_output,
    read_windows,
)
from classifier_lib.scoring import batch_by_length, forward_values
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.fingerprints import MODEL_FILES, fingerprint
from run_lib.hub import TOKENIZER_FILES, check_vocabulary, load_tokenizer, quiet_transformers
from run_lib.settings import Settings, as_json, free_flags

DECIMALS = 6


def score_file(args: ScoreArgs, window_rows: int = WINDOW_ROWS) -> ScoreSummary:
    """Scores a file, or the rest of it.

    Args:
        args: The command line.
        window_rows: Rows that are sorted, and written, together.

    Raises:
        InputError: If a flag or a file can't be used.
    """
    check_flags(args)
    with naming("--input", OSError):
        digest, num_rows = digest_lines(args.input)
    if not num_rows:
        raise InputError(f"--input {args.input} is empty")
    contents = {
        "model": fingerprint(args.model, MODEL_FILES),
        "input": digest,
        "tokenizer": fingerprint(args.tokenizer or args.model, TOKENIZER_FILES),
    }
    settings = Settings(as_json(args), contents)
    with open_output(args.output, settings, free_flags(ScoreArgs), num_rows) as output:
        if output.num_lines < num_rows:
            model, parser = load(args)
            _score_rest(args, model, parser, output, window_rows)
    return output.summary


def check_flags(args: ScoreArgs) -> None:
    """Raises InputError for values that no run can have."""
    args.check()
    if (
        args.attention_impl == "flash_attention_2"
        and args.dtype == "float32"
        and is_flash_attn_2_available()
    ):
        raise InputError("--attention_impl flash_attention_2 needs --dtype bfloat16")


def load(args: ScoreArgs) -> tuple[ValueModel, RowParser]:
    """Loads the value model, and a parser of rows for it.

    Raises:
        InputError: If there is no such model, no such tokenizer where one is asked for, or if they
            don't belong together.
    """
    tokenizer_path = args.tokenizer or args.model
    tokenizer = None
    # Rows of ids need none, so the model's folder may lack it; but not hold a broken one.
    is_needed = args.tokenizer or (Path(args.model) / "tokenizer.json").is_file()
    with naming("--tokenizer") if is_needed else contextlib.suppress(ValueError):
        tokenizer = load_tokenizer(tokenizer_path)
    with naming("--model"):
        model = load_value_model(args.model, args.attention_impl, getattr(torch, args.dtype))
    vocab_size, context = model.config.vocab_size, model.config.max_position_embeddings
    if tokenizer is not None:
        with naming(f"--tokenizer {tokenizer_path}, --model {args.model}:"):
            check_vocabulary(tokenizer, vocab_size)
    if args.max_length is not None and args.max_length < context:
        return model, RowParser(tokenizer, vocab_size, args.max_length, "the --max_length")
    return model, RowParser(tokenizer, vocab_size, context, "the model's context")


def _score_rest(
    args: ScoreArgs,
    model: ValueModel,
    parser: RowParser,
    output: OutputFile,
    window_rows: int,
) -> None:
    """Scores and writes the rows that the output lacks, window after window."""
    num_missing = output.summary.num_rows - output.num_lines
    print(f"{output.num_lines} rows are there, {num_missing} to score", flush=True)
    start = 0
    num_tokens = 0
    with tqdm(
        total=output.summary.num_rows, initial=output.num_lines, unit="row", disable=None
    ) as progress:
        for lines in read_windows(args.input, window_rows):
            index, start = start, start + len(lines)
            if start <= output.num_lines:
                continue
            rows = parser.parse(lines, index)
            if index == 0 and any(row.error == parser.NO_TOKENIZER for row in rows):
                # Later in a file of token ids it is a bad row, but not from the start.
                raise InputError(
                    f"--input {args.input} holds text, and there is no tokenizer in {args.model}: "
                    "name the policy's with --tokenizer"
                )
            # A kill can leave part of a window: it is computed as before, and its rest appended.
            num_there = output.num_lines
            records: list[dict[str, Any]] = []
            for batch in _score_window(rows, model, args):
                records += batch
                num_tokens += sum(record.get("num_tokens", 0) for record in batch)
                seconds = progress.format_dict["elapsed"] or 1e-9
                progress.set_postfix_str(f"{num_tokens / seconds:,.0f} tok/s", refresh=False)
                progress.update(sum(record["index"] >= num_there for record in batch))
            records.sort(key=lambda record: record["index"])
            output.append(records[max(num_there - index, 0) :])


def _score_window(
    rows: Sequence[ParsedRow], model: ValueModel, args: ScoreArgs
) -> Iterator[list[dict[str, Any]]]:
    """Yields the records of all rows, batch after batch, the bad ones first."""
    yield [_bad_record(row, row.error) for row in rows if row.error is not None]
    good = [row for row in rows if row.error is None]
    batches = batch_by_length([len(row.input_ids) for row in good], args.max_batch_tokens)
    for batch in reversed(batches):  # the longest first, so that memory falls short at once
        members = [good[position] for position in batch]
        firsts = [len(row.input_ids) - 1 for row in members]
        if args.at == "tokens":  # of an empty response, the value at the end of its prompt
            firsts = [
                min(row.prompt_length, last) for row, last in zip(members, firsts, strict=True)
            ]
        try:
            values = forward_values(model, [row.input_ids for row in members], firsts)
        except torch.OutOfMemoryError as error:
            if len(members) > 1:
                raise InputError(
                    "out of memory: the same command with a smaller --max_batch_tokens (now "
                    f"{args.max_batch_tokens}) goes on"
                ) from error
            (row,) = members
            yield [_bad_record(row, f"out of memory at {len(row.input_ids)} tokens")]
            continue
        yield [_record(row, of_row, args.at) for row, of_row in zip(members, values, strict=True)]


def _record(row: ParsedRow, values: list[float], at: str) -> dict[str, Any]:
    """Returns the line of a row, from its value or the values of its tokens."""
    if not all(map(math.isfinite, values)):
        return _bad_record(row, "the model gives no finite value")
    rounded = [round(value, DECIMALS) for value in values]
    record: dict[str, Any] = {"id": row.id, "index": row.index, "value": rounded[-1]}
    if at == "tokens":
        record["values"] = rounded if len(row.input_ids) > row.prompt_length else []
    return record | {"num_tokens": len(row.input_ids)}


def _bad_record(row: ParsedRow, error: str) -> dict[str, Any]:
    """Returns the line of a row without a value."""
    return {"id": row.id, "index": row.index, "value": None, "error": error}


def run(args: ScoreArgs) -> int:
    """Scores the file and names the rows without a value.

    Returns:
        The exit status: 1 if no row has a value.

    Raises:
        InputError: See `score_file`.
    """
    quiet_transformers()
    summary = score_file(args)
    num_scored = summary.num_rows - summary.num_bad
    print(f"{num_scored} of {summary.num_rows} rows have a value: {args.output}")
    if summary.num_bad:
        named = "; ".join(f"index {index}: {error}" for index, error in summary.first_bad)
        more = "; ..." if summary.num_bad > NUM_NAMED else ""
        print(
            f"{SCORE}: warning: rows without a value: {summary.num_bad}: {named}{more}",
            file=sys.stderr,
        )
    return 0 if num_scored else 1


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; `argv` is the command line by default."""
    args = parse_command_line(ScoreArgs, SCORE, __doc__, argv)
    run_command(SCORE, lambda: run(args))


if __name__ == "__main__":
    main()
