"""Roll-outs for training: zero-copy access, a resumable sampler and the padded collator.

The data has the columns of `VGS-AI/OpenR1-VM`: a row is a problem, and its list columns hold one
entry a response. `roll_in_ids` is prompt + prefix, `roll_outs_ids` the completion that is trained
on, `labels` the terminal class of the completion (0 incorrect, 1 correct, 2 unfinished).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

ROLL_IN, ROLL_OUT, LABELS = "roll_in_ids", "roll_outs_ids", "labels"
NUM_CLASSES = 3
PAD_MULTIPLE = 16
"""Padded lengths are multiples of this: aligned for matrix kernels, little padding."""

_LIST_TYPES = (pa.ListArray, pa.LargeListArray)


class DataError(ValueError):
    """The data set can't be used; the message names the row (counted from 0) and the column."""


class Rollout(NamedTuple):
    """One sample.

    Attributes:
        roll_in: [P] token ids of prompt + prefix; a read-only view of the file.
        roll_out: [R] token ids of the completion, R >= 1; a read-only view of the file.
        label: Terminal class of the completion.
    """

    roll_in: np.ndarray
    roll_out: np.ndarray
    label: int


class _Chunk(NamedTuple):
    """Views of the buffers of one record batch; sample i is `ids[bounds[i]:bounds[i + 1]]`."""

    roll_in_bounds: np.ndarray
    roll_in_ids: np.ndarray
    roll_out_bounds: np.ndarray
    roll_out_ids: np.ndarray
    labels: np.ndarray


class GroupedRollouts(Dataset[Rollout]):
    """The roll-outs of a data set; sample `row * num_responses + response`.

    A sample is sliced out of the Arrow buffers of the memory-mapped table: no row is decoded and
    nothing is copied. Every list length and label is checked here, once; token ids are
    checked when `vocab_size` is given, which reads the whole file (at the speed of the disk, 7 GB/s
    from memory), so let one rank do it.

    Args:
        source: Parquet file, folder of Parquet files, `save_to_disk` folder, or Hub id; of several
            splits the train split is used.
        num_responses: Responses in every row.
        vocab_size: Exclusive upper bound of the token ids; None leaves them unchecked.

    Raises:
        DataError: If the source can't be read, or its content doesn't fit the format.
    """

    def __init__(self, source: str, num_responses: int, vocab_size: int | None = None):
        if num_responses < 1:
            raise DataError(f"the number of responses a row must be positive, not {num_responses}")
        self.num_responses = num_responses
        table = _load_table(source)
        for name in (ROLL_IN, ROLL_OUT, LABELS):
            if name not in table.column_names:
                present = ", ".join(table.column_names)
                raise DataError(f"{source}: no column {name}; the columns are {present}")
        self.num_rows: int = table.num_rows
        if not self.num_rows:
            raise DataError(f"{source}: no rows")
        self._chunks: list[_Chunk] = []
        starts: list[int] = []
        first_row = 0
        # Combines the chunk boundaries of the columns without copying.
        for batch in table.select([ROLL_IN, ROLL_OUT, LABELS]).to_batches():
            if batch.num_rows:
                reader = _BatchReader(source, batch, first_row, num_responses, vocab_size)
                self._chunks.append(reader.read())
                starts.append(first_row)
                first_row += batch.num_rows
        self._starts = np.array(starts)

    def __len__(self) -> int:
        return self.num_rows * self.num_responses

    def __getitem__(self, index: int) -> Rollout:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        row = index // self.num_responses
        chunk_index = int(np.searchsorted(self._starts, row, side="right")) - 1
        chunk = self._chunks[chunk_index]
        i = index - int(self._starts[chunk_index]) * self.num_responses
        return Rollout(
            chunk.roll_in_ids[chunk.roll_in_bounds[i] : chunk.roll_in_bounds[i + 1]],
            chunk.roll_out_ids[chunk.roll_out_bounds[i] : chunk.roll_out_bounds[i + 1]],
            int(chunk.labels[i]),
        )


