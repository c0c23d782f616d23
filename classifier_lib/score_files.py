"""Files of the scoring command: rows to read, and an output that goes on after a kill."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from run_lib.commands import InputError, naming
from run_lib.files import lock_file, write_json
from run_lib.lines import append_lines
from run_lib.settings import Settings, SettingsFile

WINDOW_ROWS = 4096
"""Rows that are sorted by length together, and written together."""
WINDOW_BYTES = 4 * 2**20
"""Size of their lines, about a million tokens: bounds the memory and what a kill loses."""

NUM_NAMED = 5
"""Rows without a value that are named at the end."""


def digest_lines(path: Path) -> tuple[str, int]:
    """Returns the SHA-256 of a whole file and its number of lines, without blank ones at its end.

    Unlike `fingerprint` every byte counts: one row may be corrected between two runs.
    """
    digest = hashlib.sha256()
    num_lines = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            digest.update(line)
            if line.strip():
                num_lines = number
    return digest.hexdigest(), num_lines


def read_windows(
    path: Path, window_rows: int = WINDOW_ROWS, window_bytes: int = WINDOW_BYTES
) -> Iterator[list[bytes]]:
    """Yields the lines of a file, some at a time, without blank ones at its end.

    The same file gives the same windows, wherever a run goes on from: a row's neighbours in a
    batch, and so the last digits of its value, are always the same.

    Args:
        path: The file.
        window_rows: Most lines of a window.
        window_bytes: Most bytes of a window, unless a single line has more.
    """
    window: list[bytes] = []
    size = 0
    with path.open("rb") as file:
        for line in _without_blank_end(file):
            if window and (len(window) == window_rows or size + len(line) > window_bytes):
                yield window
                window, size = [], 0
            window.append(line)
            size += len(line)
    if window:
        yield window


def _without_blank_end(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yields lines up to the last one that isn't blank; blank ones among them are bad rows."""
    blank: list[bytes] = []
    for line in lines:
        blank.append(line)
        if line.strip():
            yield from blank
            blank.clear()


class RowError(ValueError):
    """One row can't be scored."""


@dataclass
class ParsedRow:
    """A line of the input.

    Attributes:
        id: Name of the row, given by its owner; its line number by default.
        index: Line number, from 0.
        prompt_length: Tokens of the prompt.
        input_ids: Prompt and response; empty with an error.
        error: Fault because of which the row can't have a value.
    """

    id: str | int | float
    index: int
    prompt_length: int = 0
    input_ids: list[int] = field(default_factory=list)
    error: str | None = None


class RowParser:
    """Turns lines into token ids, with an error in place of those of a bad row.

    Args:
        tokenizer: Tokenizer of rows of text; None if there is none.
        vocab_size: Exclusive upper bound of the token ids.
        max_length: Longest row, in tokens.
        limit_name: Name of that limit, for the error.
    """

    NO_TOKENIZER = "a row of text needs a tokenizer: give --tokenizer"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        vocab_size: int,
        max_length: int,
        limit_name: str,
    ):
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.limit_name = limit_name

    def parse(self, lines: Sequence[bytes], first_index: int) -> list[ParsedRow]:
        """Returns the rows of some lines of the input.

        Args:
            lines: Neighbouring lines.
            first_index: Line number of the first of them.
        """
        rows: list[ParsedRow] = []
        parts: list[tuple[ParsedRow, str | list[int], str | list[int]]] = []
        for index, line in enumerate(lines, start=first_index):
            row = ParsedRow(index, index)
            rows.append(row)
            try:
                fields = _parse_object(line)
                row.id = _row_id(fields, index)
                parts.append((row, self._part(fields, "prompt"), self._part(fields, "response")))
            except RowError as error:
                row.error = str(error)
        token_ids = self._tokenize(part for _, *pair in parts for part in pair)
        for row, *pair in parts:
            prompt, response = (token_ids[part] if isinstance(part, str) else part for part in pair)
            length = len(prompt) + len(response)
            if not prompt:
                row.error = "the prompt is empty"
            elif length > self.max_length:
                row.error = f"{length} tokens, more than {self.limit_name} of {self.max_length}"
            else:
                row.prompt_length, row.input_ids = len(prompt), prompt + response
        return rows

    def _part(self, fields: dict[str, Any], name: str) -> str | list[int]:
        """Returns the prompt or the response of a row, as token ids if it has them."""
        ids = fields.get(f"{name}_ids")
        if ids is not None:
            # bool is a subclass of int, and JSON's true is no token
            if not isinstance(ids, list) or not all(type(token) is int for token in ids):
                raise RowError(f"{name}_ids is not a list of integers")
            if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
                wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
                raise RowError(
                    f"{name}_ids holds token id {wrong}; the vocabulary has {self.vocab_size}"
                )
            return ids
        text = fields.get(name)
        if text is None:
            raise RowError(f"neither {name} nor {name}_ids is there")
        if not isinstance(text, str):
            raise RowError(f"{name} is not a text")
        if not text:
            return []  # needs no tokenizer
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can hold half of a surrogate pair, no tokenizer takes it
            raise RowError(f"{name} is not valid Unicode") from None
        if self.tokenizer is None:
            raise RowError(self.NO_TOKENIZER)
        return text

    def _tokenize(self, parts: Iterable[str | list[int]]) -> dict[str, list[int]]:
        """Returns the token ids of each text among some parts."""
        # All at once, which runs in parallel, and each text once: rows share their prompts.
        texts = list(dict.fromkeys(part for part in parts if isinstance(part, str)))
        if not texts or self.tokenizer is None:
            return {}
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        return dict(zip(texts, encoded["input_ids"], strict=True))


