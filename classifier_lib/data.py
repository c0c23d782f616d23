"""Roll-outs for training: zero-copy access and a resumable sampler.

The data has the columns of `VGS-AI/OpenR1-VM`: a row is a problem, and its list columns hold one
entry a response. `roll_in_ids` is prompt + prefix, `roll_outs_ids` the completion that carries the
loss, `labels` the terminal class of the completion (0 incorrect, 1 correct, 2 unfinished).
"""

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from classifier_lib.modeling import SUCCESS_CLASS
from run_lib.hub import loading
from run_lib.processes import Processes

ROLL_IN, ROLL_OUT, LABELS = "roll_in_ids", "roll_outs_ids", "labels"
NUM_CLASSES = 3

_LIST_TYPES = (pa.ListArray, pa.LargeListArray)


class Rollout(NamedTuple):
    """One sample.

    Attributes:
        roll_in: [P] token ids of prompt + prefix; a read-only view of the file.
        roll_out: [R] token ids of the completion, R >= 1; a read-only view of the file.
        label: Terminal class of the completion.
        soft_target: Share of class 1 among the completions of this very roll-in in its row, in
            [0, 1]; None unless the data set was asked for it.
    """

    roll_in: np.ndarray
    roll_out: np.ndarray
    label: int
    soft_target: float | None = None


class BadRow(NamedTuple):
    """A row that can't be trained on.

    Attributes:
        row: Row of the data set, from 0.
        column: Column at fault.
        fault: The fault, as it follows the name of the column in a message.
    """

    row: int
    column: str
    fault: str

    def __str__(self) -> str:
        return f"row {self.row}, column {self.column}{self.fault}"


def format_bad_rows(bad_rows: Sequence[BadRow], num_shown: int = 10) -> str:
    """Returns lines that say which rows were left out, the first `num_shown` of them one by one."""
    lines = [f"left out {len(bad_rows):,} bad rows:", *(f"  {bad}" for bad in bad_rows[:num_shown])]
    if len(bad_rows) > num_shown:
        lines.append(f"  and {len(bad_rows) - num_shown:,} more")
    return "\n".join(lines)