def _load_table(source: str) -> pa.Table:
    """Returns the memory-mapped table of a source (see `GroupedRollouts`)."""
    path = Path(source)
    try:
        if path.is_file():
            data = datasets.load_dataset("parquet", data_files=str(path), split="train")
        elif path.is_dir() and any(
            (path / name).exists() for name in ("state.json", "dataset_dict.json")
        ):
            data = datasets.load_from_disk(source)
        elif path.is_dir():
            files = sorted(str(file) for file in path.rglob("*.parquet"))
            if not files:
                raise DataError(f"{source}: neither a save_to_disk folder nor any .parquet file")
            data = datasets.load_dataset("parquet", data_files=files, split="train")
        elif path.suffix == ".parquet" or source.startswith(("/", ".")) or source.count("/") != 1:
            raise DataError(f"{source}: no such file or folder")
        else:
            data = datasets.load_dataset(source, split="train")
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file or the Hub comes up with
        raise DataError(f"{source}: can't be read: {error}") from error
    if isinstance(data, datasets.DatasetDict):
        if "train" not in data:
            raise DataError(f"{source}: no train split; the splits are {', '.join(data)}")
        data = data["train"]
    return data.data.table


class _BatchReader:
    """Checks one record batch and returns views of its buffers."""

    def __init__(
        self,
        source: str,
        batch: pa.RecordBatch,
        first_row: int,
        num_responses: int,
        vocab_size: int | None,
    ):
        self.source = source
        self.batch = batch
        self.first_row = first_row
        self.num_responses = num_responses
        self.vocab_size = vocab_size

    def read(self) -> _Chunk:
        roll_in_bounds, roll_in_ids = self._token_lists(ROLL_IN)
        roll_out_bounds, roll_out_ids = self._token_lists(ROLL_OUT)
        empty = np.flatnonzero(np.diff(roll_out_bounds) == 0)
        if empty.size:
            raise self._error(empty[0], ROLL_OUT, "has no token, so nothing to learn from")
        empty = np.flatnonzero(np.diff(roll_in_bounds) == 0)
        if empty.size:
            raise self._error(empty[0], ROLL_IN, "has no token; it must hold the prompt")
        labels = self._labels()
        return _Chunk(roll_in_bounds, roll_in_ids, roll_out_bounds, roll_out_ids, labels)

    def _error(self, sample: int, column: str, what: str) -> DataError:
        row, response = divmod(int(sample), self.num_responses)
        place = f"row {self.first_row + row}, column {column}, response {response}"
        return DataError(f"{self.source}: {place} {what}")

    def _responses(self, column: str) -> Any:
        """Returns the child array of a list column, one entry a response."""
        array = self.batch.column(column)
        if not isinstance(array, _LIST_TYPES):
            raise DataError(f"{self.source}: column {column} is {array.type}, not a list")
        if array.null_count:
            row = self.first_row + int(np.flatnonzero(array.is_null())[0])
            raise DataError(f"{self.source}: row {row}, column {column} is null")
        offsets = array.offsets.to_numpy()
        counts = np.diff(offsets)
        wrong = np.flatnonzero(counts != self.num_responses)
        if wrong.size:
            row = int(wrong[0])
            raise DataError(
                f"{self.source}: row {self.first_row + row}, column {column} has {counts[row]} "
                f"responses, not the {self.num_responses} of --data_num_response"
            )
        responses = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        if responses.null_count:
            sample = int(np.flatnonzero(responses.is_null())[0])
            raise self._error(sample, column, "is null")
        return responses

    def _token_lists(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (bounds [samples + 1], token ids), views of the buffers of a column."""
        responses = self._responses(column)
        if not isinstance(responses, _LIST_TYPES) or not pa.types.is_integer(responses.values.type):
            type_ = self.batch.column(column).type
            raise DataError(f"{self.source}: column {column} is {type_}, not lists of token ids")
        bounds = responses.offsets.to_numpy()
        values = responses.values
        if values.null_count:
            position = int(np.flatnonzero(values.is_null())[0])
            sample = int(np.searchsorted(bounds, position, side="right")) - 1
            raise self._error(sample, column, "holds a null")
        ids = values.to_numpy(zero_copy_only=True)
        if self.vocab_size is not None:
            used = ids[bounds[0] : bounds[-1]]
            if used.min(initial=0) < 0 or used.max(initial=0) >= self.vocab_size:
                position = int(np.flatnonzero((used < 0) | (used >= self.vocab_size))[0])
                sample = int(np.searchsorted(bounds, position + bounds[0], side="right")) - 1
                what = f"holds token id {used[position]}; the vocabulary has {self.vocab_size}"
                raise self._error(sample, column, what)
        return bounds, ids

    def _labels(self) -> np.ndarray:
        """Returns the labels [samples], a view of the buffer."""
        responses = self._responses(LABELS)
        if not pa.types.is_integer(responses.type):
            raise DataError(f"{self.source}: column {LABELS} is {responses.type}, not integers")
        labels = responses.to_numpy(zero_copy_only=True)
        wrong = np.flatnonzero((labels < 0) | (labels >= NUM_CLASSES))
        if wrong.size:
            what = f"is {labels[wrong[0]]}; the classes are 0 to {NUM_CLASSES - 1}"
            raise self._error(wrong[0], LABELS, what)
        return labels


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


@dataclass(frozen=True)
class Batch:
    """A right-padded batch.

    Attributes:
        input_ids: LongTensor [B, T].
        attention_mask: LongTensor [B, T], 1 on real tokens.
        labels: LongTensor [B], terminal classes.
        loss_mask: BoolTensor [B, T], true on roll-out tokens.
        num_tokens: Real tokens in the batch.
        num_truncated: Samples that were cut to the maximum length.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    num_tokens: int
    num_truncated: int

    def model_inputs(self, device: torch.device, with_mask: bool = True) -> dict[str, torch.Tensor]:
        """Returns the keyword arguments of `Qwen2ForClassifier` on a device.

        Args:
            device: Where the model is.
            with_mask: Whether to pass the attention mask. Right padding can't reach real tokens
                through causal attention, and without a mask sdpa neither builds a [B, 1, T, T] one
                nor leaves its fused causal kernel; FlashAttention uses it to skip the padding.
        """
        inputs = {"input_ids": self.input_ids, "labels": self.labels, "loss_mask": self.loss_mask}
        if with_mask:
            inputs["attention_mask"] = self.attention_mask
        return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}