def _parse_object(line: bytes) -> dict[str, Any]:
    """Returns the JSON object of a line."""
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RowError("not a JSON object")
    return fields


def _row_id(fields: dict[str, Any], index: int) -> str | int | float:
    """Returns the id of a row, by default its line number."""
    row_id = fields.get("id")
    if row_id is None:
        return index
    if not isinstance(row_id, (str, int, float)):
        raise RowError("id is neither a string nor a number")
    if isinstance(row_id, float) and not math.isfinite(row_id):
        raise RowError("id is not a finite number")
    return row_id


@dataclass
class ScoreSummary:
    """Counts of a run.

    Attributes:
        num_rows: Rows of the input.
        num_bad: Rows that have no value.
        first_bad: (index, error) of the first of them.
    """

    num_rows: int
    num_bad: int = 0
    first_bad: list[tuple[int, str]] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        """Counts a line of the output."""
        if "error" in record:
            self.num_bad += 1
            if len(self.first_bad) < NUM_NAMED:
                self.first_bad.append((record["index"], record["error"]))


class OutputFile:
    """The values that are written, whole lines only, and the settings that they are of.

    Args:
        path: The file, which only this process writes; see `open_output`.
        settings: Settings of this run.
        free: Flags that may differ from those of an earlier run.
        num_rows: Rows of the input.

    Attributes:
        num_lines: Whole lines in the file.
        summary: Counts of these lines.

    Raises:
        InputError: If the file is of other settings; it is left alone.
    """

    def __init__(self, path: Path, settings: Settings, free: Collection[str], num_rows: int):
        self.path = path
        self.settings = settings
        self.config_path = path.with_name(f"{path.name}.config.json")
        self.num_lines = 0
        self.summary = ScoreSummary(num_rows)
        # A run that never got as far as a line binds nobody.
        if path.exists() and path.stat().st_size:
            advice = "Give this run another --output"
            SettingsFile(self.config_path, path, advice, free).check(settings)
            self._recover()

    def _recover(self) -> None:
        """Counts the whole lines and cuts off what a kill left behind them."""
        end = 0
        with self.path.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    record = _parse_object(line)
                except RowError:
                    break
                index = record.get("index")
                if index != self.num_lines or self.num_lines == self.summary.num_rows:
                    raise InputError(
                        f"{self.path}, line {self.num_lines + 1}: not what this command writes "
                        "there; the file was left alone"
                    )
                self.summary.add(record)
                self.num_lines += 1
                end += len(line)
            file.truncate(end)
            os.fsync(file.fileno())

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes some lines and waits until the disk has them."""
        # All in ASCII: an id may hold what no encoding takes, or what some call the end of a line.
        lines = [f"{json.dumps(record, allow_nan=False)}\n".encode("ascii") for record in records]
        with naming("--output", OSError):
            if not self.num_lines:
                write_json(self.config_path, self.settings.document())
            append_lines(self.path, lines)
        self.num_lines += len(records)
        for record in records:
            self.summary.add(record)


@contextlib.contextmanager
def open_output(
    path: Path, settings: Settings, free: Collection[str], num_rows: int
) -> Iterator[OutputFile]:
    """Yields an `OutputFile` that this process alone may write; its folder is made.

    Raises:
        InputError: If another process is writing it, it can't be written, or it is of other
            settings.
    """
    with naming("--output", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file(path.with_name(f".{path.name}.lock"), f"another process is writing {path}")
    with lock:
        with naming("--output", OSError):
            output = OutputFile(path, settings, free, num_rows)
        yield output
