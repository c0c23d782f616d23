"""Paths for training, tree by tree, in the columns of `dvo_lib.columns.PATH_SCHEMA`."""

import bisect
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dvo_lib.batches import Path
from dvo_lib.columns import PATH_SCHEMA, REFERENCE

PROBLEM, NUMBER, PROMPT, STEPS = "problem_id", "path", "prompt_ids", "step_ids"
CREDITS, CORRECT = "credits", "correct"
COLUMNS = (PROBLEM, NUMBER, PROMPT, STEPS, CREDITS, CORRECT, REFERENCE)
_OTHER_SPLIT = re.compile("(validation|test)([-_.]|$)")


class TreePaths(Sequence[list[Path]]):
    """The trees of a data set, each as the list of its paths.

    The columns that training needs are in memory, token ids as int32; a path is sliced out of them
    and no row is decoded. All rows are checked, once.

    Args:
        source: Parquet file, or folder of Parquet files of which the train split is read: all files
            but those in a folder `validation` or `test`, or whose names begin so.
        vocab_size: Exclusive upper bound of the token ids.

    Attributes:
        num_paths: Paths of all trees.

    Raises:
        ValueError: If the source can't be read or doesn't fit the format; one line that begins with
            the source or the file, and names the row (counted from 0) and the column.
    """

    def __init__(self, source: str, vocab_size: int):
        self._files = [_PathFile(file, vocab_size) for file in _train_files(source)]
        self._first_trees = [0]
        for file in self._files:
            self._first_trees.append(self._first_trees[-1] + len(file.tree_starts) - 1)
        self.num_paths = sum(len(file.lengths) for file in self._files)
        if not self.num_paths:
            raise ValueError(f"{source}: no rows")

    def __len__(self) -> int:
        return self._first_trees[-1]

    def __getitem__(self, index: Any) -> Any:
        file, rows = self._locate(index)
        return [file.path(row) for row in rows]

    def length(self, index: int) -> int:
        """Returns the tokens of all paths of a tree, prompts included."""
        file, rows = self._locate(index)
        return int(file.lengths[rows.start : rows.stop].sum())

    def _locate(self, index: int) -> "tuple[_PathFile, range]":
        """Returns the file of a tree, and its rows there."""
        if not 0 <= index < len(self):
            raise IndexError(f"tree {index} of {len(self)}")
        number = bisect.bisect_right(self._first_trees, index) - 1
        file = self._files[number]
        start, stop = file.tree_starts[index - self._first_trees[number] :][:2].tolist()
        return file, range(start, stop)


def _train_files(source: str) -> list[FilePath]:
    """Returns the Parquet files of the train split of a source, see `TreePaths`."""
    folder = FilePath(source)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ValueError(f"{source}: no such file or folder")
    files = []
    for file in sorted(folder.rglob("*.parquet")):
        parts = file.relative_to(folder).parts
        if not any(part.startswith(".") or _OTHER_SPLIT.match(part) for part in parts):
            files.append(file)
    if not files:
        raise ValueError(f"{source}: no .parquet file of a train split in this folder")
    return files


class _Lists:
    """A list column: list i is `values[bounds[i]:bounds[i + 1]]`."""

    def __init__(self, array: pa.ListArray):
        offsets = array.offsets.to_numpy()
        self.bounds = offsets - offsets[0]
        self.values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        self.counts = np.diff(self.bounds)

    def owner(self, entry: int) -> int:
        """Returns the list that an entry of the values is in."""
        return int(np.searchsorted(self.bounds, entry, side="right")) - 1


