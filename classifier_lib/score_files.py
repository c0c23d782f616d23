"""What the scoring command reads and writes: rows, and an output that goes on after a kill."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from run_lib.commands import InputError
from run_lib.files import lock_file, write_json

WINDOW_ROWS = 4096
"""Rows that are sorted by length together, and written together."""
WINDOW_BYTES = 4 * 2**20
"""Size of their lines, about a million tokens: bounds the memory and what a kill loses."""

NUM_NAMED = 5
"""Rows without a value that are named at the end."""

BOUND_FLAGS = ("at", "max_length", "dtype")
"""Flags that must not change within an output; model, input and tokenizer are told by content."""


def digest_lines(path: Path) -> tuple[str, int]:
    """SHA-256 of a whole file and its number of lines.

    Unlike `fingerprint` every byte counts: one row may be corrected between two runs.
    """
    digest = hashlib.sha256()
    num_lines = 0
    with path.open("rb") as file:
        for line in file:
            digest.update(line)
            num_lines += 1
    return digest.hexdigest(), num_lines


def read_windows(
    path: Path, window_rows: int = WINDOW_ROWS, window_bytes: int = WINDOW_BYTES
) -> Iterator[list[bytes]]:
    """The lines of a file, some at a time: at most so many, and so many bytes (or one line).

    The same file gives the same windows, wherever a run goes on from: a row's neighbours in a
    batch, and so the last digits of its value, are always the same.
    """
    window: list[bytes] = []
    size = 0
    with path.open("rb") as file:
        for line in file:
            if window and (len(window) == window_rows or size + len(line) > window_bytes):
                yield window
                window, size = [], 0
            window.append(line)
            size += len(line)
    if window:
        yield window


class RowError(ValueError):
    """One row can't be scored."""


@dataclass
class ParsedRow:
    """A line of the input.

    Args:
        id: what tells the row apart for its owner.
        index: line number, from 0.
        prompt_length: tokens of the prompt.
        input_ids: prompt and response; empty with an error.
        error: why it has no value, if it can't have one.
    """

    id: str | int | float
    index: int
    prompt_length: int = 0
    input_ids: list[int] = field(default_factory=list)
    error: str | None = None


class RowParser:
    """Turns lines into token ids, with an error in place of those of a bad row.

    Args:
        tokenizer: for rows of text; None if there is none.
        vocab_size: exclusive upper bound of the token ids.
        max_length: longest row, in tokens.
        limit_name: what sets that length, for the error.
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
        """The rows of some lines of the input; the first of them has line number `first_index`."""
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
            return []  # whatever the tokenizer
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can hold half of a surrogate pair, no tokenizer takes it
            raise RowError(f"{name} is not valid Unicode") from None
        if self.tokenizer is None:
            raise RowError(self.NO_TOKENIZER)
        return text

    def _tokenize(self, parts: Iterable[str | list[int]]) -> dict[str, list[int]]:
        # All at once, which runs in parallel, and each text once: rows share their prompts.
        texts = list(dict.fromkeys(part for part in parts if isinstance(part, str)))
        if not texts or self.tokenizer is None:
            return {}
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        return dict(zip(texts, encoded["input_ids"], strict=True))


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RowError("not a JSON object")
    return fields


def _row_id(fields: dict[str, Any], index: int) -> str | int | float:
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
    """What a finished run did.

    Attributes:
        num_rows: rows of the input.
        num_bad: those that have no value.
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
        path: only this process writes there, see `open_output`.
        settings: of this run, as JSON types, with the digests of what it reads in `fingerprints`.
        num_rows: rows of the input.

    Attributes:
        num_lines: whole lines in the file.
        summary: what is in the file.

    Raises:
        InputError: if the file is of other settings; it is left alone.
    """

    def __init__(self, path: Path, settings: dict[str, Any], num_rows: int):
        self.path = path
        self.settings = settings
        self.config_path = path.with_name(f"{path.name}.config.json")
        self.num_lines = 0
        self.summary = ScoreSummary(num_rows)
        # A run that never got as far as a line binds nobody.
        if path.exists() and path.stat().st_size:
            self._check_settings()
            self._recover()

    def _check_settings(self) -> None:
        try:
            earlier = json.loads(self.config_path.read_text(encoding="utf-8"))
            differing = _differing_flags(earlier, self.settings)
        except FileNotFoundError:
            raise InputError(
                f"{self.path} is not empty, and no {self.config_path.name} beside it says what it "
                "is of; it was left alone"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.config_path} is damaged: {type(error).__name__}: {error}"
            ) from error
        if differing:
            raise InputError(
                f"{self.path} is of another run; differing: {', '.join(differing)}. "
                "Give this run another --output"
            )

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
        if not self.num_lines:
            write_json(self.config_path, self.settings)
        # All in ASCII: an id may hold what no encoding takes, or what some call the end of a line.
        lines = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        with self.path.open("ab") as file:
            file.write(lines.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        self.num_lines += len(records)
        for record in records:
            self.summary.add(record)


@contextlib.contextmanager
def open_output(path: Path, settings: dict[str, Any], num_rows: int) -> Iterator[OutputFile]:
    """Yields an `OutputFile` that this process alone may write; its folder is made.

    Raises:
        InputError: if another process is writing it, or it is of other settings.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = lock_file(path.with_name(f".{path.name}.lock"))
    except BlockingIOError as error:
        raise InputError(f"another process is writing {path}") from error
    with lock:
        yield OutputFile(path, settings, num_rows)


def _differing_flags(earlier: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What keeps two runs from sharing an output, each with its flag; empty if nothing does."""
    differing = []
    for flag in ("model", "input", "tokenizer", *BOUND_FLAGS):
        names = earlier[flag], settings[flag]
        contents = earlier["fingerprints"].get(flag), settings["fingerprints"].get(flag)
        # A folder may have moved; of a hub id (and a plain flag) the name is all there is.
        same = contents[0] == contents[1] if any(contents) else names[0] == names[1]
        if not same and names[0] != names[1]:
            differing.append(f"--{flag} (was {names[0]}, now {names[1]})")
        elif not same:
            differing.append(f"--{flag} (its content has changed)")
    return differing
