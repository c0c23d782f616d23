"""Scorers of texts: they have a tokenizer of their own, and read what the policy wrote."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from classifier_lib.scoring import Scores
from search_lib.engines.base import Block
from search_lib.scorers.base import ids_of_text


class TextRequest(NamedTuple):
    """Responses so far to one problem.

    Attributes:
        problem: Text of the problem, without prompt template or instruction.
        responses: Texts of the responses, with the special tokens that stand within.
        finished: For each response, whether the policy ended it.
    """

    problem: str
    responses: list[str]
    finished: list[bool]

    @property
    def key(self) -> str:
        """Keeps the requests of a problem on one server, whose cache has its text."""
        return hashlib.blake2b(self.problem.encode(), digest_size=16).hexdigest()


@runtime_checkable
class TextScorer(Protocol):
    """A source of values that reads texts. Safe to call from many searches at once."""

    async def score_texts(self, request: TextRequest) -> Scores:
        """Returns the value of each response, in [0, 1]."""
        ...

    async def close(self) -> None:
        """Frees the scorer's workers. Requests still waiting fail."""
        ...


@dataclass(frozen=True)
class ProblemScorer:
    """The scorer of the searches on one problem: it knows the text of the problem.

    A block that ends within a character is read without that character.

    Attributes:
        scorer: Scorer of texts, shared by all problems.
        problem: Text of the problem.
        prompt_length: Tokens of the policy's prompt, which is no part of a response.
        tokenizer: Tokenizer of the policy.
    """

    scorer: TextScorer
    problem: str
    prompt_length: int
    tokenizer: PreTrainedTokenizerBase

    async def score(self, prefix_ids: list[int], blocks: Sequence[Block]) -> Scores:
        """Returns the value of each path up to the end of its block."""
        response = prefix_ids[self.prompt_length :]
        paths = [response + ids_of_text(block) for block in blocks]
        texts = await asyncio.to_thread(self.tokenizer.batch_decode, paths)
        finished = [block.finish_reason == "stop" for block in blocks]
        whole = [
            text if is_finished else text.rstrip("\N{REPLACEMENT CHARACTER}")
            for text, is_finished in zip(texts, finished, strict=True)
        ]
        return await self.scorer.score_texts(TextRequest(self.problem, whole, finished))

    async def close(self) -> None:
        """Does nothing: the scorer of texts is everybody's."""