class GroupedRollouts(Dataset[Rollout]):
    """The roll-outs of a data set; sample `row * num_responses + response`.

    A sample is sliced out of the Arrow buffers of the memory-mapped table: no row is decoded and
    nothing is copied. List lengths and labels are checked here, once. Token ids are checked when
    `vocab_size` is given, which reads the whole file; with several processes each reads its share.

    Args:
        source: Parquet file, folder of Parquet files, `save_to_disk` folder, or Hub id, of several
            splits the train split; or a table in memory.
        num_responses: Responses in every row.
        vocab_size: Exclusive upper bound of the token ids; None leaves them unchecked.
        skip_bad_rows: Leave out rows that fail a check, instead of raising. Samples then count the
            rows that are left.
        left_out: Rows of the source to leave out unchecked, those of an earlier `bad_rows`.
        soft_targets: Whether samples have a `soft_target`.
        processes: The processes of the run, all of which open the data set; None for this one only.

    Attributes:
        num_rows: Rows that can be used.
        bad_rows: Rows that failed a check and that `skip_bad_rows` left out, in order; the same on
            every process.
        left_out: Rows of the source that were left out, these and those of the argument.

    Raises:
        ValueError: If the source can't be read or doesn't fit the format; one line that begins with
            the source and names the row (counted from 0) and the column.
    """

    def __init__(
        self,
        source: str | pa.Table,
        num_responses: int,
        vocab_size: int | None = None,
        *,
        skip_bad_rows: bool = False,
        left_out: Sequence[int] = (),
        soft_targets: bool = False,
        processes: Processes | None = None,
    ):
        if num_responses < 1:
            raise ValueError(f"num_responses must be positive, not {num_responses}")
        self.num_responses = num_responses
        self.soft_targets = soft_targets
        table = _load_table(source) if isinstance(source, str) else source
        source = source if isinstance(source, str) else "the table"
        for name in (ROLL_IN, ROLL_OUT, LABELS):
            if name not in table.column_names:
                present = ", ".join(table.column_names)
                raise ValueError(f"{source}: no column {name}; the columns are {present}")
        if not table.num_rows:
            raise ValueError(f"{source}: no rows")
        rank, world_size = (processes.rank, processes.world_size) if processes else (0, 1)
        share = range(
            table.num_rows * rank // world_size, table.num_rows * (rank + 1) // world_size
        )
        self._chunks: list[_Chunk] = []
        found: list[BadRow] = []
        found_in_share: list[BadRow] = []
        # Combines the chunk boundaries of the columns without copying.
        for batch in table.select([ROLL_IN, ROLL_OUT, LABELS]).to_batches():
            if not batch.num_rows:
                continue
            first_row = self._chunks[-1].stop_row if self._chunks else 0
            chunk = _Chunk(source, batch, first_row)
            found += chunk.check_structure(num_responses)
            if vocab_size is not None:
                found_in_share += chunk.check_token_ids(vocab_size, share)
            self._chunks.append(chunk)
        self._chunk_starts = [chunk.first_row for chunk in self._chunks]
        parts = processes.all_gather_objects(found_in_share) if processes else [found_in_share]
        for part in parts:
            found += part
        # One entry a row, the first fault in it.
        by_row = {bad.row: bad for bad in sorted(found, reverse=True) if bad.row not in left_out}
        self.bad_rows = [by_row[row] for row in sorted(by_row)]
        if self.bad_rows and not skip_bad_rows:
            more = f" (and {len(by_row) - 1} more bad rows)" if len(by_row) > 1 else ""
            advice = "skip_bad_rows leaves them out"
            if len(by_row) == table.num_rows:
                advice = "every row is bad, so see whether data_num_response is that of the data"
            raise ValueError(f"{source}: {self.bad_rows[0]}{more}; {advice}")
        self.left_out = sorted({*by_row, *left_out})
        self.num_rows = table.num_rows - len(self.left_out)
        if not self.num_rows:
            raise ValueError(f"{source}: every row is bad; the first: {self.bad_rows[0]}")
        # Row of the table for each row that can be used; None if all of them can.
        self._rows = None
        if self.left_out:
            self._rows = np.setdiff1d(np.arange(table.num_rows), self.left_out, assume_unique=True)

    def __len__(self) -> int:
        return self.num_rows * self.num_responses

    def __getitem__(self, index: int) -> Rollout:
        chunk, row, response = self._locate(index)
        return Rollout(
            chunk.roll_in.tokens(row, response),
            chunk.roll_out.tokens(row, response),
            int(chunk.labels[chunk.label_rows[row] + response]),
            self._soft_target(chunk, row, response) if self.soft_targets else None,
        )

    def keep_first(self, num_rows: int) -> None:
        """Leaves out all rows but the first so many that can be used."""
        self.num_rows = min(self.num_rows, num_rows)

    def length(self, index: int) -> int:
        """Returns the tokens of a sample, roll-in and roll-out, without touching them."""
        chunk, row, response = self._locate(index)
        return chunk.roll_in.length(row, response) + chunk.roll_out.length(row, response)

    def _locate(self, index: int) -> "tuple[_Chunk, int, int]":
        """Returns the chunk of a sample, its row in the chunk, and its response in the row."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        row, response = divmod(index, self.num_responses)
        if self._rows is not None:
            row = int(self._rows[row])
        chunk = self._chunks[bisect.bisect_right(self._chunk_starts, row) - 1]
        return chunk, row - chunk.first_row, response

    def _soft_target(self, chunk: "_Chunk", row: int, response: int) -> float:
        """Returns the share of class 1 among the responses of the row with this roll-in."""
        mine = chunk.roll_in.tokens(row, response)
        first = chunk.label_rows[row]
        rewards = chunk.labels[first : first + self.num_responses] == SUCCESS_CLASS
        same = [
            other == response
            or (
                chunk.roll_in.length(row, other) == len(mine)
                and np.array_equal(chunk.roll_in.tokens(row, other), mine)
            )
            for other in range(self.num_responses)
        ]
        return float(rewards[same].mean())


def _load_table(source: str) -> pa.Table:
    """Returns the memory-mapped table of a source (see `GroupedRollouts`)."""
    import datasets  # takes seconds, and a table in memory does without

    path = Path(source)
    is_path = path.suffix == ".parquet" or source.startswith(("/", ".")) or source.count("/") != 1
    if is_path and not path.exists():
        raise ValueError(f"{source}: no such file or folder")
    is_saved = any((path / name).exists() for name in ("state.json", "dataset_dict.json"))
    files = [source] if path.is_file() else sorted(map(str, path.rglob("*.parquet")))
    if path.is_dir() and not is_saved and not files:
        raise ValueError(f"{source}: neither a save_to_disk folder nor any .parquet file")
    with loading(source, "no data set could be read"):
        if is_saved:
            data = datasets.load_from_disk(source)
        elif files:
            data = datasets.load_dataset("parquet", data_files=files, split="train")
        else:
            data = datasets.load_dataset(source, split="train")
    if isinstance(data, datasets.DatasetDict):
        if "train" not in data:
            raise ValueError(f"{source}: no train split; the splits are {', '.join(data)}")
        data = data["train"]
    return data.data.table


class _TokenColumn:
    """Views of the buffers of a list<list<int>> column of one record batch.

    Response r of row i of the batch is list `rows[i] + r`, and list j is
    `ids[bounds[j]:bounds[j + 1]]`.
    """

    def __init__(self, source: str, batch: pa.RecordBatch, name: str):
        self.name = name
        self.array = batch.column(name)
        self.rows, self.lists = _responses(source, name, self.array)
        if not isinstance(self.lists, _LIST_TYPES) or not pa.types.is_integer(
            self.lists.values.type
        ):
            raise ValueError(
                f"{source}: column {name} is {self.array.type}, not lists of token ids"
            )
        self.bounds = self.lists.offsets.to_numpy()
        self.values = self.lists.values
        # to_numpy would copy ids with a null among them; those are never used.
        self.ids = np.zeros(0, dtype=np.int64)
        if len(self.values):
            buffer, dtype = self.values.buffers()[1], self.values.type.to_pandas_dtype()
            self.ids = np.frombuffer(buffer, dtype)[self.values.offset :][: len(self.values)]

    def length(self, row: int, response: int) -> int:
        """Returns the tokens of a list."""
        i = self.rows[row] + response
        return int(self.bounds[i + 1] - self.bounds[i])

    def tokens(self, row: int, response: int) -> np.ndarray:
        """Returns the token ids of a list, without copying them."""
        i = self.rows[row] + response
        return self.ids[self.bounds[i] : self.bounds[i + 1]]

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Returns the list that each of some positions in `ids` belongs to."""
        return np.searchsorted(self.bounds, positions, side="right") - 1


