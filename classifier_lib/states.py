"""Key-value states of paths: kept within a budget of tokens, and laid out for a forward pass."""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from classifier_lib.inference_attention import takes_whole_masks, whole_mask


@dataclass(frozen=True, eq=False)
class PathStates:
    """Key-value states of the last part of a path; the rest is its parent's.

    Attributes:
        parent: The path before this part; None at the start of a prompt.
        key: Key of the whole path, see `HashedPath`.
        length: Tokens of the whole path.
        states: [layers, 2, heads, tokens of this part, head size], keys and values.
        values: P(correct) after each token of this part, or after its last one alone. Empty for a
            model that values nothing.
    """

    parent: "PathStates | None"
    key: bytes
    length: int
    states: torch.Tensor
    values: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def num_tokens(self) -> int:
        """Tokens of this part."""
        return self.states.shape[3]

    def parts(self) -> list["PathStates"]:
        """Returns the parts of the whole path, the first one first."""
        parts, path = [self], self.parent
        while path is not None:
            parts.append(path)
            path = path.parent
        return parts[::-1]

    def path_values(self) -> np.ndarray:
        """Returns the values after each token of the whole path."""
        return np.concatenate([part.values for part in self.parts()])


class HashedPath(NamedTuple):
    """Token ids with the hash that names them: a path's key is the digest of all its ids."""

    ids: list[int]
    hash: "hashlib.blake2b"

    @classmethod
    def of(cls, ids: list[int]) -> "HashedPath":
        """Returns the path of these token ids."""
        return cls(ids, hashlib.blake2b(ids_as_bytes(ids), digest_size=16))

    @property
    def key(self) -> bytes:
        """Key of this path."""
        return self.hash.digest()

    def key_with(self, block: list[int]) -> bytes:
        """Returns the key of this path continued by a block."""
        longer = self.hash.copy()
        longer.update(ids_as_bytes(block))
        return longer.digest()


def ids_as_bytes(ids: list[int]) -> bytes:
    """Returns token ids as the bytes that name a path in hashes: eight for each."""
    return np.asarray(ids, dtype=np.int64).tobytes()


class NewTokens(NamedTuple):
    """One row of a forward pass: new tokens behind the states of a path.

    Attributes:
        past: The path; None at the start of a prompt.
        ids: The new tokens, at least one.
        key: Names the two together. None if the new states are not wanted.
    """

    past: PathStates | None
    ids: list[int]
    key: bytes | None


class StateCache:
    """Key-value states of paths, within a budget of tokens; the least recently used go first.

    Args:
        max_tokens: Most tokens whose states are kept.

    Attributes:
        num_tokens: Tokens whose states are there.
    """

    def __init__(self, max_tokens: int):
        self.max_tokens = max_tokens
        self.num_tokens = 0
        # Oldest use first. Using a path uses its parents after it, so that a parent is always
        # younger than its children, and dropping the oldest never strands one.
        self._paths: OrderedDict[bytes, PathStates] = OrderedDict()
        self._lengths: Counter[int] = Counter()

    def __iter__(self) -> Iterator[PathStates]:
        return iter(self._paths.values())

    def longest(self, path: HashedPath) -> PathStates | None:
        """Returns the longest start of a path that is there, and marks it as used."""
        found = self._paths.get(path.key)
        if found is None:
            data = ids_as_bytes(path.ids)
            size = len(data) // len(path.ids)
            start_hash, start = hashlib.blake2b(digest_size=16), 0
            for length in sorted(n for n in self._lengths if n < len(path.ids)):
                start_hash.update(data[start * size : length * size])
                start = length
                found = self._paths.get(start_hash.digest(), found)
        if found is not None:
            self._use(found)
        return found

    def find(
        self, paths: Iterable[HashedPath]
    ) -> tuple[dict[bytes, PathStates], dict[bytes, NewTokens]]:
        """Looks paths up; returns those that are there, and what the others lack, by key."""
        found: dict[bytes, PathStates] = {}
        missing: dict[bytes, NewTokens] = {}
        for path in paths:
            key = path.key
            if key in found or key in missing:
                continue
            start = self.longest(path)
            if start is not None and start.key == key:
                found[key] = start
            else:
                missing[key] = NewTokens(start, path.ids[start.length if start else 0 :], key)
        return found, missing

    def keep(self, path: PathStates) -> None:
        """Adds a path, unless its parent was dropped, then drops the oldest beyond the budget."""
        if path.parent is not None and self._paths.get(path.parent.key) is not path.parent:
            return
        if path.key not in self._paths:
            self._paths[path.key] = path
            self._lengths[path.length] += 1
            self.num_tokens += path.num_tokens
        self._use(self._paths[path.key])
        while self.num_tokens > self.max_tokens:
            _, oldest = self._paths.popitem(last=False)
            self.num_tokens -= oldest.num_tokens
            self._lengths[oldest.length] -= 1
            if not self._lengths[oldest.length]:
                del self._lengths[oldest.length]

    def clear(self) -> None:
        """Drops all paths."""
        self._paths.clear()
        self._lengths.clear()
        self.num_tokens = 0

    def _use(self, path: PathStates | None) -> None:
        """Marks a path as used, and its parents after it."""
        while path is not None:
            self._paths.move_to_end(path.key)
            path = path.parent