class _PathFile:
    """The rows of one file.

    Attributes:
        lengths: [rows], tokens of each path, its prompt included.
        tree_starts: [trees + 1], first row of each tree, and the number of rows.
    """

    def __init__(self, file: FilePath, vocab_size: int):
        self._name = file
        columns = self._read(file)
        for name in COLUMNS:
            self._check_nulls(name, columns[name])
        prompts, steps = _Lists(columns[PROMPT]), _Lists(columns[STEPS])
        tokens = _Lists(steps.values)
        credits, reference = _Lists(columns[CREDITS]), _Lists(columns[REFERENCE])
        for fault in self._faults(prompts, steps, tokens, credits, reference, vocab_size):
            raise ValueError(f"{file}: {fault}")
        self._prompt_bounds, self._prompt_ids = prompts.bounds, prompts.values.to_numpy()
        self._step_rows, self._step_bounds = steps.bounds, tokens.bounds
        self._step_ids = tokens.values.to_numpy()
        self._credits, self._reference = credits.values.to_numpy(), reference.values.to_numpy()
        self._correct = columns[CORRECT].to_numpy(zero_copy_only=False)
        self.lengths = prompts.counts + np.diff(tokens.bounds[steps.bounds])
        self.tree_starts = _tree_starts(columns[PROBLEM], columns[NUMBER].to_numpy())

    def path(self, row: int) -> Path:
        """Returns the path of a row; its token ids are views of the columns."""
        start, stop = self._step_rows[row : row + 2].tolist()
        bounds = self._step_bounds[start : stop + 1].tolist()
        return Path(
            self._prompt_ids[self._prompt_bounds[row] : self._prompt_bounds[row + 1]],
            [self._step_ids[a:b] for a, b in itertools.pairwise(bounds)],
            self._credits[start:stop].tolist(),
            self._reference[start:stop].tolist(),
            bool(self._correct[row]),
        )

    def _read(self, file: FilePath) -> dict[str, Any]:
        """Returns the columns by name, in the types of `PATH_SCHEMA`."""
        try:
            with pq.ParquetFile(file) as content:
                present = content.schema_arrow.names
                for name in COLUMNS:
                    if name not in present:
                        advice = f"; the columns are {', '.join(present)}"
                        raise ValueError(f"{file}: no column {name}{advice}")
                table = content.read(list(COLUMNS))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{file}: can't be read as Parquet: {error}") from error
        columns = {}
        for name in COLUMNS:
            is_type, column = PATH_SCHEMA.field(name).type, table.column(name)
            try:
                columns[name] = column.cast(is_type).combine_chunks()
            except pa.ArrowException as error:
                raise ValueError(
                    f"{file}: column {name} is {column.type}, not {is_type}"
                ) from error
        return columns

    def _check_nulls(self, name: str, array: Any) -> None:
        """Raises ValueError if a row of a column is null."""
        if array.null_count:
            row = int(array.is_null().to_numpy(zero_copy_only=False).argmax())
            advice = ": run data_prep.dvo reference first" if name == REFERENCE else ""
            raise ValueError(f"{self._name}: row {row}, column {name} is null{advice}")

    def _faults(
        self,
        prompts: _Lists,
        steps: _Lists,
        tokens: _Lists,
        credits: _Lists,
        reference: _Lists,
        vocab_size: int,
    ) -> Iterator[str]:
        """Yields a description of the first fault of each kind."""

        def first(bad: np.ndarray) -> list[int]:
            return np.flatnonzero(bad)[:1].tolist()

        for name, lists in ((PROMPT, prompts), (STEPS, steps)):
            for row in first(lists.counts == 0):
                yield f"row {row}, column {name} is empty"
        if steps.values.null_count:
            step = first(steps.values.is_null().to_numpy(zero_copy_only=False))[0]
            yield f"{_step(steps, step)} is null"
        for step in first(tokens.counts == 0):
            yield f"{_step(steps, step)} has no token"
        for name, lists in ((CREDITS, credits), (REFERENCE, reference)):
            for row in first(lists.counts != steps.counts):
                yield (
                    f"row {row}, column {name} has {lists.counts[row]} numbers for "
                    f"{steps.counts[row]} steps"
                )
            for entry in first(~pc.is_finite(lists.values.fill_null(np.nan)).to_numpy(False)):
                number = lists.values[entry].as_py()
                row = lists.owner(entry)
                step = entry - int(lists.bounds[row])
                yield f"row {row}, column {name}, step {step}: {number} is no finite number"
        for name, lists in ((PROMPT, prompts), (STEPS, tokens)):
            ids = lists.values.fill_null(-1).to_numpy()
            for entry in first((ids < 0) | (ids >= vocab_size)):
                place, token = lists.owner(entry), lists.values[entry].as_py()
                where = f"row {place}, column {name}" if name == PROMPT else _step(steps, place)
                yield f"{where}: token id {token} is not in [0, {vocab_size})"


def _step(steps: _Lists, step: int) -> str:
    """Returns the place of a step, counted over all rows, for messages."""
    row = steps.owner(step)
    return f"row {row}, column {STEPS}, step {step - int(steps.bounds[row])}"


def _tree_starts(problems: Any, numbers: np.ndarray) -> np.ndarray:
    """Returns the first row of each tree, and the number of rows.

    Within a tree the numbers of the paths ascend; two trees of one problem may be neighbours.
    """
    codes = problems.dictionary_encode().indices.to_numpy()
    begins = (codes[1:] != codes[:-1]) | (numbers[1:] <= numbers[:-1])
    inner = np.flatnonzero(begins) + 1
    ends = [len(numbers)] if len(numbers) else []
    return np.array([0, *inner.tolist(), *ends])