def _responses(source: str, name: str, array: pa.Array) -> tuple[np.ndarray, Any]:
    """Returns (bounds of the rows [rows + 1], entries) of a list column, one entry a response."""
    if not isinstance(array, _LIST_TYPES):
        raise ValueError(f"{source}: column {name} is {array.type}, not a list")
    offsets = array.offsets.to_numpy()
    return offsets - offsets[0], array.values.slice(offsets[0], offsets[-1] - offsets[0])


def _first_in_rows(entries: np.ndarray, rows: np.ndarray) -> list[tuple[int, int]]:
    """Returns (row, response) of the first of some entries of a list column in each row.

    Args:
        entries: Ascending numbers of entries, one entry a response.
        rows: Bounds of the rows in the entries.
    """
    found, first = np.unique(np.searchsorted(rows, entries, side="right") - 1, return_index=True)
    return list(zip(found.tolist(), (entries[first] - rows[found]).tolist(), strict=True))


class _Chunk:
    """Views of the buffers of one record batch, and the checks of its content."""

    def __init__(self, source: str, batch: pa.RecordBatch, first_row: int):
        self.first_row = first_row
        self.stop_row = first_row + batch.num_rows
        self.roll_in = _TokenColumn(source, batch, ROLL_IN)
        self.roll_out = _TokenColumn(source, batch, ROLL_OUT)
        self.label_array = batch.column(LABELS)
        self.label_rows, labels = _responses(source, LABELS, self.label_array)
        if not pa.types.is_integer(labels.type):
            raise ValueError(f"{source}: column {LABELS} is {labels.type}, not integers")
        self.label_nulls = labels.is_null().to_numpy(zero_copy_only=False)
        self.labels = labels.fill_null(0).to_numpy()

    def check_structure(self, num_responses: int) -> list[BadRow]:
        """Returns the rows with nulls, wrong or empty lists, or labels that are no class.

        A row has one entry for each kind of fault in each column, of the first place it is in.
        """
        found: list[BadRow] = []
        for column, array in (
            (ROLL_IN, self.roll_in.array),
            (ROLL_OUT, self.roll_out.array),
            (LABELS, self.label_array),
        ):
            nulls = array.is_null().to_numpy(zero_copy_only=False)
            counts = np.diff(array.offsets.to_numpy())
            for row in np.flatnonzero(nulls | (counts != num_responses)).tolist():
                has = f" has {counts[row]} responses, not {num_responses}"
                found.append(self._bad(row, column, " is null" if nulls[row] else has))
        for tokens, empty in (
            (self.roll_in, " has no token; it must hold the prompt"),
            (self.roll_out, " has no token, so nothing to learn from"),
        ):
            nulls = tokens.lists.is_null().to_numpy(zero_copy_only=False)
            is_empty = (np.diff(tokens.bounds) == 0) & ~nulls
            for bad, fault in ((nulls, " is null"), (is_empty, empty)):
                for row, response in _first_in_rows(np.flatnonzero(bad), tokens.rows):
                    found.append(self._bad(row, tokens.name, f", response {response}{fault}"))
            if tokens.values.null_count:
                positions = np.flatnonzero(tokens.values.is_null())
                inside = (positions >= tokens.bounds[0]) & (positions < tokens.bounds[-1])
                for row, response in _first_in_rows(tokens.at(positions[inside]), tokens.rows):
                    found.append(self._bad(row, tokens.name, f", response {response} holds a null"))
        for row, response in _first_in_rows(np.flatnonzero(self.label_nulls), self.label_rows):
            found.append(self._bad(row, LABELS, f", response {response} is null"))
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= NUM_CLASSES))
        for row, response in _first_in_rows(wrong, self.label_rows):
            label = self.labels[self.label_rows[row] + response]
            fault = f", response {response} is {label}; the classes are 0 to {NUM_CLASSES - 1}"
            found.append(self._bad(row, LABELS, fault))
        return found

    def check_token_ids(self, vocab_size: int, share: range) -> list[BadRow]:
        """Returns the rows of the share (rows of the table) with an id outside the vocabulary."""
        found = []
        for row in range(
            max(share.start - self.first_row, 0), min(share.stop, self.stop_row) - self.first_row
        ):
            for tokens in (self.roll_in, self.roll_out):
                start, stop = tokens.bounds[tokens.rows[[row, row + 1]]]
                ids = tokens.ids[start:stop]
                if ids.min(initial=0) < 0 or ids.max(initial=0) >= vocab_size:
                    at = int(((ids < 0) | (ids >= vocab_size)).argmax())
                    response = tokens.at(start + at) - tokens.rows[row]
                    fault = f" holds token id {ids[at]}; the vocabulary has {vocab_size}"
                    found.append(self._bad(row, tokens.name, f", response {response}{fault}"))
        return found

    def _bad(self, row: int, column: str, fault: str) -> BadRow:
        return BadRow(self.first_row + row, column, fault)