class BatchStates:
    """Key-value states of the rows of a batch, which a model writes in place.

    All rows end at one column, so padding is on their left, and a column's distance to another one
    is that of the positions: layers with a sliding window see the right tokens, too. The library's
    own cache copies all states for every new token.

    Args:
        model: The model.
        num_rows: Rows.
        num_columns: Columns.
        sizes: Sizes of its layers; None if all of them have keys and values of one size.

    Attributes:
        states: [layers, 2, rows, heads, columns, head size]; None before the first pass.
        room_rows: Rows that there is room for.
        room_columns: Columns that there is room for.
        num_rows: Rows in use.
        first: Column before which all rows are padding: attention begins there.
        end: Column behind the last token. A forward pass writes from there on, and whoever calls it
            moves the end when it has succeeded.
        cache: What the model is given as `past_key_values`.
    """

    def __init__(
        self, model: Any, num_rows: int, num_columns: int, sizes: "LayerSizes | None" = None
    ):
        self.states: torch.Tensor | None = None
        self.sizes = sizes
        self.num_rows = num_rows
        self.first = self.end = 0
        self.room_rows = num_rows
        self.room_columns = num_columns
        num_layers = (
            len(sizes) if sizes else model.config.get_text_config(decoder=True).num_hidden_layers
        )
        self.cache = Cache(layers=[_InPlaceLayer(self, index) for index in range(num_layers)])

    @classmethod
    def of_paths(
        cls,
        model: Any,
        paths: Sequence[PathStates | None],
        num_new: int,
        sizes: "LayerSizes | None" = None,
    ) -> "BatchStates":
        """Returns the states of whole paths, with room for new tokens behind them."""
        past_width = max(path.length if path else 0 for path in paths)
        batch = cls(model, len(paths), past_width + num_new, sizes)
        batch.end = past_width
        batch.place(0, [(path, 1) for path in paths])
        return batch

    @property
    def num_heads(self) -> int | None:
        """Heads of keys and values; None before the first pass, and if they differ."""
        return None if self.sizes or self.states is None else self.states.shape[3]

    def allocate(self, like: torch.Tensor) -> None:
        """Makes room for states of [..., heads, tokens, head size], which hold anything."""
        heads, _, head_size = like.shape[-3:]
        if self.sizes:
            heads = max(size.heads for size in self.sizes)
            head_size = max(max(size.key_size, size.value_size) for size in self.sizes)
        shape = (len(self.cache.layers), 2, self.room_rows, heads, self.room_columns, head_size)
        self.states = like.new_empty(shape)

    def copy_rows(self, other: "BatchStates", num_rows: int, end: int) -> None:
        """Takes over the states of another batch's first rows, which here end at a column."""
        assert self.states is not None
        assert other.states is not None
        old = other.states[:, :, :num_rows, :, other.first : other.end]
        start = end - old.shape[4]
        self.states[:, :, :num_rows, :, start:end] = old
        self.states[:, :, :num_rows, :, :start] = 0

    def move_rows(self, rows: list[int], places: list[int]) -> None:
        """Copies rows to the places of others."""
        assert self.states is not None
        states = self.states[:, :, :, :, self.first : self.end]
        states[:, :, places] = states[:, :, rows]

    def place(self, first_row: int, paths: Sequence[tuple[PathStates | None, int]]) -> None:
        """Writes the states of whole paths into rows, up to the end.

        Args:
            first_row: The first of these rows.
            paths: Each path, and the rows that get it.
        """
        # Masked columns take part in sums with weight 0: they must hold numbers.
        if self.states is None:
            like = next((path.states for path, _ in paths if path), None)
            if like is None:
                return
            self.allocate(like)
            assert self.states is not None
            self.states[:, :, :first_row, :, : self.end] = 0  # rows without a past
        shortest = min(path.length if path else 0 for path, _ in paths)
        end_row = first_row + sum(copies for _, copies in paths)
        self.states[:, :, first_row:end_row, :, : self.end - shortest] = 0
        row = first_row
        for path, copies in paths:
            if path is not None:
                columns = self.states[..., self.end - path.length : self.end, :]
                parts = [part.states for part in path.parts()]
                torch.cat(parts, dim=3, out=columns[:, :, row])
                if copies > 1:
                    columns[:, :, row + 1 : row + copies] = columns[:, :, row : row + 1]
            row += copies

    def take(self, row: int, start: int, num_tokens: int, stride: int = 1) -> torch.Tensor:
        """Returns a copy of a row's states as `PathStates` has them.

        Args:
            row: The row.
            start: Column of the first token.
            num_tokens: Tokens.
            stride: Columns from each to the next.
        """
        assert self.states is not None
        end = start + num_tokens * stride
        # A copy, since a view would hold the whole batch.
        return self.states[:, :, row, :, start:end:stride].clone(
            memory_format=torch.contiguous_format
        )