def collate_padded(rollouts: Sequence[Rollout], max_length: int) -> Batch:
    """Pads roll-outs on the right to the longest of them, rounded up to `PAD_MULTIPLE`.

    Args:
        rollouts: B samples.
        max_length: Longest sequence, in tokens with prompt; the rest is cut off on the right. The
            label stays what it was. A sample whose roll-in fills it has no loss tokens left.

    Returns:
        The batch; its width is at most `max_length` rounded up.
    """
    lengths = [len(sample.roll_in) + len(sample.roll_out) for sample in rollouts]
    kept = [min(length, max_length) for length in lengths]
    width = -(-max(kept) // PAD_MULTIPLE) * PAD_MULTIPLE
    # Padding is token 0, which any vocabulary has; the masks keep it out of everything.
    input_ids = np.zeros((len(rollouts), width), dtype=np.int64)
    positions = np.arange(width)
    for row, sample, length in zip(input_ids, rollouts, kept, strict=True):
        split = min(len(sample.roll_in), length)
        row[:split] = sample.roll_in[:split]
        row[split:length] = sample.roll_out[: length - split]
    real = positions < np.array(kept)[:, None]
    loss_mask = real & (
        positions >= np.array([len(sample.roll_in) for sample in rollouts])[:, None]
    )
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(real.astype(np.int64)),
        labels=torch.tensor([sample.label for sample in rollouts]),
        loss_mask=torch.from_numpy(loss_mask),
        num_tokens=sum(kept),
        num_truncated=sum(length > max_length for length in lengths),
    )
