"""Blocks from a transformers model in this process: the default engine, on a CPU or one GPU."""

import asyncio
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from classifier_lib.inference_attention import use_grouped_attention
from classifier_lib.modeling import resolve_attention
from classifier_lib.scoring import batch_tokens
from classifier_lib.states import bytes_per_token, layer_sizes
from run_lib.hub import check_weights, loading
from search_lib.batching import ModelThread
from search_lib.continuous import ContinuousBatcher, Load
from search_lib.engines.base import Block, Expansion, Sampling
from search_lib.engines.rows import GenerationRequest
from search_lib.engines.running_batch import RunningBatch

INTERRUPTION = 4
"""Tokens that each row of a batch could have got while it is interrupted."""

MAX_KEPT_TOKENS = 262_144
"""Tokens whose states are kept, unless there is no room for them."""

GPU_STEP_TOKENS = 16
"""Tokens between two looks at which rows have ended: a GPU need not wait for every one."""


class HfEngine:
    """Decodes the waiting requests of all searches in one batch, which they join and leave.

    A request joins the batch between two steps, and is answered when its own rows have ended. One
    for more samples than the batch takes is divided.

    Args:
        model: A causal language model in eval mode.
        thread: The thread that runs the model, where it shares one.
        max_batch_rows: Sequences in the batch.
        max_batch_tokens: Its sequences times the longest of them, when it has reached its limit;
            key-value states take 28 KiB a token for a 1.5B Qwen2 in bfloat16.
        max_kept_tokens: Tokens whose states are kept besides, for the requests that continue them.
            None: `MAX_KEPT_TOKENS`, or fewer if these would take more of a GPU than a quarter of
            what the model left free.

    Raises:
        ValueError: If the model has layers without keys and values.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        thread: ModelThread | None = None,
        max_batch_rows: int = 256,
        max_batch_tokens: int = 262_144,
        max_kept_tokens: int | None = None,
    ):
        use_grouped_attention(model)
        self.model = model
        self._max_batch_rows = max_batch_rows
        self._max_batch_tokens = max_batch_tokens
        step_tokens = 1 if model.device.type == "cpu" else GPU_STEP_TOKENS
        max_pass_tokens = batch_tokens(model.device)
        with torch.inference_mode():
            sizes = layer_sizes(model)
        if max_kept_tokens is None:
            max_kept_tokens = MAX_KEPT_TOKENS
            if model.device.type == "cuda":
                free, _ = torch.cuda.mem_get_info(model.device)
                fitting = free // 4 // bytes_per_token(sizes, model.dtype)
                max_kept_tokens = min(fitting, max_kept_tokens)
        batch = RunningBatch(model, sizes, max_kept_tokens, max_pass_tokens, step_tokens)
        self._batcher: ContinuousBatcher[GenerationRequest, list[Block]] = ContinuousBatcher(
            batch,
            thread,
            lambda request: Load(request.expansion.n, request.longest_path),
            max_batch_rows,
            max_batch_tokens,
            INTERRUPTION / step_tokens,
        )

    @classmethod
    def load(
        cls,
        model_path: str,
        attention_impl: str = "sdpa",
        device: str | torch.device | None = None,
        thread: ModelThread | None = None,
        max_batch_rows: int = 256,
    ) -> "HfEngine":
        """Loads a policy from a folder or the Hub, in the data type of its config.

        Args:
            model_path: Folder or Hub id.
            attention_impl: transformers' `attn_implementation`.
            device: Device of the model; by default CUDA when there is one, else CPU.
            thread: See the class.
            max_batch_rows: See the class.

        Raises:
            ValueError: If there is no such model, its files are damaged or don't hold all weights,
                it needs code of its own, or it has layers without keys and values; begins with the
                path.
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
        try:
            return cls(model, thread, max_batch_rows)
        except ValueError as error:
            raise ValueError(f"{model_path}: {error}") from error

    async def generate(self, expansion: Expansion, sampling: Sampling) -> list[Block]:
        """Samples the blocks that continue a path.

        Raises:
            ValueError: If the prefix is empty, or prefix and block exceed the model's context.
        """
        context = getattr(self.model.config, "max_position_embeddings", None)
        longest = len(expansion.prefix_ids) + expansion.max_new_tokens
        if not expansion.prefix_ids:
            raise ValueError("cannot generate from an empty prefix")
        if context is not None and longest > context:
            raise ValueError(
                f"a prefix of {len(expansion.prefix_ids)} tokens and a block of "
                f"{expansion.max_new_tokens} exceed the policy's context of {context} tokens"
            )
        together = max(1, min(self._max_batch_rows, self._max_batch_tokens // longest))
        parts = [
            GenerationRequest(
                replace(expansion, n=min(together, expansion.n - first)), sampling, first
            )
            for first in range(0, expansion.n, together)
        ]
        if len(parts) == 1:
            return await self._batcher.submit(parts[0])
        blocks = await asyncio.gather(*map(self._batcher.submit, parts))
        return [block for part in blocks for block in part]

    async def close(self) -> None:
        """Fails the waiting requests."""
        await self._batcher.close()