class _InPlaceLayer(CacheLayerMixin):
    """The part of `BatchStates` that one layer of the model reads and writes."""

    is_sliding = False

    def __init__(self, batch: BatchStates, index: int):
        super().__init__()
        self._batch = batch
        self._index = index

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the states of new tokens behind the end; returns all from the first column on."""
        batch = self._batch
        if batch.states is None:
            batch.allocate(key_states)
        assert batch.states is not None
        keys, values = batch.states[self._index, :, : batch.num_rows].unbind(0)
        if batch.sizes:
            heads, key_size, value_size = batch.sizes[self._index]
            keys, values = keys[:, :heads, :, :key_size], values[:, :heads, :, :value_size]
        end = batch.end + key_states.shape[2]
        keys[:, :, batch.end : end] = key_states
        values[:, :, batch.end : end] = value_states
        return keys[:, :, batch.first : end], values[:, :, batch.first : end]

    def get_seq_length(self) -> int:
        """Returns the columns before the new tokens."""
        return self._batch.end - self._batch.first

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns the columns that new tokens may attend to, and the first of them."""
        return self.get_seq_length() + query_length, 0

    def get_max_cache_shape(self) -> int:
        """Returns -1: there is no sliding window."""
        return -1

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Does nothing: the batch makes room for all layers at once."""


class LayerSize(NamedTuple):
    """Sizes of the key-value states of one layer: its heads, and the sizes of each."""

    heads: int
    key_size: int
    value_size: int

    @property
    def even(self) -> "LayerSize":
        """These sizes, if the values are as large as the keys."""
        return self._replace(value_size=self.key_size)


LayerSizes = Sequence[LayerSize]


def layer_sizes(model: Any) -> LayerSizes:
    """Returns the sizes of the layers that have states, by a pass over one token.

    Raises:
        ValueError: If some layer has no keys and values, but states of another kind.
    """
    cache: Any = DynamicCache()
    try:
        model(torch.zeros(1, 1, dtype=torch.long, device=model.device), past_key_values=cache)
        sizes = [
            LayerSize(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3])
            for layer in cache.layers
        ]
    except (AttributeError, ValueError):
        sizes = []
    if not sizes:
        raise ValueError(f"{type(model).__name__} has layers without keys and values")
    return sizes


def bytes_per_token(sizes: LayerSizes, dtype: torch.dtype) -> int:
    """Returns the memory of the states of one token."""
    heads = max(size.heads for size in sizes)
    head_size = max(max(size.key_size, size.value_size) for size in sizes)
    return len(sizes) * 2 * heads * head_size * dtype.itemsize


def forward_rows(
    model: Any,
    rows: Sequence[NewTokens],
    sizes: LayerSizes | None = None,
    **options: Any,
) -> tuple[Any, BatchStates]:
    """Runs a model over the new tokens of rows.

    Args:
        model: In eval mode.
        rows: At least one.
        sizes: See `BatchStates`.
        **options: Of the model's `forward`.

    Returns:
        The model's output, its new tokens padded on the right, and the states of all rows: the new
        ones begin at column `end`.
    """
    device = model.device
    width = max(len(row.ids) for row in rows)
    input_ids = torch.tensor(
        [row.ids + [0] * (width - len(row.ids)) for row in rows], device=device
    )
    batch = BatchStates.of_paths(model, [row.past for row in rows], width, sizes)
    attention_mask = position_ids = None
    # Right padding needs no mask: attention is causal, so no real token sees it. Kept states
    # of unequal length are padded on the left, and that is masked.
    if batch.end:
        past_lengths = [[row.past.length if row.past else 0] for row in rows]
        starts = torch.tensor(past_lengths, device=device)
        columns = torch.arange(batch.room_columns, device=device)
        seen = columns >= batch.end - starts
        if takes_whole_masks(model):
            assert batch.states is not None
            seen = seen[:, None, None] & (columns <= columns[batch.end :, None])
            attention_mask = whole_mask(model, seen, batch.num_heads, batch.states.dtype)
        else:
            attention_mask = seen.long()
        position_ids = starts + torch.arange(width, device=device)
    output = model(
        input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=batch.cache,
        use_cache=True,
        **options,
    )
    return output, batch
