"""Values of many continuations at once, each prefix computed once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from classifier_lib.inference_attention import use_grouped_attention
from classifier_lib.modeling import ValueModel, success_probabilities
from classifier_lib.states import HashedPath, NewTokens, PathStates, StateCache, forward_rows


class ScoringRequest(NamedTuple):
    """Blocks that continue one prefix.

    Attributes:
        prefix_ids: Prompt and response so far.
        blocks: Token ids of each continuation.
        last: For each block, whether nothing will ever continue it, so that its states need not
            be kept. Empty if any block may go on.
    """

    prefix_ids: list[int]
    blocks: list[list[int]]
    last: Sequence[bool] = ()


class Work(NamedTuple):
    """What a model computed.

    Attributes:
        tokens: Tokens that went through it, without padding.
        contexts: Tokens that each of them attends to, itself included, summed.
    """

    tokens: int
    contexts: int


class Scores(NamedTuple):
    """The values of one request's blocks, and their cost.

    Attributes:
        values: P(correct) at the end of each block, in [0, 1]. None where a judge of outcomes finds
            no answer.
        tokens_cached: Tokens that did not have to be computed, of prefix + block summed over the
            blocks; None if that is not known.
        token_values: P(correct) after each token of each block, float32 [tokens of the block]; None
            from a scorer that isn't asked for them, or can't give them.
        work: What was computed, of a scorer that has a tokenizer of its own: it does not follow
            from the policy's tokens. Its `tokens_cached` are of its own tokens, too.
    """

    values: Sequence[float | None]
    tokens_cached: int | None
    token_values: Sequence[np.ndarray] | None = None
    work: Work | None = None


class ValueScorer:
    """Scores blocks, P(correct) at the end of each, and keeps the key-value states of prefixes.

    The continuations of one prefix share its states, and each block's states are kept for the
    blocks that will continue it: over a search, every token of its tree is computed once. The least
    recently used states are dropped beyond the budget; if their path comes back, it is computed
    again from the longest start of it that is still there.

    Args:
        model: The value model; is put into eval mode.
        max_batch_tokens: Tokens of one forward pass, cached ones included: its sequences times the
            longest of them. Cached and new tokens are padded apart, which can come to twice as
            much. A longer sequence runs alone.
        max_cached_tokens: Tokens whose states are kept between forward passes; during one,
            those of its own sequences are held besides. One token takes
            2 x layers x key-value heads x head size numbers: 28 KiB for the published model in
            bfloat16.
        token_values: Whether to return the value after every token of a block, too: each forward
            pass has them.
        prefix_values: Whether these are those of the whole path, its prefix first.

    Attributes:
        cache: The states that are kept.
        tokens_computed: New tokens that went through the model so far, without padding.
    """

    def __init__(
        self,
        model: ValueModel,
        max_batch_tokens: int = 65_536,
        max_cached_tokens: int = 262_144,
        token_values: bool = False,
        prefix_values: bool = False,
    ):
        self.model = model.eval()
        use_grouped_attention(model)
        self.max_batch_tokens = max_batch_tokens
        self.token_values = token_values or prefix_values
        self.prefix_values = prefix_values
        self.cache = StateCache(max_cached_tokens)
        self.tokens_computed = 0

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoringRequest]) -> list[Scores]:
        """Returns the values of each request's blocks, in order.

        Raises:
            ValueError: For an empty prefix or block, or a `last` of another length than `blocks`.
        """
        for request in requests:
            if not request.prefix_ids or not all(request.blocks):
                raise ValueError("cannot score an empty prefix or block")
            if request.last and len(request.last) != len(request.blocks):
                raise ValueError(f"{len(request.blocks)} blocks, {len(request.last)} marks of last")
        prefixes = [HashedPath.of(request.prefix_ids) for request in requests]
        values = [[np.empty(0, np.float32)] * len(request.blocks) for request in requests]
        computed = [0] * len(requests)

        places = [(i, j) for i, request in enumerate(requests) for j in range(len(request.blocks))]
        # By the longest of a request, so that its blocks stay together and need its states once.
        longest = [len(r.prefix_ids) + max(map(len, r.blocks), default=0) for r in requests]
        batches = batch_by_length([longest[i] for i, _ in places], self.max_batch_tokens)
        # The last to be needed are marked as used first: they are the first to go if room is short.
        for batch in reversed(batches):
            for place in reversed(batch):
                self.cache.longest(prefixes[places[place][0]])
        for batch in batches:
            members = [places[place] for place in batch]
            of_batch = self._score_batch(requests, prefixes, members, computed)
            for (i, j), of_block in zip(members, of_batch, strict=True):
                values[i][j] = of_block
        sent = [sum(len(r.prefix_ids) + len(block) for block in r.blocks) for r in requests]
        return [
            Scores(
                [float(of_block[-1]) for of_block in of_request],
                all_tokens - new_tokens,
                of_request if self.token_values else None,
            )
            for of_request, all_tokens, new_tokens in zip(values, sent, computed, strict=True)
        ]

    def _score_batch(
        self,
        requests: Sequence[ScoringRequest],
        prefixes: list[HashedPath],
        members: list[tuple[int, int]],
        computed: list[int],
    ) -> list[np.ndarray]:
        """Returns the values of blocks given as (request, block), as `_forward` does.

        The states of the prefixes are released on return: only the cache outlives a batch.

        Args:
            requests: All requests.
            prefixes: Prefix of each request.
            members: The blocks of the batch.
            computed: Computed tokens by request; those of this batch are added.
        """
        pasts = self._states_of({i: prefixes[i] for i, _ in members}, computed)
        rows = []
        for i, j in members:
            block, last = requests[i].blocks[j], requests[i].last
            key = None if last and last[j] else prefixes[i].key_with(block)
            rows.append(NewTokens(pasts[i], block, key))
            computed[i] += len(block)
        values, _ = self._forward(rows)
        if not self.prefix_values:
            return values
        return [
            np.concatenate([pasts[i].path_values(), of_block])
            for (i, _), of_block in zip(members, values, strict=True)
        ]

    def _states_of(
        self, prefixes: dict[int, HashedPath], computed: list[int]
    ) -> dict[int, PathStates]:
        """Returns the states of prefixes by request; adds the tokens each lacked to `computed`."""
        found, missing = self.cache.find(prefixes.values())
        lacked = {key: len(row.ids) for key, row in missing.items()}
        for request, prefix in prefixes.items():
            computed[request] += lacked.pop(prefix.key, 0)
        _, paths = self._forward(list(missing.values()))
        found |= {path.key: path for path in paths}
        return {request: found[prefix.key] for request, prefix in prefixes.items()}

    def _forward(self, rows: Sequence[NewTokens]) -> tuple[list[np.ndarray], list[PathStates]]:
        """Returns the values of each row, and the states of those with a key.

        The values are those after all of its new tokens, or after the last one alone unless
        `token_values` are wanted.
        """
        if not rows:
            return [], []
        output, batch = forward_rows(self.model, rows)
        lengths = [len(row.ids) for row in rows]
        self.tokens_computed += sum(lengths)
        if self.token_values:
            padded = output.success_probs.cpu().numpy()
            # Copies: a view would hold the whole batch, its padding included.
            values = [row[:n].copy() for row, n in zip(padded, lengths, strict=True)]
        else:
            ends = torch.tensor([length - 1 for length in lengths], device=self.model.device)
            values = list(output.success_probs.gather(1, ends[:, None]).cpu().numpy())
        paths = []
        for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            if row.key is not None:
                states = batch.take(index, batch.end, length)
                length += row.past.length if row.past else 0
                paths.append(PathStates(row.past, row.key, length, states, values[index]))
        for path in paths:
            self.cache.keep(path)
        return values, paths


def batch_tokens(device: torch.device) -> int:
    """Returns the tokens of one forward pass: a CPU is fastest on batches that fit its caches."""
    return 16_384 if device.type == "cpu" else 65_536


def batch_by_length(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Groups indices into batches of similar length, each within the token budget when padded.

    Within a batch, indices are sorted by length, so that the last one is the longest.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@torch.inference_mode()
def forward_values(
    model: ValueModel, sequences: Sequence[list[int]], firsts: Sequence[int]
) -> list[list[float]]:
    """Values sequences in one forward, padded on the right.

    Args:
        model: In evaluation mode.
        sequences: Token ids, at least one in each.
        firsts: Position in each of the first token that is valued; all behind it are, too.

    Returns:
        P(correct) after each of these tokens, for each sequence.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    starts = torch.tensor(firsts)
    # Padding is token 0, which any vocabulary has. It needs no mask: attention is causal, so no
    # real token sees it, and without a mask sdpa keeps to its fused causal kernel.
    input_ids = pad_sequence(list(map(torch.tensor, sequences)), batch_first=True)
    positions = torch.arange(input_ids.shape[1])
    wanted = (positions >= starts[:, None]) & (positions < lengths[:, None])
    device = model.device
    hidden = model.model(input_ids=input_ids.to(device), use_cache=False).last_hidden_state
    values = success_probabilities(model.score(hidden[wanted.to(device)]))
    return [part.tolist() for part in values.cpu().split((lengths - starts).tolist())]
