"""Samples in the making: the rows of a running batch."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from classifier_lib.states import HashedPath, PathStates
from search_lib.engines.base import Block, Expansion, FinishReason, Sampling

NUM_DRAWN = 16
"""Random numbers that a row draws at a time."""


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

    @property
    def are_twins(self) -> bool:
        """Whether the samples may share states by twos.

        Only those of short blocks do: what attention reads is mostly the prefix, and a sample that
        ends early does not compute on for long, for nothing, beside its twin.
        """
        expansion = self.expansion
        return expansion.n % 2 == 0 and expansion.max_new_tokens < len(expansion.prefix_ids)


class Prefix(NamedTuple):
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
class Row:
    """One sample in the making.

    Attributes:
        request: The request that it belongs to.
        index: Its number among the samples of the request.
        prefix: See `Prefix`; without the states where none are kept.
        generator: Its random numbers.
        stop_ids: Tokens that end it.
        ids: Its new tokens.
        numbers: Numbers of each new token, by the field of a block.
        is_finite: Whether all logits were numbers.
        end: Why it has ended, once it has.
        has_left: Whether it is in its request's answer, or has failed.
        uniforms: The random numbers that were drawn so far, one for each token.
    """

    request: GenerationRequest
    index: int
    prefix: Prefix
    generator: np.random.Generator
    stop_ids: frozenset[int]
    ids: list[int] = field(default_factory=list)
    numbers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    is_finite: bool = True
    end: FinishReason | None = None
    has_left: bool = False
    uniforms: list[float] = field(default_factory=list)

    @property
    def num_prefix(self) -> int:
        """Tokens of its prefix but for the last one."""
        return len(self.request.expansion.prefix_ids) - 1

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

    def add(self, token_ids: list[int], are_finite: list[bool]) -> bool:
        """Takes the next tokens, up to the one where the block ends.

        Returns:
            Whether it has ended, or failed.
        """
        if not self.stop_ids.isdisjoint(token_ids):
            self.end = "stop"
            stop = next(i for i, token_id in enumerate(token_ids) if token_id in self.stop_ids)
            token_ids, are_finite = token_ids[: stop + 1], are_finite[: stop + 1]
        self.ids += token_ids
        self.is_finite = self.is_finite and all(are_finite)
        if self.end is None and not self.num_left:
            self.end = "length"
        return self.end is not None or not self.is_finite

    def block(self) -> Block:
        """Returns the block; raises ValueError if its tokens were drawn from no numbers."""
        if not self.is_finite:
            raise ValueError("the policy's logits are not finite: its weights, or their type")
        assert self.end is not None
        return Block(
            self.ids,
            self.end,
            prefix_cached=self.num_prefix - self.prefix.num_computed,
            # Those of tokens behind the end are left out.
            **{name: numbers[: len(self.ids)] for name, numbers in self.numbers.items()},
        )


def new_rows(request: GenerationRequest, prefix: Prefix) -> list[Row]:
    """Returns the rows of a request; the first of them bears what its prefix has cost."""
    expansion = request.expansion
    stop_ids = frozenset(expansion.stop_token_ids)
    return [
        Row(
            request,
            index,
            prefix if index == 0 else prefix._replace(num_computed=0),
            # numpy's default_rng, which takes longer to find that this is it.
            np.random.Generator(np.random.PCG64((expansion.seed, request.first + index))),
            stop_ids,
        )
        for index in range(expansion.n)
    ]
