"""Micro batches: groups of samples, and three ways to lay them out with one loss.

- *padded*, the published way: one sample a row, padded on the right.
- *packed*: one row without padding; sequences are told apart by their positions and bounds.
- *shared_prefix*: one row in which the prefixes that roll-ins of a group share stand once.

All three give the same loss up to rounding (`tests/classifier_lib/test_batches.py`).
"""

import bisect
from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch

from classifier_lib.args import PackingName, default_token_limit
from classifier_lib.attention import row_inputs
from classifier_lib.data import GroupedRollouts, Rollout
from classifier_lib.flops import TokenCounts
from classifier_lib.layouts import Branch, RowLayout, Segment, Span, count_laid_out, lay_out
from classifier_lib.losses import Targets

PAD_MULTIPLE = 16
"""Padded lengths are multiples of this: aligned for matrix kernels, little padding."""


Data = TypeVar("Data", bound=Sized)
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class PlacedTokens:
    """Tokens of S samples, placed in R rows of T tokens.

    Attributes:
        input_ids: LongTensor [R, T].
        position_ids: LongTensor [R, T], position of each token in its sequence.
        lengths: LongTensor [S], tokens of each sample.
        layout: Layout of the one row of a packed batch; None for a padded batch.
        owns: For each sample the span of its own tokens among the R * T tokens.
        counts: Tokens by kind; those that carry loss are the samples' own.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: torch.Tensor
    layout: RowLayout | None
    owns: list[Span]
    counts: TokenCounts

    def model_inputs(self, implementation: str, device: torch.device) -> dict[str, Any]:
        """Returns the keyword arguments of a decoder of transformers on a device.

        Args:
            implementation: Attention implementation of the model.
            device: Where the model is.
        """
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids.to(device, non_blocking=True),
        }
        if self.layout is not None:
            inputs["position_ids"] = self.position_ids.to(device, non_blocking=True)
            return inputs | row_inputs(self.layout, implementation, device)
        # Right padding can't reach real tokens through causal attention, and without a mask sdpa
        # neither builds a [R, 1, T, T] one nor leaves its fused causal kernel.
        if implementation == "flash_attention_2":  # skips the padding
            width = self.input_ids.shape[1]
            real = torch.arange(width)[None, :] < self.lengths[:, None]
            inputs["attention_mask"] = real.long().to(device, non_blocking=True)
        return inputs

    def sequence(self, sample: int) -> np.ndarray:
        """Returns the places of all tokens of a sample among the R * T tokens, in their order.

        The sample must have a token of its own.
        """
        stop = self.owns[sample].stop
        length = int(self.lengths[sample])
        if self.layout is None:
            return np.arange(stop - length, stop)
        segments = self.layout.segments
        last = bisect.bisect_left(segments, stop, key=lambda segment: segment.stop)
        spans = (*segments[last].path, Span(segments[last].start, stop))
        return np.concatenate([np.arange(*span) for span in spans])

    def free(self) -> None:
        """Drops what the layers of a model keep of this batch, such as masks, which are large."""
        if self.layout is not None:
            self.layout.prepared.clear()


@dataclass(frozen=True)
class Batch(PlacedTokens):
    """S samples, prompts included and cut to a maximum length, with their targets.

    Attributes:
        loss_index: LongTensor [N], places of the loss tokens among the R * T tokens, sample by
            sample.
        targets: Targets of the loss tokens.
        num_truncated: Samples that were cut to the maximum length.
        num_without_loss: Those of them that have no loss token left.
    """

    loss_index: torch.Tensor
    targets: Targets
    num_truncated: int
    num_without_loss: int

    def loss_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns the logits [N, L] of the loss tokens from those of all tokens [R, T, L]."""
        index = self.loss_index.to(logits.device, non_blocking=True)
        return logits.flatten(0, 1).index_select(0, index)


