"""Blocks from a transformers model in this process: the default engine, on a CPU or one GPU."""

import asyncio
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from classifier_lib.modeling import resolve_attention
from run_lib.hub import check_weights, loading
from search_lib.batching import Batcher
from search_lib.engines.base import Block, Expansion, Sampling

CHUNK_TOKENS = 16
"""Tokens between two looks at which rows of a batch have ended."""


class GenerationRequest(NamedTuple):
    """Samples of one call of `HfEngine.generate` that share a batch.

    Attributes:
        expansion: The call's, with the number of these samples as its `n`.
        sampling: How tokens are drawn.
        first: Number of the first of them among the call's.
    """

    expansion: Expansion
    sampling: Sampling
    first: int


class SeededSampling(LogitsProcessor):
    """Draws the next token of each row with that row's own random numbers.

    `generate` samples a whole batch from one global random state, so that a row's tokens would
    depend on its neighbours. Here row `r` at step `t` takes the token at quantile `uniforms[r, t]`
    of its distribution, and all other tokens are ruled out: `generate` then decodes greedily. It
    comes last, behind the library's temperature and top-p.

    Args:
        uniforms: [rows, max_new_tokens], in [0, 1).
        prompt_length: Columns of `input_ids` before the first new token.
    """

    def __init__(self, uniforms: torch.Tensor, prompt_length: int):
        self.uniforms = uniforms
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Rules out all tokens of each row but the drawn one; both [rows, ...]."""
        step = input_ids.shape[1] - self.prompt_length
        cumulative = scores.softmax(-1, dtype=torch.float64).cumsum(-1)
        quantile = self.uniforms[:, step, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, quantile, right=True)
        # Beyond the last one for a row of NaN only, which `FiniteLogits` has noted.
        chosen.clamp_(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


class TokenLogprobs(LogitsProcessor):
    """Keeps the log-probability of every new token; changes no scores.

    It comes behind the temperature and before top-p. A call knows the scores of a step and the
    tokens of the steps before, so the token of a step is looked up in the next call.
    """

    def __init__(self) -> None:
        self._columns: list[torch.Tensor] = []
        self._pending: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Takes the scores of a step, [rows, vocabulary], and the tokens before it."""
        self._look_up(input_ids)
        self._pending = scores.log_softmax(-1, dtype=torch.float32)
        return scores

    def rows(self, output: torch.Tensor) -> list[list[float]]:
        """Returns the log-probabilities of the new tokens by row, from all tokens of the output."""
        self._look_up(output)
        return torch.stack(self._columns, dim=1).tolist()

    def _look_up(self, input_ids: torch.Tensor) -> None:
        if self._pending is not None:
            self._columns.append(self._pending.gather(1, input_ids[:, -1:]).squeeze(1))
            self._pending = None


class TokenConfidences(LogitsProcessor):
    """Keeps the confidence and the self-certainty of every new token; changes no scores.

    It comes before temperature and top-p: both are of the model's own distribution, as in the
    papers that `search_lib.confidence` names.

    Args:
        top_k: Most likely tokens that make a confidence.
    """

    def __init__(self, top_k: int):
        self._top_k = top_k
        self._confidences: list[torch.Tensor] = []
        self._certainties: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Takes the logits of a step, [rows, vocabulary]."""
        logprobs = scores.log_softmax(-1, dtype=torch.float32)
        vocab_size = logprobs.shape[-1]
        top = logprobs.topk(min(self._top_k, vocab_size), sorted=False).values
        self._confidences.append(-top.mean(-1))
        self._certainties.append(-logprobs.mean(-1) - math.log(vocab_size))
        return scores

    def rows(self) -> tuple[list[list[float]], list[list[float]]]:
        """Returns the confidences and the self-certainties of the new tokens by row."""
        confidences, certainties = self._confidences, self._certainties
        return torch.stack(confidences, 1).tolist(), torch.stack(certainties, 1).tolist()


class FiniteLogits(LogitsProcessor):
    """Notes whether all logits were numbers, without waiting for the device.

    No draw from others makes sense, and the index of a greedy one may be any.

    Args:
        device: Device of the logits.

    Attributes:
        hold: Whether they were, a boolean tensor.
    """

    def __init__(self, device: torch.device):
        self.hold = torch.ones((), dtype=torch.bool, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Looks at the logits, [rows, vocabulary]: the largest of a row is NaN where one is."""
        self.hold &= scores.amax(-1).isfinite().all()
        return scores


