"""Rows of data sets, from files and from the Hub, and the texts in their columns."""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from run_lib.text import one_line

LOCAL_FORMATS = (".jsonl", ".json", ".csv", ".parquet")

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""JSON can spell it as an escape; no tokenizer or file takes it."""


def read_rows(path: str, split: str, config: str | None = None) -> Iterable[Mapping[str, Any]]:
    """Returns the rows of a data set.

    Args:
        path: A file in one of `LOCAL_FORMATS`, or the Hub id of a data set.
        split: Split of a Hub data set.
        config: Configuration of a Hub data set that has several.

    Raises:
        ValueError: If it can't be read; begins with the path.
    """
    readers = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    reader = readers.get(Path(path).suffix)
    if reader is not None:
        return reader(Path(path))
    # Imported here: loading takes a second, and local runs do without.
    import datasets

    try:
        return datasets.load_dataset(path, config, split=split)
    except Exception as error:  # the Hub's client has no common base for its errors
        raise ValueError(
            f"{path} (split {split}) could not be loaded: {type(error).__name__}: {one_line(error)}"
        ) from error


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    # Split at newlines alone: JSON strings may hold other characters that Unicode ends lines with.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        row = _parse_json(line, f"{path}, line {number}")
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows


def _read_json(path: Path) -> list[dict[str, Any]]:
    """Reads an array of objects; JSON lines have this ending, too."""
    content = path.read_bytes()
    if not content.decode("utf-8-sig", errors="replace").lstrip().startswith("["):
        return _read_jsonl(path)
    rows = _parse_json(content, str(path))
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {index}: not a JSON object")
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Not by `datasets`, which copies the file into its cache and shows a bar on the way.
    try:
        return pq.read_table(path).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} could not be loaded: {one_line(error)}") from error


def _parse_json(content: bytes, place: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON: {error}") from error


def _read_csv(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise ValueError("more values than columns")
                rows.append(row)
        except UnicodeDecodeError as error:  # of a block of lines
            raise ValueError(f"{path}: not UTF-8: {error}") from error
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path}, line {reader.reader.line_num}: {error}") from error
    return rows


def read_text(row: Mapping[str, Any], column: str) -> str:
    """Returns a column of a row as text; an empty one if it is missing.

    Raises:
        ValueError: Naming the column and its type, if that is none of text, number, list of one.
    """
    value = row.get(column)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        (value,) = value
    if value is None:
        return ""
    if isinstance(value, str):
        if _HALF_CHARACTER.search(value):
            raise ValueError(f"the column {column!r} has half of a surrogate pair, not text")
        return value
    if isinstance(value, (float, Decimal)) and not math.isfinite(value):
        raise ValueError(f"the column {column!r} is {value}, not text")
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"the column {column!r} is of type {_type_name(row[column])}, not text")


def _type_name(value: Any) -> str:
    """Returns the name of a type, with those of the items of a list."""
    if not isinstance(value, (list, tuple)):
        return type(value).__name__
    items = dict.fromkeys(type(item).__name__ for item in value)
    return f"list[{', '.join(items)}] ({len(value)} items)"
