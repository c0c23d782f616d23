"""Rows of a data set by number: a stage reads the rows that it works on, and no others."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.stages import REPORT_FILE, STAGE_FILE, FinishedStage, StageInput, reading_parquet
from run_lib.commands import InputError
from run_lib.fingerprints import fingerprint
from run_lib.text import one_line
from search_lib.benchmark_rows import LOCAL_FORMATS, read_rows

SPLITS = ("train", "validation", "test")

_SPLIT_PREFIX = re.compile(rf"({'|'.join(SPLITS)})[-.]")


class RowSource(StageInput, Protocol):
    """One split of a data set.

    Attributes:
        column_names: Names of the columns, in their order.
        schema: Their types.
    """

    @property
    def column_names(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def schema(self) -> pa.Schema: ...  # noqa: D102

    def read(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Returns some columns of rows `start` to `stop - 1`."""
        ...


class _RowGroup(NamedTuple):
    """A part of a Parquet file that is read at once."""

    path: Path
    number: int
    first_row: int
    num_rows: int


class ParquetRows:
    """The rows of some Parquet files, one file after the other.

    Only the footers are read here. Files are opened when their rows are asked for, and the row
    group read last is kept: the next chunk often begins in it.

    Args:
        paths: The files, in order.
        root: Folder that the names in `digest` are relative to.
        digest: Digest of the content; by default of the beginnings and ends of the files.

    Raises:
        InputError: If a file is no Parquet file, or its columns differ from those of the others.
    """

    def __init__(self, paths: Sequence[Path], root: Path, digest: str | None = None):
        self.num_rows = 0
        self.column_names: Sequence[str] = []
        self._groups: list[_RowGroup] = []
        self._last: tuple[_RowGroup, tuple[str, ...], pa.Table] | None = None
        self.schema = pa.schema([])
        for path in paths:
            with reading_parquet(path):
                metadata = pq.read_metadata(path)
            schema = metadata.schema.to_arrow_schema().remove_metadata()
            self.column_names = self.column_names or schema.names
            if schema.names != self.column_names:
                raise InputError(f"{path} has the columns {schema.names}, not {self.column_names}")
            try:
                self.schema = unify_types([self.schema, schema])
            except pa.ArrowException as error:
                raise InputError(f"{path} has columns of other types: {error}") from error
            for number in range(metadata.num_row_groups):
                rows = metadata.row_group(number).num_rows
                self._groups.append(_RowGroup(path, number, self.num_rows, rows))
                self.num_rows += rows
        if digest is None:
            contents = [f"{path.relative_to(root)} {fingerprint(path)}\n" for path in paths]
            digest = hashlib.sha256("".join(contents).encode()).hexdigest()
        self.digest = digest

    def read(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Returns some columns of rows `start` to `stop - 1`."""
        parts = []
        schema = pa.schema([self.schema.field(name) for name in columns])
        for group in self._groups:
            first, last = group.first_row, group.first_row + group.num_rows
            if first < stop and last > start:
                table = self._read_group(group, tuple(columns))
                table = table.slice(max(start - first, 0), min(stop, last) - max(start, first))
                with reading_parquet(group.path):
                    parts.append(as_types(table, schema))
        return pa.concat_tables(parts)

    def _read_group(self, group: _RowGroup, columns: tuple[str, ...]) -> pa.Table:
        if self._last is None or self._last[:2] != (group, columns):
            with reading_parquet(group.path), pq.ParquetFile(group.path) as file:
                table = file.read_row_group(group.number, columns=list(columns))
            self._last = group, columns, table.select(list(columns))
        return self._last[2]


class TableRows:
    """The rows of an Arrow table.

    Args:
        table: A table in memory, or the memory-mapped one of a data set of `datasets`.
        digest: Digest of its content.
    """

    def __init__(self, table: pa.Table, digest: str):
        self.num_rows = table.num_rows
        self.digest = digest
        self.column_names: Sequence[str] = table.column_names
        self.schema = table.schema.remove_metadata()
        self._table = table

    def read(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Returns some columns of rows `start` to `stop - 1`."""
        return self._table.select(list(columns)).slice(start, stop - start)


def open_sources(
    source: str, config: str | None = None, required: Sequence[str] = ()
) -> Mapping[str, RowSource]:
    """Opens the splits of a data set.

    In a folder, the split of a Parquet file is the folder below that it lies in
    (`train/0.parquet`) or the beginning of its name, as on the Hub
    (`data/train-00000-of-00010.parquet`); any other file belongs to the train split.

    Args:
        source: File in one of `LOCAL_FORMATS`, folder with Parquet files, or Hub id `owner/name`.
        config: Configuration of a Hub data set, where it has several.
        required: Columns that must be there.

    Raises:
        ValueError: If there is nothing to read, or a column is missing; begins with the source.
    """
    path = Path(source)
    sources: dict[str, RowSource]
    if path.is_file() and path.suffix in LOCAL_FORMATS and path.suffix != ".parquet":
        sources = {SPLITS[0]: _text_rows(path)}
    elif path.exists():
        files = _parquet_files(path)
        if not files:
            raise ValueError(f"{source}: no .parquet file in this folder")
        root = path if path.is_dir() else path.parent
        digest = _stage_digest(path)
        sources = {split: ParquetRows(paths, root, digest) for split, paths in files.items()}
    elif source.startswith(("/", ".")) or source.count("/") != 1 or path.suffix in LOCAL_FORMATS:
        raise ValueError(f"{source}: no such file or folder")
    else:
        sources = _hub_sources(source, config)
    for split, rows in sources.items():
        missing = [name for name in required if name not in rows.column_names]
        if missing:
            raise ValueError(
                f"{source}: no column {', '.join(missing)} in the {split} split; "
                f"it has {', '.join(rows.column_names)}"
            )
    if not sum(rows.num_rows for rows in sources.values()):
        raise ValueError(f"{source} has no rows")
    return sources


def unify_types(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Returns the schema that has room for all of some: large_string for it and string, and so on.

    Raises:
        pa.ArrowException: If a column has types that mean different things, such as text and int.
    """
    decoded = [
        pa.schema([field.with_type(_decoded(field.type)) for field in schema]) for schema in schemas
    ]
    return pa.unify_schemas(decoded, promote_options="permissive")


def as_types(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns a table in the types of a schema that `unify_types` made, in its order of columns."""
    return table if table.schema.equals(schema) else table.select(schema.names).cast(schema)


def _decoded(kind: pa.DataType) -> pa.DataType:
    """Returns the type of what a dictionary or a view holds."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def check_texts(sources: Mapping[str, RowSource], name: str, columns: Sequence[str]) -> None:
    """Checks that columns hold texts or numbers, or lists of them, where they are there at all.

    Raises:
        ValueError: Naming the column and its type; begins with the name.
    """
    for split, source in sources.items():
        for column in columns:
            kind = source.schema.field(column).type if column in source.column_names else pa.null()
            if not _is_text(kind) and not (_is_list(kind) and _is_text(kind.value_type)):
                raise ValueError(
                    f"{name}, row 0 of {split}: the column {column!r} is of type {kind}, not text"
                )


def _is_list(kind: pa.DataType) -> bool:
    is_view = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return is_view or any(
        test(kind)
        for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    )


def _is_text(kind: pa.DataType) -> bool:
    kind = _decoded(kind)
    return any(
        test(kind)
        for test in (
            *(pa.types.is_string, pa.types.is_large_string, pa.types.is_null),
            *(pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
        )
    )


def read_texts(table: pa.Table) -> list[dict[str, Any]]:
    """Returns the rows of a table as `to_pylist` does, with the forms that texts come in undone.

    Bytes that are no UTF-8 are replaced, a list of one is its item, and an empty list or NaN is
    None.
    """
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            columns[name] = column.to_pylist()
        except UnicodeDecodeError:
            encoded = column.cast(pa.binary()).to_pylist()
            columns[name] = [
                None if text is None else text.decode("utf-8", errors="replace") for text in encoded
            ]
        columns[name] = [_unwrap(value) for value in columns[name]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _unwrap(value: Any) -> Any:
    if isinstance(value, list) and len(value) < 2:
        value = value[0] if value else None
    return None if isinstance(value, float) and math.isnan(value) else value


def _stage_digest(path: Path) -> str | None:
    """Returns the digest of the output of a stage; None for any other folder or file.

    Raises:
        ValueError: If the stage is not complete; begins with the path.
    """
    if not (path / STAGE_FILE).exists():
        return None
    if not (path / REPORT_FILE).exists():
        raise ValueError(f"{path} is not complete: run the command that fills it to its end")
    return FinishedStage(path, "a stage").digest


def _parquet_files(path: Path) -> dict[str, list[Path]]:
    """Returns the Parquet files of a folder by split, in the order of `SPLITS` and their names."""
    if path.is_file():
        return {SPLITS[0]: [path]}
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for file in sorted(path.rglob("*.parquet")):
        parts = file.relative_to(path).parts
        if any(part.startswith(".") for part in parts):
            continue
        name = _SPLIT_PREFIX.match(file.name)
        folders = [part for part in parts[:-1] if part in SPLITS]
        split = folders[0] if folders else name[1] if name else SPLITS[0]
        found[split].append(file)
    return {split: files for split, files in found.items() if files}


def _text_rows(path: Path) -> TableRows:
    """Returns the rows of a file of JSON or CSV, which are in memory as long as the source."""
    rows = list(read_rows(str(path), SPLITS[0]))
    if not rows:
        raise ValueError(f"{path} has no rows")
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, UnicodeError) as error:
            raise ValueError(
                f"{path}: the column {name!r} has values of several types, or such as are no text: "
                f"{one_line(error)}"
            ) from error
    return TableRows(pa.table(columns), str(fingerprint(path)))


def _hub_sources(source: str, config: str | None) -> dict[str, RowSource]:
    # Imported here: they take seconds, and local data does without.
    import datasets

    from run_lib.hub import loading

    with loading(source, "no data set could be loaded"):
        splits = datasets.load_dataset(source, config)
    return {
        split: TableRows(splits[split].data.table, splits[split]._fingerprint)
        for split in SPLITS
        if split in splits
    }
