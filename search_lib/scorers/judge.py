"""The judge of outcomes: stands where a scorer does, and knows the right answer."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from classifier_lib.scoring import Scores
from search_lib.engines.base import Block
from search_lib.grading import Grader


@dataclass(frozen=True)
class OutcomeJudge:
    """Gives 1 or 0 to a block with which the response has an answer, and None to any other.

    It reads and grades in a thread of `executor`, so that no search waits for another one's answer.

    Attributes:
        reference: The right answer of one problem.
        prompt_length: Tokens of its prompt.
        tokenizer: Tokenizer of the policy.
        find_answer: Returns the answer in the text of a response, or None.
        grader: Compares answers; shared by the judges of all problems.
        executor: Threads that grade.
    """

    reference: str
    prompt_length: int
    tokenizer: PreTrainedTokenizerBase
    find_answer: Callable[[str], str | None]
    grader: Grader
    executor: Executor

    async def score(self, prefix_ids: list[int], blocks: Sequence[Block]) -> Scores:
        """Returns the judgement of each block; no token is computed for it."""
        loop = asyncio.get_running_loop()
        response = prefix_ids[self.prompt_length :]
        verdicts = await loop.run_in_executor(self.executor, self._judge, response, blocks)
        return Scores(verdicts, None)

    async def close(self) -> None:
        """Does nothing: the grader is everybody's."""

    def _judge(self, response: list[int], blocks: Sequence[Block]) -> list[float | None]:
        paths = [response + block.token_ids for block in blocks]
        texts = self.tokenizer.batch_decode(paths, skip_special_tokens=True)
        answers = [self.find_answer(text) for text in texts]
        pairs = [(self.reference, answer) for answer in answers if answer is not None]
        verdicts = iter(self.grader.equivalent(pairs))
        return [None if answer is None else float(next(verdicts)) for answer in answers]
