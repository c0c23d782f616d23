"""Layout of the sequences of a micro batch in one row of tokens, and the attention among them.

A packed row is a forest of segments in depth-first order. A segment continues another one from some
token on (or starts a sequence), and its tokens attend to the tokens before it on that path and,
causally, to its own. Sequences that share nothing are segments without a parent; the samples cut
from one roll-in share it as a trunk, from which every roll-out branches off where its cut was:

    trunk with the roll-out of the latest cut, ..., roll-out of the earliest cut

In depth-first order one number a token says it all: token q attends to k exactly when
`k <= q < subtree_end[k]`. That is the mask of FlexAttention and of the dense reference.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch


class Span(NamedTuple):
    """Tokens `start` to `stop` of a row, without `stop`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Segment:
    """Tokens of a row that follow one another in a sequence.

    Attributes:
        tokens: [n] token ids.
        start: Beginning in the row.
        position: Position of its first token in its sequence.
        path: Spans of the tokens before it in its sequence, first to last, `position` in all.
        subtree_end: [n], for each token the end, in the row, of the tokens that continue it.
    """

    tokens: np.ndarray
    start: int
    position: int
    path: tuple[Span, ...]
    subtree_end: np.ndarray = field(repr=False)

    @property
    def stop(self) -> int:
        """End in the row."""
        return self.start + len(self.tokens)


class Branch(NamedTuple):
    """One sample to lay out.

    Attributes:
        shared: [P] token ids that other samples may share (the roll-in).
        own: [R] token ids of its own (the roll-out).
    """

    shared: np.ndarray
    own: np.ndarray


MIN_SHARED = 16
"""Fewer common tokens than this (a role token, a usual first word) aren't worth sharing."""


def lay_out(
    branches: Sequence[Branch], min_shared: int = MIN_SHARED
) -> tuple[list[Segment], list[Span]]:
    """Lays out samples as trees, every shared prefix once.

    Args:
        branches: The samples.
        min_shared: Samples whose first tokens, so many of them, differ get trees of their own.

    Returns:
        Segments in the order of the row, none of them empty; and for each sample the span of its
        own tokens.
    """
    segments: list[Segment] = []
    owns: list[Span] = [Span(0, 0)] * len(branches)

    def place(tokens: np.ndarray, position: int, path: tuple[Span, ...], start: int) -> Segment:
        """Adds a segment to the row, unless it is empty."""
        segment = Segment(tokens, start, position, path, np.full(len(tokens), start + len(tokens)))
        if len(tokens):
            segments.append(segment)
        return segment

    def grow(members: list[int], position: int, path: tuple[Span, ...], start: int) -> int:
        """Lays out samples that agree before `position`, which `path` holds; returns the end."""
        longest = max(members, key=lambda i: len(branches[i].shared))
        trunk = branches[longest].shared[position:]
        # The longest one goes on with its own tokens: one segment, nothing to mask.
        segment = place(np.concatenate([trunk, branches[longest].own]), position, path, start)
        owns[longest] = Span(start + len(trunk), segment.stop)
        # Where each other sample leaves the trunk; those that share more go on together.
        leaving: dict[tuple[int, int], list[int]] = {}
        for i in members:
            if i != longest:
                shared = branches[i].shared[position:]
                common = _common_prefix(shared, trunk)
                next_token = int(shared[common]) if common < len(shared) else -1 - i
                leaving.setdefault((common, next_token), []).append(i)
        end = segment.stop
        # Latest first, so that all between a token of the trunk and the end of its subtree
        # continues it.
        for (common, next_token), group in sorted(
            leaving.items(), key=lambda item: (-item[0][0], item[1])
        ):
            here = (*path, Span(start, start + common)) if common else path
            if next_token >= 0:
                end = grow(group, position + common, here, end)
            else:
                (i,) = group
                branch = place(branches[i].own, position + common, here, end)
                owns[i] = Span(end, branch.stop)
                end = branch.stop
            segment.subtree_end[:common] = end
        return end

    trees: dict[bytes, list[int]] = {}
    for i, branch in enumerate(branches):
        trees.setdefault(branch.shared[:min_shared].tobytes(), []).append(i)
    end = 0
    for members in trees.values():
        end = grow(members, 0, (), end)
    return segments, owns


def count_laid_out(branches: Sequence[Branch], min_shared: int = MIN_SHARED) -> int:
    """Returns the tokens of the row that `lay_out` would make, from the shared tokens alone.

    Neighbours in lexicographic order share the longest prefixes that there are: each sample adds
    the tokens behind its common prefix with the one before it.

    Args:
        branches: See `lay_out`.
        min_shared: See `lay_out`.
    """
    num_tokens = sum(len(branch.shared) + len(branch.own) for branch in branches)
    # Any order of the ids will do, so that of their bytes does.
    prefixes = sorted((branch.shared for branch in branches), key=np.ndarray.tobytes)
    for left, right in itertools.pairwise(prefixes):
        common = _common_prefix(left, right)
        # Otherwise they are in different trees.
        if common >= min_shared or common == len(left) == len(right):
            num_tokens -= common
    return num_tokens


def _common_prefix(left: np.ndarray, right: np.ndarray) -> int:
    """Returns how many first tokens two sequences have in common."""
    length = min(len(left), len(right))
    differing = left[:length] != right[:length]
    first = int(differing.argmax()) if length else 0
    return first if length and differing[first] else length


@dataclass(eq=False)
class RowLayout:
    """Layout of one packed row; travels to the attention in place of a mask.

    Not frozen: torch.compile looks into frozen dataclasses and would compile for each layout anew.

    Attributes:
        segments: The segments, in the order of the row; they cover it.
        length: T, tokens of the row.
        prepared: Results that an attention keeps for all layers, by its own key.
    """

    segments: tuple[Segment, ...]
    length: int
    prepared: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def subtree_end(self) -> np.ndarray:
        """[T], see the module's docstring."""
        return np.concatenate([segment.subtree_end for segment in self.segments])

    @cached_property
    def position_ids(self) -> np.ndarray:
        """[T], the position of every token in its sequence."""
        return np.concatenate(
            [np.arange(s.position, s.position + len(s.tokens)) for s in self.segments]
        )

    @property
    def num_attended(self) -> int:
        """Pairs of a token and one it attends to, itself included."""
        return int(self.position_ids.sum()) + self.length

    @property
    def is_flat(self) -> bool:
        """Whether no segment continues another: plain packing."""
        return not any(segment.path for segment in self.segments)

    def dense_mask(self) -> torch.Tensor:
        """Returns the mask [T, T], true where a query (row) attends to a key (column)."""
        positions = torch.arange(self.length)
        ends = torch.from_numpy(self.subtree_end)
        return (positions[None, :] <= positions[:, None]) & (positions[:, None] < ends[None, :])
