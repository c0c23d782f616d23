"""Values of many continuations at once, each prefix computed once."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import DynamicCache

from classifier_lib.hub import load_failure
from classifier_lib.modeling import Qwen2ForClassifier


def load_value_model(
    path: str, attention_impl: str, dtype: torch.dtype, device: torch.device
) -> Qwen2ForClassifier:
    """Loads a value model for inference, with every one of its weights.

    Args:
        path: Folder or Hub id.
        attention_impl: See `resolve_attention`.
        dtype: Of the parameters.
        device: Where the model goes.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: If there is none, its files are damaged or don't hold all weights; one line
            that begins with the path.
    """
    try:
        model, info = Qwen2ForClassifier.from_pretrained(
            path,
            attn_implementation=attention_impl,
            dtype=dtype,
            use_cache=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    except Exception as error:  # whatever a damaged file comes up with
        raise ValueError(
            f"{path}: no model could be loaded: {load_failure(path, error)}"
        ) from error
    # transformers would go on with random weights.
    misshapen = {name for name, *_ in info["mismatched_keys"]}
    for what, names in (("no", info["missing_keys"]), ("misshapen", misshapen)):
        if names:
            named = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"{path} is no value model: {what} weights for {named}")
    return model.to(device).eval()


class ScoringRequest(NamedTuple):
    """Blocks that continue one prefix.

    Args:
        prefix_ids: prompt and response so far.
        blocks: token ids of each continuation.
    """

    prefix_ids: list[int]
    blocks: list[list[int]]


@dataclass(frozen=True, eq=False)
class PathStates:
    """Key-value states of the last part of a path; the rest is its parent's.

    Args:
        parent: the path before this part; None at the start of a prompt.
        length: tokens of the whole path.
        states: [layers, 2, heads, tokens of this part, head size], keys and values.
    """

    parent: "PathStates | None"
    length: int
    states: torch.Tensor


class _Row(NamedTuple):
    """One sequence of a forward pass: new tokens behind the states of a path."""

    past: PathStates | None
    new_ids: list[int]
    key: bytes


class ValueScorer:
    """P(correct) at the end of each block, with the key-value states of prefixes kept.

    The continuations of one prefix share its states, and each block's states are kept for the
    blocks that will continue it: over a search, every token of its tree is computed once. What was
    used longest ago is dropped when there is too much, and computed again if it comes back.

    Args:
        model: the value model; is put into eval mode.
        max_batch_tokens: tokens of one forward pass, cached ones included: its sequences times the
            longest of them. Cached and new tokens are padded apart, which can come to twice as
            much. A longer sequence runs alone.
        max_cached_tokens: tokens whose states are kept. One token takes
            2 x layers x key-value heads x head size numbers: 28 KiB for the published model in
            bfloat16.

    Attributes:
        tokens_computed: new tokens that went through the model so far, without padding.
    """

    def __init__(
        self,
        model: Qwen2ForClassifier,
        max_batch_tokens: int = 65_536,
        max_cached_tokens: int = 262_144,
    ):
        self.model = model.eval()
        self.max_batch_tokens = max_batch_tokens
        self.max_cached_tokens = max_cached_tokens
        self.tokens_computed = 0
        # Oldest use first. Using a path uses its parents after it, so that a parent is always
        # younger than its children, and dropping the oldest never strands one.
        self._cached: OrderedDict[bytes, PathStates] = OrderedDict()
        self._key_of: dict[PathStates, bytes] = {}
        self._cached_tokens = 0

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """The values of each request's blocks, in [0, 1], in order.

        Raises:
            ValueError: for an empty prefix or block.
        """
        if any(not r.prefix_ids or not all(r.blocks) for r in requests):
            raise ValueError("cannot score an empty prefix or block")
        prefix_keys = [_key(request.prefix_ids) for request in requests]
        # The paths of this call are held here, whatever the cache drops meanwhile.
        paths: dict[bytes, PathStates] = {}
        missing: dict[bytes, _Row] = {}
        for key, request in zip(prefix_keys, requests, strict=True):
            if key in self._cached:
                paths[key] = self._cached[key]
            elif key not in missing:
                missing[key] = _Row(None, request.prefix_ids, key)
        prefix_rows = list(missing.values())
        for row, (states, _) in zip(prefix_rows, self._forward(prefix_rows), strict=True):
            paths[row.key] = states

        rows = [
            _Row(paths[key], block, _key(request.prefix_ids + block))
            for key, request in zip(prefix_keys, requests, strict=True)
            for block in request.blocks
        ]
        values = iter([value for _, value in self._forward(rows)])
        return [[next(values) for _ in request.blocks] for request in requests]

    def _forward(self, rows: Sequence[_Row]) -> list[tuple[PathStates, float]]:
        """Computes rows in batches of similar length and keeps their states."""
        lengths = [len(row.new_ids) + (row.past.length if row.past else 0) for row in rows]
        results: dict[int, tuple[PathStates, float]] = {}
        for batch in batch_by_length(lengths, self.max_batch_tokens):
            computed = self._forward_batch([rows[index] for index in batch])
            for index, (path, value) in zip(batch, computed, strict=True):
                results[index] = path, value
                self._keep(rows[index].key, path)
        return [results[index] for index in range(len(rows))]

    def _forward_batch(self, rows: Sequence[_Row]) -> list[tuple[PathStates, float]]:
        device = self.model.device
        new_lengths = [len(row.new_ids) for row in rows]
        past_lengths = [row.past.length if row.past else 0 for row in rows]
        width, past_width = max(new_lengths), max(past_lengths)
        input_ids = torch.tensor(
            [row.new_ids + [0] * (width - len(row.new_ids)) for row in rows], device=device
        )
        cache: Any = DynamicCache(config=self.model.config)
        attention_mask = position_ids = None
        # Right padding needs no mask: attention is causal, so no real token sees it. Cached states
        # of unequal length are padded on the left, and that is masked.
        if past_width:
            past = self._gather([row.past for row in rows], past_width)
            cache = DynamicCache(ddp_cache_data=[(layer[0], layer[1]) for layer in past])
            starts = torch.tensor(past_lengths, device=device)[:, None]
            columns = torch.arange(past_width + width, device=device)
            attention_mask = (columns >= past_width - starts).long()
            position_ids = starts + torch.arange(width, device=device)
        output = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        self.tokens_computed += sum(new_lengths)
        ends = torch.tensor([length - 1 for length in new_lengths], device=device)
        values = output.success_probs.gather(1, ends[:, None])[:, 0].tolist()
        states = torch.stack(
            [
                torch.stack([layer.keys[:, :, past_width:], layer.values[:, :, past_width:]])
                for layer in cache.layers
            ]
        )  # [layers, 2, rows, heads, width, head size]
        return [
            (
                PathStates(
                    row.past,
                    past_lengths[index] + new_lengths[index],
                    states[:, :, index, :, : new_lengths[index]].clone(),
                ),
                values[index],
            )
            for index, row in enumerate(rows)
        ]

    def _gather(self, paths: Sequence[PathStates | None], width: int) -> torch.Tensor:
        """States of whole paths, [layers, 2, rows, heads, width, head size], left-padded."""
        some = next(path.states for path in paths if path is not None)
        layers, _, heads, _, head_size = some.shape
        gathered = some.new_zeros(layers, 2, len(paths), heads, width, head_size)
        for index, path in enumerate(paths):
            end = width
            while path is not None:
                start = end - path.states.shape[3]
                gathered[:, :, index, :, start:end] = path.states
                path, end = path.parent, start
        return gathered

    def _keep(self, key: bytes, path: PathStates) -> None:
        if key not in self._cached and not self._parent_was_dropped(path):
            self._cached[key] = path
            self._key_of[path] = key
            self._cached_tokens += path.states.shape[3]
        used: PathStates | None = self._cached.get(key)
        while used is not None:
            self._cached.move_to_end(self._key_of[used])
            used = used.parent
        while self._cached_tokens > self.max_cached_tokens:
            _, oldest = self._cached.popitem(last=False)
            del self._key_of[oldest]
            self._cached_tokens -= oldest.states.shape[3]

    def _parent_was_dropped(self, path: PathStates) -> bool:
        return path.parent is not None and path.parent not in self._key_of


def _key(ids: list[int]) -> bytes:
    return hashlib.blake2b(np.asarray(ids, dtype=np.int64).tobytes(), digest_size=16).digest()


def batch_by_length(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Indices grouped into batches of similar length, each within the token budget when padded.

    Within a batch, indices are sorted by length, so that the last one is the longest.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