def _cut(rollouts: Sequence[Rollout], max_length: int) -> list[Branch]:
    """Cuts samples on the right to `max_length` tokens, prompt included; the label stays."""
    return [
        Branch(
            sample.roll_in[:max_length], sample.roll_out[: max(max_length - len(sample.roll_in), 0)]
        )
        for sample in rollouts
    ]


def place_tokens(
    samples: Sequence[Branch], packing: PackingName = "padded", multiple: int | None = None
) -> PlacedTokens:
    """Places the tokens of samples in rows.

    Args:
        samples: S samples.
        packing: Layout, see the module's docstring.
        multiple: Row lengths are multiples of this: 16 by default when padded, 1 else.

    Returns:
        The tokens, on the CPU.
    """
    lengths = [len(sample.shared) + len(sample.own) for sample in samples]
    layout = None
    if packing == "padded":
        width = _round_up(max(lengths), multiple or PAD_MULTIPLE)
        # Padding is token 0, which any vocabulary has.
        input_ids = np.zeros((len(samples), width), dtype=np.int64)
        owns = []
        for i, (row, sample, length) in enumerate(zip(input_ids, samples, lengths, strict=True)):
            split = len(sample.shared)
            row[:split] = sample.shared
            row[split:length] = sample.own
            owns.append(Span(i * width + split, i * width + length))
        position_ids = np.broadcast_to(np.arange(width), input_ids.shape)
        num_computed = sum(lengths)
        num_attended = sum(length * (length + 1) // 2 for length in lengths)
    else:
        segments, owns = lay_out(samples) if packing == "shared_prefix" else _one_by_one(samples)
        num_computed = segments[-1].stop
        padding = _round_up(num_computed, multiple or 1) - num_computed
        num_attended = RowLayout(tuple(segments), num_computed).num_attended
        if padding:
            tokens = np.zeros(padding, dtype=np.int64)
            ends = np.full(padding, num_computed + padding)
            segments.append(Segment(tokens, num_computed, 0, (), ends))
        layout = RowLayout(tuple(segments), num_computed + padding)
        input_ids = np.concatenate([s.tokens for s in segments])[None].astype(np.int64)
        position_ids = layout.position_ids[None]
    return PlacedTokens(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(np.array(position_ids)),
        lengths=torch.tensor(lengths),
        layout=layout,
        owns=owns,
        counts=TokenCounts(
            all=input_ids.size,
            computed=num_computed,
            valid=sum(lengths),
            loss=sum(len(sample.own) for sample in samples),
            attended=num_attended,
        ),
    )


def collate(
    rollouts: Sequence[Rollout],
    max_length: int,
    packing: PackingName = "padded",
    multiple: int | None = None,
) -> Batch:
    """Lays out samples as one micro batch.

    Args:
        rollouts: S samples; for a loss of pairs 2i and 2i + 1 are a pair.
        max_length: Longest sequence, in tokens with prompt; the rest is cut off on the right. The
            label stays the same. A sample whose roll-in fills it has no loss tokens left.
        packing: Layout, see the module's docstring.
        multiple: See `place_tokens`.

    Returns:
        The batch, on the CPU.
    """
    samples = _cut(rollouts, max_length)
    tokens = place_tokens(samples, packing, multiple)
    return Batch(
        **vars(tokens),
        loss_index=torch.from_numpy(np.concatenate([np.arange(*own) for own in tokens.owns])),
        targets=Targets.of(
            [len(sample.own) for sample in samples],
            [rollout.label for rollout in rollouts],
            [rollout.soft_target for rollout in rollouts],
        ),
        num_truncated=sum(
            len(rollout.roll_in) + len(rollout.roll_out) > max_length for rollout in rollouts
        ),
        num_without_loss=sum(len(sample.own) == 0 for sample in samples),
    )


def _one_by_one(samples: Sequence[Branch]) -> tuple[list[Segment], list[Span]]:
    """Lays out samples one after the other, as `lay_out` does those that share nothing."""
    segments: list[Segment] = []
    owns: list[Span] = []
    start = 0
    for sample in samples:
        tokens = np.concatenate([sample.shared, sample.own])
        stop = start + len(tokens)
        segments.append(Segment(tokens, start, 0, (), np.full(len(tokens), stop)))
        owns.append(Span(start + len(sample.shared), stop))
        start = stop
    return segments, owns


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


class _Unit(NamedTuple):
    """Samples that stay together in a micro batch, and the tokens of their row."""

    tokens: int
    samples: list[int]


class MicroBatchPlan(ABC, Generic[Data, Loaded]):
    """Plan by which global batches of samples of some kind are cut into micro batches.

    Attributes:
        packing: Layout of the micro batches, see the module's docstring.
        micro_batch_size: Samples in a padded micro batch.
        group_size: Neighbouring samples that stay together in a micro batch where they fit.
        pairs: Whether samples 2i and 2i + 1 stay together, however long they are.
    """

    packing: PackingName
    micro_batch_size: int
    group_size: int = 1
    pairs: bool = False

    @property
    @abstractmethod
    def token_limit(self) -> int:
        """Most tokens in a packed micro batch; a sample (or pair) that is longer goes alone."""

    @abstractmethod
    def length(self, data: Data, index: int) -> int:
        """Returns the tokens of a sample."""

    @abstractmethod
    def branches(self, data: Data, indices: Sequence[int]) -> Sequence[Branch]:
        """Returns what a layout needs to know of samples."""

    @abstractmethod
    def load(self, data: Data, indices: Sequence[int]) -> Loaded:
        """Returns the micro batch of these samples."""

    def tokens(self, data: Data, indices: Sequence[int]) -> int:
        """Returns the tokens of a packed row of these samples."""
        if self.packing == "packed":
            return sum(self.length(data, i) for i in indices)
        return count_laid_out(self.branches(data, indices))

    def micro_batches(
        self, data: Data, indices: Sequence[int], world_size: int
    ) -> list[list[list[int]]]:
        """Cuts a global batch up for the processes, the same way on every one of them.

        Padded micro batches are the published ones: `micro_batch_size` neighbours of the global
        batch each. Packed ones have about as many tokens as each other and are as few as the token
        limit allows; every process gets as many of them, and about as many tokens.

        Args:
            data: The data set.
            indices: Samples of the global batch, whole groups.
            world_size: Number of processes.

        Returns:
            For each process its micro batches, for each of these its samples.
        """
        if self.packing == "padded":
            size = self.micro_batch_size
            bins = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
            return [bins[rank::world_size] for rank in range(world_size)]
        units: list[_Unit] = []
        for i in range(0, len(indices), self.group_size):
            group = list(indices[i : i + self.group_size])
            units += self._fitting(data, _Unit(self.tokens(data, group), group))
        packed = self._balanced_bins(data, units, world_size)
        # Every process gets one bin of each round, the least loaded one the largest.
        loads = [0] * world_size
        parts: list[list[list[int]]] = [[] for _ in range(world_size)]
        for i in range(0, len(packed), world_size):
            ranks = sorted(range(world_size), key=loads.__getitem__)
            for rank, unit in zip(ranks, packed[i : i + world_size], strict=True):
                loads[rank] += unit.tokens
                parts[rank].append(unit.samples)
        return parts

    def _halves(self, data: Data, unit: _Unit) -> list[_Unit]:
        """Returns a unit in two parts; as it is if it can't be split."""
        indivisible = 2 if self.pairs else 1
        half = len(unit.samples) // indivisible // 2 * indivisible
        if not half:
            return [unit]
        parts = unit.samples[:half], unit.samples[half:]
        return [_Unit(self.tokens(data, part), part) for part in parts]

    def _fitting(self, data: Data, unit: _Unit) -> list[_Unit]:
        """Returns a unit in parts that fit a micro batch, as far as it can be split."""
        halves = [unit] if unit.tokens <= self.token_limit else self._halves(data, unit)
        if len(halves) == 1:
            return halves
        return [part for half in halves for part in self._fitting(data, half)]

    def _balanced_bins(self, data: Data, units: list[_Unit], world_size: int) -> list[_Unit]:
        """Packs units into bins of about equal size (longest processing time first).

        Args:
            data: The data set.
            units: Samples that stay together; the largest are split where there are too few.
            world_size: The number of bins is a multiple of this.

        Returns:
            The bins, those with the most tokens first.

        Raises:
            ValueError: If there are fewer samples (or pairs) than processes.
        """
        limit = max(self.token_limit, *(unit.tokens for unit in units))
        num_bins = _round_up(-(-sum(unit.tokens for unit in units) // limit), world_size)
        while True:
            can_split = True
            while len(units) < num_bins and can_split:
                units = sorted(units, key=lambda unit: -unit.tokens)
                for i, unit in enumerate(units):  # the largest that can be split
                    parts = self._halves(data, unit)
                    if len(parts) > 1:
                        units[i : i + 1] = parts
                        break
                else:
                    can_split = False
            if len(units) < world_size:
                raise ValueError(
                    f"{len(units)} groups of samples can't be shared out to {world_size} processes"
                )
            num_bins = min(num_bins, len(units) // world_size * world_size)
            bins = [_Unit(0, []) for _ in range(num_bins)]
            for unit in sorted(units, key=lambda unit: -unit.tokens):
                lightest = min(range(num_bins), key=lambda i: bins[i].tokens)
                tokens, samples = bins[lightest]
                bins[lightest] = _Unit(tokens + unit.tokens, samples + unit.samples)
            bins.sort(key=lambda unit: -unit.tokens)
            if bins[0].tokens <= limit or not can_split:
                return bins
            num_bins += world_size

    def in_order(self, data: Data) -> list[range]:
        """Cuts a whole data set into micro batches of neighbours, for evaluation.

        Returns:
            The samples of each: at most `micro_batch_size`, and of packed ones at most as many as
            the token limit holds, but at least one (or one pair).
        """
        step = 2 if self.pairs else 1
        parts: list[range] = []
        start, tokens = 0, 0
        for i in range(0, len(data), step):
            unit = range(i, min(i + step, len(data)))
            more = sum(self.length(data, j) for j in unit)
            is_full = i - start + step > self.micro_batch_size or (
                self.packing != "padded" and tokens + more > self.token_limit
            )
            if i > start and is_full:
                parts.append(range(start, i))
                start, tokens = i, 0
            tokens += more
        return [*parts, range(start, len(data))]


@dataclass(frozen=True)
class BatchPlan(MicroBatchPlan[GroupedRollouts, Batch]):
    """The plan for roll-outs.

    Attributes:
        packing: Layout of the micro batches.
        max_length: See `collate`.
        micro_batch_size: Samples in a padded micro batch.
        tokens_per_micro_batch: See `token_limit`. By default as many as a padded micro batch could
            have, but at most `DEFAULT_TOKENS` of `classifier_lib.args`.
        group_size: See `MicroBatchPlan`.
        pairs: See `MicroBatchPlan`.
        multiple: See `collate`.
    """

    packing: PackingName
    max_length: int
    micro_batch_size: int
    tokens_per_micro_batch: int | None = None
    group_size: int = 1
    pairs: bool = False
    multiple: int | None = None

    @property
    def token_limit(self) -> int:
        """Most tokens in a packed micro batch."""
        if self.tokens_per_micro_batch:
            return self.tokens_per_micro_batch
        return default_token_limit(self.micro_batch_size, self.max_length)

    def length(self, data: GroupedRollouts, index: int) -> int:
        """Returns the tokens of a sample that are left of it."""
        return min(data.length(index), self.max_length)

    def branches(self, data: GroupedRollouts, indices: Sequence[int]) -> list[Branch]:
        """Returns the samples, cut to the maximum length."""
        return _cut([data[i] for i in indices], self.max_length)

    def load(self, data: GroupedRollouts, indices: Sequence[int]) -> Batch:
        """Returns the micro batch of these samples."""
        return collate([data[i] for i in indices], self.max_length, self.packing, self.multiple)
