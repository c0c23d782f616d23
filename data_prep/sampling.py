"""A policy, and responses drawn from it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from data_prep.args import ResponseSampling
from data_prep.reports import RowReport
from run_lib.commands import naming
from run_lib.fingerprints import MODEL_FILES, fingerprint
from run_lib.hub import load_config, load_tokenizer
from run_lib.seeds import derive_seed
from search_lib.engines.base import Block, Engine, Expansion
from search_lib.prompts import stop_token_ids

MAX_DRAWS = 4
"""An empty generation is drawn again with another seed, up to this many draws in all."""


class Policy(NamedTuple):
    """A model that generates, without its weights.

    Attributes:
        name: Folder or Hub id.
        flag: The flag that names it, with its dashes.
        tokenizer: Tokenizer of the model.
        stop_ids: Token ids that end a response.
        context: Most tokens of prompt and response.
        vocab_size: Embeddings of the model.
        digest: Digest of its files; None for a Hub id.
    """

    name: str
    flag: str
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]
    context: int
    vocab_size: int
    digest: str | None

    def excess(self, prompt_ids: list[int], max_length: int) -> str | None:
        """Describes how a prompt with its longest response exceeds the context; None if it fits."""
        if len(prompt_ids) + max_length <= self.context:
            return None
        return (
            f"{len(prompt_ids)} tokens and --max_length {max_length} exceed the context of "
            f"{self.context}"
        )


def load_policy(name: str, flag: str) -> Policy:
    """Loads all of a policy but its weights.

    Args:
        name: Folder or Hub id.
        flag: The flag that names it, with its dashes.

    Raises:
        InputError: If there is no such model, or it has no tokenizer.
    """
    with naming(flag):
        tokenizer = load_tokenizer(name)
        config = load_config(name)
        try:
            context, vocab_size = config.max_position_embeddings, config.vocab_size
        except AttributeError as error:
            raise ValueError(f"{name} is no language model: {error}") from error
        stop_ids = stop_token_ids(name, tokenizer)
    digest = fingerprint(name, MODEL_FILES)
    return Policy(name, flag, tokenizer, stop_ids, context, vocab_size, digest)


class EmptyGeneration(ValueError):
    """All draws of a continuation were empty."""


class Sampler:
    """Draws from a policy. Safe to call for many rows at once.

    Args:
        engine: The engine of the policy.
        policy: The policy.
        sampling: How it is drawn from.

    Attributes:
        num_tokens: Tokens generated so far.
    """

    def __init__(self, engine: Engine, policy: Policy, sampling: ResponseSampling):
        self.engine = engine
        self.policy = policy
        self.sampling = sampling
        self.num_tokens = 0

    async def generate(
        self,
        prefix_ids: list[int],
        n: int,
        max_new_tokens: int,
        purpose: tuple[int | str, ...],
        is_empty: Callable[[Block], bool],
        report: RowReport,
    ) -> list[Block]:
        """Draws `n` continuations of a prefix.

        Args:
            prefix_ids: Token ids of the prefix.
            n: Continuations.
            max_new_tokens: Most tokens of each.
            purpose: Names the draw: the seed depends on it and on the run's seed alone.
            is_empty: Tells a continuation without content, which is drawn again.
            report: Counts the further draws.

        Raises:
            EmptyGeneration: If one of them is empty `MAX_DRAWS` times.
            ValueError: If the engine refuses the request.
        """
        blocks = await self._draw(prefix_ids, n, max_new_tokens, purpose)
        for index in range(n):
            for draw in range(1, MAX_DRAWS):
                if not is_empty(blocks[index]):
                    break
                report.totals["empty generations drawn again"] += 1
                (blocks[index],) = await self._draw(
                    prefix_ids, 1, max_new_tokens, (*purpose, "again", index, draw)
                )
            if is_empty(blocks[index]):
                raise EmptyGeneration(f"{MAX_DRAWS} times nothing behind {len(prefix_ids)} tokens")
        return blocks

    async def _draw(
        self, prefix_ids: list[int], n: int, max_new_tokens: int, purpose: tuple[int | str, ...]
    ) -> list[Block]:
        seed = derive_seed(self.sampling.seed, *purpose)
        # No strategy tells these paths apart, so their number has no meaning.
        expansion = Expansion(0, prefix_ids, n, max_new_tokens, self.policy.stop_ids, seed)
        try:
            blocks = await self.engine.generate(expansion, self.sampling)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"out of memory with {len(prefix_ids)} + {max_new_tokens} tokens"
            ) from error
        self.num_tokens += sum(len(block.token_ids) for block in blocks)
        return blocks