class HfEngine:
    """Batches waiting requests into calls of the library's `generate`.

    A request is answered when its own rows have ended, to within `CHUNK_TOKENS`; requests that come
    meanwhile wait for the batch's last row. One for more samples than a batch takes is divided.

    Args:
        model: A causal language model in eval mode.
        pad_token_id: Any id of the vocabulary; padded positions are masked.
        executor: The thread that runs the model (see `Batcher`).
        max_batch_rows: Sequences in one call of `generate`.
        max_batch_tokens: Tokens of all its sequences when each has reached its limit; their
            key-value states take 28 KiB a token for a 1.5B Qwen2 in bfloat16.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_token_id: int,
        executor: ThreadPoolExecutor | None = None,
        max_batch_rows: int = 256,
        max_batch_tokens: int = 262_144,
    ):
        if not isinstance(model, GenerationMixin):
            raise ValueError(f"{type(model).__name__} cannot generate text")
        # `generate` takes the settings that a call leaves open from here. A request states its
        # sampling in full, so the checkpoint's own settings (top_k, end tokens) must not leak in.
        model.generation_config = GenerationConfig(pad_token_id=pad_token_id)
        self.model: Any = model  # the type stubs of `generate` refuse a plain PreTrainedModel
        self.pad_token_id = pad_token_id
        self._max_batch_rows = max_batch_rows
        self._max_batch_tokens = max_batch_tokens
        self._batcher: Batcher[GenerationRequest, list[Block]] = Batcher(
            self._generate_batch,
            executor,
            1.0,
            # Lengths and seeds are each row's own; how tokens are drawn is the batch's.
            key_of=lambda request: (
                request.sampling,
                request.expansion.stop_token_ids,
                request.expansion.logprobs,
                request.expansion.confidence_top_k,
            ),
            size_of=lambda request: (
                request.expansion.n
                * max(1 / max_batch_rows, _longest_path(request.expansion) / max_batch_tokens)
            ),
            length_of=lambda request: len(request.expansion.prefix_ids),
        )

    @classmethod
    def load(
        cls,
        model_path: str,
        attention_impl: str = "sdpa",
        device: str | torch.device | None = None,
        executor: ThreadPoolExecutor | None = None,
        max_batch_rows: int = 256,
    ) -> "HfEngine":
        """Loads a policy from a folder or the Hub, in the data type of its config.

        Args:
            model_path: Folder or Hub id.
            attention_impl: transformers' `attn_implementation`.
            device: Device of the model; by default CUDA when there is one, else CPU.
            executor: See the class.
            max_batch_rows: See the class.

        Raises:
            ValueError: If there is no such model, its files are damaged or don't hold all weights,
                or it needs code of its own; begins with the path.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with loading(model_path):
            model: Any
            info: dict[str, Any]
            model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
                model_path,
                attn_implementation=resolve_attention(attention_impl),
                dtype="auto",
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        check_weights(model_path, info)
        model = model.to(device).eval()
        pad = model.config.pad_token_id
        return cls(model, 0 if pad is None else pad, executor, max_batch_rows)

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        """Samples the blocks that continue a path.

        Raises:
            ValueError: If the prefix is empty, or prefix and block exceed the model's context.
        """
        context = getattr(self.model.config, "max_position_embeddings", None)
        if not expansion.prefix_ids:
            raise ValueError("cannot generate from an empty prefix")
        if context is not None and _longest_path(expansion) > context:
            raise ValueError(
                f"a prefix of {len(expansion.prefix_ids)} tokens and a block of "
                f"{expansion.max_new_tokens} exceed the policy's context of {context} tokens"
            )
        together = min(self._max_batch_rows, self._max_batch_tokens // _longest_path(expansion))
        together = max(1, together)
        parts = [
            GenerationRequest(
                replace(expansion, n=min(together, expansion.n - first)), sampling, first
            )
            for first in range(0, expansion.n, together)
        ]
        blocks = await asyncio.gather(*map(self._batcher.submit, parts))
        return [block for part in blocks for block in part]

    async def close(self) -> None:
        """Fails the waiting requests."""
        await self._batcher.close()

    @torch.inference_mode()
    def _generate_batch(
        self, requests: Sequence[GenerationRequest]
    ) -> Iterator[tuple[int, list[Block]]]:
        """Yields the index and the blocks of each request when its last row has ended."""
        device = self.model.device
        expansions = [request.expansion for request in requests]
        request_of_row = [i for i, expansion in enumerate(expansions) for _ in range(expansion.n)]
        limits = [expansions[i].max_new_tokens for i in request_of_row]
        sampling, stop_token_ids = requests[0].sampling, expansions[0].stop_token_ids
        with_logprobs, top_k = expansions[0].logprobs, expansions[0].confidence_top_k
        uniforms = torch.from_numpy(draw_uniforms(requests)).to(device)

        # Each prefix is computed once, then its states are handed to its n rows.
        input_ids, mask = left_pad([e.prefix_ids for e in expansions], self.pad_token_id, device)
        cache = self._prefill(input_ids, mask)
        rows = torch.tensor(request_of_row, device=device)
        cache.batch_select_indices(rows)
        input_ids, mask = input_ids[rows], mask[rows]

        # A few tokens at a time: rows that have ended leave the batch, and the others go on from
        # their states without paying for them.
        blocks: dict[int, Block] = {}
        ends = itertools.accumulate(expansion.n for expansion in expansions)
        rows_of = [range(end - e.n, end) for e, end in zip(expansions, ends, strict=True)]
        alive = list(range(len(limits)))
        new_ids: list[list[int]] = [[] for _ in limits]
        # Numbers of each token, by the field of a block.
        new_numbers: list[dict[str, list[float]]] = [defaultdict(list) for _ in limits]
        done = 0
        finite = FiniteLogits(device)
        while alive:
            chunk = min(CHUNK_TOKENS, max(limits[row] for row in alive) - done)
            logprobs = TokenLogprobs() if with_logprobs else None
            confidences = TokenConfidences(top_k) if top_k else None
            output = self.model.generate(
                input_ids=input_ids,
                attention_mask=mask,
                past_key_values=cache,
                max_new_tokens=chunk,
                do_sample=False,  # the processors draw
                logits_processor=LogitsProcessorList(
                    [
                        finite,
                        *([confidences] if confidences else []),
                        *sampling_processors(
                            sampling, uniforms[alive, done:], input_ids.shape[1], logprobs
                        ),
                    ]
                ),
                eos_token_id=list(stop_token_ids) or None,
            )
            if not finite.hold:
                raise ValueError("the policy's logits are not finite: its weights, or their type")
            found: dict[str, list[list[float]]] = {}
            if logprobs:
                found["logprobs"] = logprobs.rows(output)
            if confidences:
                found["confidences"], found["certainties"] = confidences.rows()
            for name, rows_of_name in found.items():
                for row, numbers in zip(alive, rows_of_name, strict=True):
                    new_numbers[row][name] += numbers
            for row, tokens in zip(alive, output[:, input_ids.shape[1] :].tolist(), strict=True):
                new_ids[row] += tokens
                block = cut_block(new_ids[row], done, limits[row], stop_token_ids)
                if block is not None:
                    blocks[row] = with_numbers(block, new_numbers[row])
            done += output.shape[1] - input_ids.shape[1]
            kept = [index for index, row in enumerate(alive) if row not in blocks]
            for index in dict.fromkeys(request_of_row[row] for row in alive):
                if all(row in blocks for row in rows_of[index]):
                    yield index, [blocks[row] for row in rows_of[index]]
            mask = F.pad(mask, (0, output.shape[1] - mask.shape[1]), value=1)
            input_ids = output
            if len(kept) < len(alive):
                indices = torch.tensor(kept, dtype=torch.long, device=device)
                cache.batch_select_indices(indices)
                input_ids, mask = input_ids[indices], mask[indices]
                alive = [alive[index] for index in kept]

    def _prefill(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> DynamicCache:
        """Returns key-value states of all prefix tokens but the last: `generate` starts there."""
        cache = DynamicCache(config=self.model.config)
        if input_ids.shape[1] > 1:
            self.model(
                input_ids=input_ids[:, :-1],
                attention_mask=attention_mask[:, :-1],
                position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0)[:, :-1],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return cache


def with_numbers(block: Block, numbers: Mapping[str, list[float]]) -> Block:
    """Returns a block with numbers of its tokens, by field; those of later tokens are left out."""
    length = len(block.token_ids)
    cut: dict[str, Any] = {name: of_token[:length] for name, of_token in numbers.items()}
    return replace(block, **cut)


def _longest_path(expansion: Expansion) -> int:
    """Returns the tokens of prefix and block, when the block reaches its limit."""
    return len(expansion.prefix_ids) + expansion.max_new_tokens


def sampling_processors(
    sampling: Sampling,
    uniforms: torch.Tensor,
    prompt_length: int,
    logprobs: TokenLogprobs | None = None,
) -> LogitsProcessorList:
    """Returns temperature, top-p and the draw, in this order; none of them for greedy decoding.

    Args:
        sampling: Temperature and top-p.
        uniforms: See `SeededSampling`.
        prompt_length: See `SeededSampling`.
        logprobs: Comes between temperature and top-p.
    """
    processors = LogitsProcessorList()
    if sampling.temperature not in (0.0, 1.0):
        processors.append(TemperatureLogitsWarper(sampling.temperature))
    if logprobs is not None:
        processors.append(logprobs)
    if sampling.temperature > 0:
        if sampling.top_p < 1.0:
            processors.append(TopPLogitsWarper(sampling.top_p))
        processors.append(SeededSampling(uniforms, prompt_length))
    return processors


def left_pad(
    rows: Sequence[list[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns input ids and attention mask, both [rows, longest], padded on the left."""
    longest = max(map(len, rows))
    padded = [[pad_token_id] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(padded, device=device), torch.tensor(mask, device=device)


def draw_uniforms(requests: Sequence[GenerationRequest]) -> np.ndarray:
    """Returns random numbers in [0, 1), [rows, longest limit], a row's from (its seed, sample)."""
    longest = max(expansion.max_new_tokens for expansion, _, _ in requests)
    return np.stack(
        [
            np.random.default_rng((expansion.seed, sample)).random(longest)
            for expansion, _, first in requests
            for sample in range(first, first + expansion.n)
        ]
    )


def cut_block(
    new_ids: list[int], start: int, limit: int, stop_token_ids: tuple[int, ...]
) -> Block | None:
    """Returns the block of one row, cut where it ends; None if it goes on.

    Args:
        new_ids: Tokens of the block so far.
        start: Number of them that are known to hold no stop token.
        limit: Most tokens of the block.
        stop_token_ids: Tokens that end it.
    """
    stops = frozenset(stop_token_ids)
    for position in range(start, min(len(new_ids), limit)):
        if new_ids[position] in stops:
            return Block(new_ids[: position + 1], "stop")
    return Block(new_ids[:limit], "length") if len(new_ids) >= limit else None
