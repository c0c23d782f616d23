"""The batch that a policy decodes: requests join it and leave it between two steps."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from classifier_lib.inference_attention import takes_whole_masks, whole_mask
from classifier_lib.scoring import batch_by_length
from classifier_lib.states import (
    BatchStates,
    HashedPath,
    LayerSizes,
    PathStates,
    StateCache,
    forward_rows,
)
from search_lib.engines.base import Block
from search_lib.engines.draws import Draws, Recipe, draw_tokens
from search_lib.engines.rows import NUM_DRAWN, GenerationRequest, Prefix, Row, new_rows

SPARE_COLUMNS = 64
"""Columns for the tokens of requests that join later, before the batch has to be moved."""


class RunningBatch:
    """Decodes the rows of all requests that have joined, a few tokens a step.

    The states of prefixes, and those of blocks for what will continue them, are kept in a cache, so
    that a search computes each token of its tree once. The samples of a prefix share its
    computation in any case. Where they come as twins (see `GenerationRequest`), two of them also
    share its states: both write their new tokens behind them by turns, and each sees its own. So
    attention reads a prefix once for two samples. Not safe to call from two threads at once.

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
        self._rows: list[Row] = []
        self._num_twins = 1  # adjacent rows that share a row of states: one or two
        # Of each request, the blocks of the rows that have ended.
        self._blocks: dict[GenerationRequest, dict[int, Block]] = {}
        self._sizes = None if len({*sizes, sizes[0].even}) == 1 else sizes
        self._states = BatchStates(model, 0, 0, self._sizes)
        # What `_note_layout` finds.
        self._starts: list[int] = []
        self._mask: torch.Tensor | None = None  # for all columns; None: all are seen
        self._recipes: dict[Recipe, list[int]] = {}
        # Of the next step: the most tokens until a row reaches its limit, the tokens that it
        # computes and their positions [rows of states, twins], and random numbers [rows, tokens].
        self._num_left = 0
        self._ids = self._positions = self._uniforms = torch.empty(0)
        # Then the library need not make any.
        self._takes_whole_masks = takes_whole_masks(model)

    @torch.inference_mode()
    def join(self, requests: Sequence[GenerationRequest]) -> None:
        """Takes requests into the batch; if it raises, none of them is in it."""
        are_twins = self._takes_whole_masks and all(one.are_twins for one in requests)
        if not self._rows:
            self._num_twins = 2 if are_twins else 1
        elif self._num_twins > 1 and not are_twins:
            self._part_twins()
        num_before = len(self._rows)
        try:
            prefixes = self._compute_prefixes(requests)
            for request, prefix in zip(requests, prefixes, strict=True):
                self._rows += new_rows(request, prefix)
            self._lay_out(num_before)
        except BaseException:
            del self._rows[num_before:]
            self._states.num_rows = num_before // self._num_twins
            self.cache.clear()  # it may hold the memory that was missing
            if self._rows:
                self._note_layout()
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
        ended = self._decode(min(self._step_tokens, self._num_left))
        answers: dict[GenerationRequest, list[Block] | Exception] = {}
        for index in ended:
            row = self._rows[index]
            row.has_left = True
            try:
                blocks = self._blocks[row.request]
                blocks[row.index] = row.block()
                self._keep(row, index)
                if len(blocks) == row.request.expansion.n:
                    answers[row.request] = [blocks[i] for i in range(len(blocks))]
            except ValueError as error:
                answers[row.request] = error
        for request in answers:
            del self._blocks[request]
        if ended:
            self._drop()
        return list(answers.items())

    @torch.inference_mode()
    def remove(self, requests: Iterable[GenerationRequest]) -> None:
        """Lets requests leave, whether they have ended or not."""
        for request in requests:
            del self._blocks[request]
        self._drop()

    def _compute_prefixes(self, requests: Sequence[GenerationRequest]) -> list[Prefix]:
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
            Prefix(path, found[path.key], num_computed.pop(path.key, 0))
            if path
            else Prefix(None, None, 0)
            for path in paths
        ]

    def _lay_out(self, num_before: int) -> None:
        """Writes the states of the new rows behind those that were there."""
        states, new = self._states, self._rows[num_before:]
        num_rows, old_rows = len(self._rows) // self._num_twins, num_before // self._num_twins
        old_width = states.end - states.first if num_before else 0
        width = max(old_width, *(row.num_prefix for row in new))
        num_left = self._num_twins * max(row.num_left for row in self._rows)
        fits = num_rows <= states.room_rows and (
            width <= states.end and states.end + num_left <= states.room_columns
            if num_before
            else width + num_left <= states.room_columns
        )
        if not fits:
            moved = self._new_states(num_rows, width, num_left)
            if num_before and states.states is not None:
                moved.allocate(states.states)
                moved.copy_rows(states, old_rows, width)
            self._states = states = moved
        if not num_before or not fits:
            states.end = width
        states.num_rows = num_rows
        first_rows = [row for row in new if row.index == 0]
        states.place(
            old_rows,
            [(row.prefix.states, row.request.expansion.n // self._num_twins) for row in first_rows],
        )
        self._note_layout()

    def _new_states(self, num_rows: int, width: int, num_left: int) -> BatchStates:
        """Returns a batch with an eighth of room to spare: moving all states is worth many steps.

        Args:
            num_rows: Rows of states.
            width: Columns that are in use.
            num_left: Columns that will be.
        """
        columns = width + num_left + max(SPARE_COLUMNS, width // 8)
        room_rows = max(self._states.room_rows, num_rows * 9 // 8)
        return BatchStates(self._model, room_rows, columns, self._sizes)

    def _part_twins(self) -> None:
        """Gives each row states of its own."""
        old, num_twins = self._states, self._num_twins
        rows = [(index, row) for index, row in enumerate(self._rows) if not row.has_left]
        paths: list[tuple[PathStates | None, int]] = []
        for index, row in rows:
            prefix = old.take(index // num_twins, self._starts[index // num_twins], row.num_prefix)
            parts = torch.cat([prefix, self._take_block(row, index)], dim=3)
            paths.append((PathStates(None, b"", parts.shape[3], parts), 1))
        width = max(row.num_prefix + len(row.ids) for _, row in rows)
        states = self._new_states(len(rows), width, max(row.num_left for _, row in rows))
        states.end = width
        states.num_rows = len(rows)
        states.place(0, paths)
        self._states = states
        self._rows = [row for _, row in rows]
        self._num_twins = 1
        self._note_layout()

    def _note_layout(self) -> None:
        """Notes what stays as it is until rows join or leave, and what the next step needs."""
        states, rows, num_twins = self._states, self._rows, self._num_twins
        device = self._model.device
        twins = [rows[first : first + num_twins] for first in range(0, len(rows), num_twins)]
        prefixes = [of_twins[0].num_prefix for of_twins in twins]
        # A twin that has ended computes on, for nothing, until the other one ends.
        new = [max(len(row.ids) for row in of_twins) for of_twins in twins]
        self._starts = [
            states.end - num_prefix - num_twins * num_new
            for num_prefix, num_new in zip(prefixes, new, strict=True)
        ]
        self._num_left = min(row.num_left for row in rows if not row.has_left)
        last_ids = [[row.last_id for row in of_twins] for of_twins in twins]
        self._ids = torch.tensor(last_ids, device=device)
        positions = torch.tensor([prefixes, new, self._starts], device=device)[..., None]
        self._positions = (positions[0] + positions[1]).expand(-1, num_twins)
        self._uniforms = torch.empty(len(rows), 0)
        self._recipes = defaultdict(list)
        for index, row in enumerate(rows):
            recipe = Recipe.of(row.request.expansion, row.request.sampling)
            self._recipes[recipe].append(index)
        states.first = min(self._starts)
        self._mask = None
        if num_twins == 1 and max(self._starts) == states.first:
            return
        columns = torch.arange(states.room_columns, device=device)
        seen = columns >= positions[2]
        if not self._takes_whole_masks:
            self._mask = seen
            return
        seen = seen[:, None, None]
        if num_twins > 1:
            behind = (columns - positions[0] - positions[2])[:, None, None]
            each = torch.arange(num_twins, device=device)[:, None]
            seen = seen & ((behind < 0) | (behind % num_twins == each))
        self._mask = whole_mask(self._model, seen, states.num_heads, self._model.dtype)

    def _decode(self, num_tokens: int) -> list[int]:
        """Adds tokens to all rows, or none if it raises; returns which rows have ended."""
        rows, states, recipes = self._rows, self._states, self._recipes
        if self._uniforms.shape[1] < num_tokens:
            count = max(NUM_DRAWN, num_tokens)
            uniforms = [row.next_uniforms(count) for row in rows]
            self._uniforms = torch.tensor(uniforms, dtype=torch.float64, device=self._model.device)
        ids, positions, end = self._ids, self._positions, states.end
        drawn: list[list[Draws]] = []  # of each token, by recipe
        try:
            for token in range(num_tokens):
                next_end = states.end + self._num_twins
                mask = self._mask
                output = self._model(
                    input_ids=ids,
                    attention_mask=None if mask is None else mask[..., states.first : next_end],
                    position_ids=positions,
                    past_key_values=states.cache,
                    use_cache=True,
                    logits_to_keep=self._num_twins,
                )
                states.end = next_end
                positions = positions + 1
                logits = output.logits.flatten(0, 1)
                at_quantiles = self._uniforms[:, token]
                if len(recipes) == 1:
                    (recipe,) = recipes
                    draws = draw_tokens(logits, recipe, at_quantiles)
                    drawn.append([draws])
                    ids = draws.token_ids.view_as(ids)
                    continue
                drawn.append([])
                ids = torch.empty_like(ids)
                for recipe, members in recipes.items():
                    draws = draw_tokens(logits[members], recipe, at_quantiles[members])
                    drawn[-1].append(draws)
                    ids.view(-1)[members] = draws.token_ids
            looked_up = [
                _look_up([of_token[place] for of_token in drawn]) for place in range(len(recipes))
            ]
        except BaseException:
            states.end = end
            self.cache.clear()  # it may hold the memory that was missing
            raise
        self._ids, self._positions = ids, positions
        self._uniforms = self._uniforms[:, num_tokens:]
        self._num_left -= num_tokens
        ended = []
        for members, (token_ids, are_finite, numbers) in zip(
            recipes.values(), looked_up, strict=True
        ):
            for place, index in enumerate(members):
                row = rows[index]
                if row.has_left:
                    continue
                if row.add(token_ids[place], are_finite[place]):
                    ended.append(index)
                for name, of_rows in numbers.items():
                    row.numbers[name] += of_rows[place]
        return sorted(ended)

    def _take_block(self, row: Row, index: int) -> torch.Tensor:
        """Returns the states of a row's new tokens but for the last one, which has none."""
        place, twin = divmod(index, self._num_twins)
        start = self._starts[place] + row.num_prefix + twin
        return self._states.take(place, start, len(row.ids), self._num_twins)

    def _keep(self, row: Row, index: int) -> None:
        """Keeps the states of a block that has ended, for what will continue it."""
        if not self.cache.max_tokens:
            return
        past = row.prefix
        ids = [row.request.expansion.prefix_ids[-1], *row.ids[:-1]]
        key = past.path.key_with(ids) if past.path else HashedPath.of(ids).key
        states = self._take_block(row, index)
        self.cache.keep(PathStates(past.states, key, row.num_prefix + len(ids), states))

    def _drop(self) -> None:
        """Lets rows leave that have ended, with their twins; the last rows take their places."""
        rows, num_twins = self._rows, self._num_twins
        staying = [
            place
            for place in range(len(rows) // num_twins)
            if rows[place * num_twins].request in self._blocks
            and not all(row.has_left for row in rows[place * num_twins : (place + 1) * num_twins])
        ]
        num_left = len(staying)
        if num_left * num_twins == len(rows):
            return
        holes = sorted(set(range(num_left)).difference(staying))
        movers = [place for place in staying if place >= num_left]
        if holes:
            self._states.move_rows(movers, holes)
            for hole, mover in zip(holes, movers, strict=True):
                for twin in range(num_twins):
                    rows[hole * num_twins + twin] = rows[mover * num_twins + twin]
        del rows[num_left * num_twins :]
        self._states.num_rows = num_left
        if rows:
            self._note_layout()


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
