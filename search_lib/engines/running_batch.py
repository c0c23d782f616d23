"""The batch that a policy decodes: requests join it and leave it between two steps."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from classifier_lib.attention import GROUPED_SDPA
from classifier_lib.loading import has_sliding_window
from classifier_lib.scoring import batch_by_length
from classifier_lib.states import (
    BatchStates,
    HashedPath,
    LayerSizes,
    PathStates,
    StateCache,
    forward_rows,
)
from search_lib.engines.base import Block, Expansion, FinishReason, Sampling
from search_lib.engines.draws import Draws, Recipe, draw_tokens

NUM_DRAWN = 16
"""Random numbers that a row draws at a time."""

SPARE_COLUMNS = 64
"""Columns for the tokens of requests that join later, before the batch has to be moved."""


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """Samples of one call of `HfEngine.generate` that share a batch.

    Attributes:
        expansion: The call's, with the number of these samples as its `n`.
        sampling: How tokens are drawn.
        first: Number of the first of them among the call's.
    """

    expansion: Expansion
    sampling: Sampling
    first: int

    @property
    def longest_path(self) -> int:
        """Tokens of prefix and block, when the block reaches its limit."""
        return len(self.expansion.prefix_ids) + self.expansion.max_new_tokens


class _Prefix(NamedTuple):
    """The prefix of a request but for its last token, which the first step computes.

    Attributes:
        path: Its tokens; None if there are none.
        states: Their states.
        num_computed: How many of them were computed for this request.
    """

    path: HashedPath | None
    states: PathStates | None
    num_computed: int


@dataclass(eq=False)
class _Row:
    """One sample in the making.

    Attributes:
        request: The request that it belongs to.
        index: Its number among the samples of the request.
        prefix: See `_Prefix`; without the states where none are kept.
        generator: Its random numbers.
        stop_ids: Tokens that end it.
        ids: Its new tokens.
        numbers: Numbers of each new token, by the field of a block.
        is_finite: Whether all logits were numbers.
        end: Why it has ended, once it has.
        uniforms: The random numbers that were drawn so far, one for each token.
    """

    request: GenerationRequest
    index: int
    prefix: _Prefix
    generator: np.random.Generator
    stop_ids: frozenset[int]
    ids: list[int] = field(default_factory=list)
    numbers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    is_finite: bool = True
    end: FinishReason | None = None
    uniforms: list[float] = field(default_factory=list)

    @property
    def num_past(self) -> int:
        """Tokens whose states the batch holds: all but the last one."""
        return len(self.request.expansion.prefix_ids) + len(self.ids) - 1

    @property
    def num_left(self) -> int:
        """Most tokens that may follow."""
        return self.request.expansion.max_new_tokens - len(self.ids)

    @property
    def last_id(self) -> int:
        """The token that the next step computes."""
        return self.ids[-1] if self.ids else self.request.expansion.prefix_ids[-1]

    def next_uniforms(self, count: int) -> list[float]:
        """Returns the random numbers of the next tokens."""
        start = len(self.ids)
        while len(self.uniforms) < start + count:
            self.uniforms += self.generator.random(NUM_DRAWN).tolist()
        return self.uniforms[start : start + count]

    def add(
        self, token_ids: list[int], are_finite: list[bool], numbers: dict[str, list[float]]
    ) -> None:
        """Takes the next tokens, up to the one where the block ends."""
        for token_id, is_finite in zip(token_ids, are_finite, strict=True):
            self.ids.append(token_id)
            self.is_finite = self.is_finite and is_finite
            if token_id in self.stop_ids:
                self.end = "stop"
                break
        else:
            if not self.num_left:
                self.end = "length"
        for name, of_tokens in numbers.items():
            self.numbers[name] += of_tokens

    def block(self) -> Block:
        """Returns the block; raises ValueError if its tokens were drawn from no numbers."""
        if not self.is_finite:
            raise ValueError("the policy's logits are not finite: its weights, or their type")
        num_prefix = len(self.request.expansion.prefix_ids)
        assert self.end is not None
        return Block(
            self.ids,
            self.end,
            prefix_cached=num_prefix - 1 - self.prefix.num_computed,
            # Those of tokens behind the end are left out.
            **{name: numbers[: len(self.ids)] for name, numbers in self.numbers.items()},
        )


class RunningBatch:
    """Decodes the rows of all requests that have joined, a few tokens a step.

    The states of prefixes, and those of blocks for what will continue them, are kept in a cache, so
    that a search computes each token of its tree once. The samples of a prefix share its
    computation in any case. Not safe to call from two threads at once.

    Args:
        model: A causal language model in eval mode.
        sizes: Sizes of its layers.
        max_kept_tokens: Tokens whose states are kept beside those of the batch.
        max_pass_tokens: Tokens of one forward pass over prefixes.
        step_tokens: Most tokens of a step: each step waits for the device once.

    Attributes:
        cache: The states that are kept.
    """

    def __init__(
        self,
        model: Any,
        sizes: LayerSizes,
        max_kept_tokens: int,
        max_pass_tokens: int,
        step_tokens: int,
    ):
        self._model = model
        self._max_pass_tokens = max_pass_tokens
        self._step_tokens = step_tokens
        self.cache = StateCache(max_kept_tokens)
        self._rows: list[_Row] = []
        # Of each request, the blocks of the rows that have ended.
        self._blocks: dict[GenerationRequest, dict[int, Block]] = {}
        self._sizes = None if len({*sizes, sizes[0].even}) == 1 else sizes
        self._states = BatchStates(model, 0, 0, self._sizes)
        # What `_note_padding` finds.
        self._starts: list[int] = []
        self._starts_on_device = torch.empty(0)
        self._last_column = 0
        self._mask: torch.Tensor | None = None  # [rows, (1, 1,) columns]; None without padding
        # [rows, 1, 1, columns] spares the library to make one; it would see no sliding windows.
        self._takes_whole_masks = model.config._attn_implementation in (
            "sdpa",
            GROUPED_SDPA,
        ) and not has_sliding_window(model.config)

    @torch.inference_mode()
    def join(self, requests: Sequence[GenerationRequest]) -> None:
        """Takes requests into the batch; if it raises, none of them is in it."""
        num_before = len(self._rows)
        try:
            prefixes = self._compute_prefixes(requests)
            for request, prefix in zip(requests, prefixes, strict=True):
                self._rows += _new_rows(request, prefix)
            self._lay_out(num_before)
        except BaseException:
            del self._rows[num_before:]
            self._states.num_rows = num_before
            self.cache.clear()  # it may hold the memory that was missing
            if self._rows:
                self._note_padding()
            raise
        for request in requests:
            self._blocks[request] = {}
        if not self.cache.max_tokens:
            for row in self._rows[num_before:]:
                row.prefix = row.prefix._replace(states=None)

    @torch.inference_mode()
    def step(self) -> list[tuple[GenerationRequest, list[Block] | Exception]]:
        """Generates some tokens of each row, and returns the requests that have ended.

        If it raises, the batch is as it was.
        """
        # No row gets beyond its limit, so that what ends there is answered at once.
        num_tokens = min(self._step_tokens, self._last_column - self._states.end)
        starts = self._starts
        self._decode(num_tokens)
        answers: dict[GenerationRequest, list[Block] | Exception] = {}
        left = []
        for index, row in enumerate(self._rows):
            if row.end is None and row.is_finite:
                continue
            left.append(index)
            try:
                blocks = self._blocks[row.request]
                blocks[row.index] = row.block()
                self._keep(row, index, starts[index])
                if len(blocks) == row.request.expansion.n:
                    answers[row.request] = [blocks[i] for i in range(len(blocks))]
            except ValueError as error:
                answers[row.request] = error
        self._drop(left)
        self.remove(answers)
        return list(answers.items())

    @torch.inference_mode()
    def remove(self, requests: Iterable[GenerationRequest]) -> None:
        """Lets requests leave, whether they have ended or not."""
        for request in requests:
            del self._blocks[request]
        self._drop([i for i, row in enumerate(self._rows) if row.request not in self._blocks])

    def _compute_prefixes(self, requests: Sequence[GenerationRequest]) -> list[_Prefix]:
        """Returns the prefix of each request; adds the states that were not there to the cache."""
        starts = [request.expansion.prefix_ids[:-1] for request in requests]
        paths = [HashedPath.of(ids) if ids else None for ids in starts]
        found, missing = self.cache.find(path for path in paths if path)
        rows = list(missing.values())
        lengths = [len(row.ids) + (row.past.length if row.past else 0) for row in rows]
        for indices in batch_by_length(lengths, self._max_pass_tokens):
            of_batch = [rows[index] for index in indices]
            _, batch = forward_rows(self._model, of_batch, self._sizes, logits_to_keep=1)
            for place, (index, row) in enumerate(zip(indices, of_batch, strict=True)):
                states = batch.take(place, batch.end, len(row.ids))
                assert row.key is not None
                found[row.key] = PathStates(row.past, row.key, lengths[index], states)
        for key in missing:
            self.cache.keep(found[key])
        num_computed = {key: len(row.ids) for key, row in missing.items()}
        return [
            _Prefix(path, found[path.key], num_computed.pop(path.key, 0))
            if path
            else _Prefix(None, None, 0)
            for path in paths
        ]

    def _lay_out(self, num_before: int) -> None:
        """Writes the states of the new rows behind those that were there."""
        states, new = self._states, self._rows[num_before:]
        old_width = states.end - states.first if num_before else 0
        width = max(old_width, *(row.num_past for row in new))
        num_left = max(row.num_left for row in self._rows)
        fits = len(self._rows) <= states.room_rows and (
            width <= states.end and states.end + num_left <= states.room_columns
            if num_before
            else width + num_left <= states.room_columns
        )
        if not fits:
            # An eighth to spare, since moving all states is worth many steps.
            columns = width + num_left + max(SPARE_COLUMNS, width // 8)
            num_rows = max(states.room_rows, len(self._rows) * 9 // 8)
            moved = BatchStates(self._model, num_rows, columns, self._sizes)
            if num_before and states.states is not None:
                moved.allocate(states.states)
                moved.copy_rows(states, num_before, width)
            self._states = states = moved
        if not num_before or not fits:
            states.end = width
        states.num_rows = len(self._rows)
        first_rows = [row for row in new if row.index == 0]
        states.place(
            num_before, [(row.prefix.states, row.request.expansion.n) for row in first_rows]
        )
        self._note_padding()

    def _note_padding(self) -> None:
        """Finds the columns where rows begin, and where the first of them ends at its limit."""
        states, device = self._states, self._model.device
        self._starts = [states.end - row.num_past for row in self._rows]
        self._last_column = states.end + min(row.num_left for row in self._rows)
        self._starts_on_device = torch.tensor(self._starts, device=device)[:, None]
        states.first = min(self._starts)
        self._mask = None
        if max(self._starts) > states.first:
            columns = torch.arange(states.room_columns, device=device)
            self._mask = columns >= self._starts_on_device
            if self._takes_whole_masks:
                self._mask = self._mask[:, None, None]

    def _decode(self, num_tokens: int) -> None:
        """Adds tokens to all rows, or none if it raises; rows may end on the way."""
        rows, states, device = self._rows, self._states, self._model.device
        ids = torch.tensor([[row.last_id] for row in rows], device=device)
        groups: dict[Recipe, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            groups[Recipe.of(row.request.expansion, row.request.sampling)].append(index)
        uniforms = torch.tensor(
            [row.next_uniforms(num_tokens) for row in rows], dtype=torch.float64, device=device
        )
        drawn: list[list[Draws]] = []  # of each token, by group
        end = states.end
        try:
            for token in range(num_tokens):
                mask = self._mask
                output = self._model(
                    input_ids=ids,
                    attention_mask=None
                    if mask is None
                    else mask[..., states.first : states.end + 1],
                    position_ids=states.end - self._starts_on_device,
                    past_key_values=states.cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                states.end += 1
                logits = output.logits[:, -1]
                if len(groups) == 1:
                    (recipe,) = groups
                    draws = draw_tokens(logits, recipe, uniforms[:, token])
                    drawn.append([draws])
                    ids = draws.token_ids[:, None]
                    continue
                drawn.append([])
                ids = torch.empty_like(ids)
                for recipe, members in groups.items():
                    draws = draw_tokens(logits[members], recipe, uniforms[members, token])
                    drawn[-1].append(draws)
                    ids[members, 0] = draws.token_ids
            looked_up = [
                _look_up([of_token[group] for of_token in drawn]) for group in range(len(groups))
            ]
        except BaseException:
            states.end = end
            self.cache.clear()  # it may hold the memory that was missing
            raise
        for members, (token_ids, are_finite, numbers) in zip(
            groups.values(), looked_up, strict=True
        ):
            for place, index in enumerate(members):
                rows[index].add(
                    token_ids[place],
                    are_finite[place],
                    {name: of_rows[place] for name, of_rows in numbers.items()},
                )

    def _keep(self, row: _Row, index: int, start: int) -> None:
        """Keeps the states of a block that has ended, for what will continue it.

        Args:
            row: The row, whose last token has no states.
            index: Its place in the batch.
            start: The column where it begins.
        """
        if not self.cache.max_tokens:
            return
        prefix_ids, past = row.request.expansion.prefix_ids, row.prefix
        ids = [prefix_ids[-1], *row.ids[:-1]]
        key = past.path.key_with(ids) if past.path else HashedPath.of(ids).key
        num_past = len(prefix_ids) - 1
        states = self._states.take(index, start + num_past, len(ids))
        self.cache.keep(PathStates(past.states, key, num_past + len(ids), states))

    def _drop(self, indices: Sequence[int]) -> None:
        """Lets rows leave; the last rows take their places."""
        if not indices:
            return
        rows, leaving = self._rows, set(indices)
        num_left = len(rows) - len(leaving)
        holes = [index for index in indices if index < num_left]
        movers = [index for index in range(num_left, len(rows)) if index not in leaving]
        if holes:
            self._states.move_rows(movers, holes)
            for hole, mover in zip(holes, movers, strict=True):
                rows[hole] = rows[mover]
        del rows[num_left:]
        self._states.num_rows = num_left
        if rows:
            self._note_padding()


def _new_rows(request: GenerationRequest, prefix: _Prefix) -> list[_Row]:
    """Returns the rows of a request; the first of them bears what its prefix has cost."""
    expansion = request.expansion
    stop_ids = frozenset(expansion.stop_token_ids)
    return [
        _Row(
            request,
            index,
            prefix if index == 0 else prefix._replace(num_computed=0),
            np.random.default_rng((expansion.seed, request.first + index)),
            stop_ids,
        )
        for index in range(expansion.n)
    ]


def _look_up(
    draws: Sequence[Draws],
) -> tuple[list[list[int]], list[list[bool]], dict[str, list[list[float]]]]:
    """Returns tokens, whether they are drawn from numbers, and their numbers, by row and token."""

    def by_row(of_tokens: Sequence[torch.Tensor]) -> list[list[Any]]:
        rows: list[list[Any]] = torch.stack(list(of_tokens), dim=1).tolist()
        return rows

    return (
        by_row([of_token.token_ids for of_token in draws]),
        by_row([of_token.are_finite for of_token in draws]),
        {name: by_row([of_token.numbers[name] for of_token in draws]) for name in draws[0].numbers},
    )