class GroupSampler:
    """Endless shuffled order over groups of responses of one row.

    A group is `group_size` neighbouring responses of a row (in OpenR1-VM neighbours are cut from
    the same roll-in); its members stay together and in order. Each epoch is a permutation of all
    groups drawn from (seed, epoch); batches run on from one epoch into the next. The order is the
    same for any number of ranks: a rank takes its slice of each global batch.

    The whole state is (epoch, position), so going back to a state costs the same anywhere in the
    epoch.

    Args:
        num_rows: Rows of the data set.
        num_responses: Responses in every row.
        group_size: Responses in a group; divides `num_responses`.
        seed: Seed of the order.

    Raises:
        ValueError: If the group size doesn't divide the number of responses.
    """

    def __init__(self, num_rows: int, num_responses: int, group_size: int, seed: int):
        if group_size < 1 or num_responses % group_size:
            raise ValueError(f"groups of {group_size} don't divide {num_responses} responses")
        self.group_size = group_size
        self.num_groups = num_rows * num_responses // group_size
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self._order = self._permutation()

    def _permutation(self) -> np.ndarray:
        """Returns the order of all groups in this epoch."""
        generator = np.random.default_rng([self.seed, self.epoch])
        return generator.permutation(self.num_groups)

    def next_batch(self, num_samples: int) -> np.ndarray:
        """Returns the sample indices [num_samples] of the next global batch.

        Raises:
            ValueError: If `num_samples` isn't a multiple of the group size.
        """
        if num_samples % self.group_size:
            raise ValueError(f"{num_samples} samples are not whole groups of {self.group_size}")
        missing = num_samples // self.group_size
        parts = []
        while missing:
            part = self._order[self.position : self.position + missing]
            parts.append(part)
            missing -= len(part)
            self.position += len(part)
            if self.position == self.num_groups:
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._permutation()
        groups = np.concatenate(parts)
        return (groups[:, None] * self.group_size + np.arange(self.group_size)).reshape(-1)

    def state_dict(self) -> dict[str, int]:
        """Returns the position in the order, and the size it is valid for."""
        return {"epoch": self.epoch, "position": self.position, "num_groups": self.num_groups}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a saved position.

        Raises:
            ValueError: If the state belongs to a data set of another size.
        """
        if state["num_groups"] != self.num_groups:
            raise ValueError(
                f"the data has {self.num_groups} groups of responses; "
                f"it had {state['num_groups']} when the state was saved"
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._permutation()
