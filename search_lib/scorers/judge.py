"""The judge of outcomes: stands where a scorer does, and knows the right answer."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from classifier_lib.scoring import Scores
from search_lib.answer_formats import Comparer
from search_lib.engines.base import Block
from search_lib.scorers.base import ids_of_text


@dataclass(frozen=True)
class OutcomeJudge:
    """Gives 1 or 0 to a block with which the response has an answer, and None to any other.

    A block at its length limit may have been cut within an answer; any other one is complete.

    It reads and grades in a thread of `executor`, so that no search waits for another one's answer.

    Attributes:
        reference: The right answer of one problem.
        prompt_length: Tokens of its prompt.
        tokenizer: Tokenizer of the policy.
        find_answer: Returns the answer in the text of a response, or None: (text without the token
            that ended it, whether it is complete).
        comparer: Compares answers; shared by the judges of all problems.
        executor: Threads that grade.
    """

    reference: str
    prompt_length: int
    tokenizer: PreTrainedTokenizerBase
    find_answer: Callable[[str, bool], str | None]
    comparer: Comparer
    executor: Executor

    async def score(self, prefix_ids: list[int], blocks: Sequence[Block]) -> Scores:
        """Returns the judgement of each block; no token is computed for it."""
        loop = asyncio.get_running_loop()
        response = prefix_ids[self.prompt_length :]
        verdicts = await loop.run_in_executor(self.executor, self._judge, response, blocks)
        return Scores(verdicts, None)

    async def close(self) -> None:
        """Does nothing: the comparer is everybody's."""

    def _judge(self, response: list[int], blocks: Sequence[Block]) -> list[float | None]:
        # As in records: with the special tokens that stand within, such as the marks of a thought.
        texts = self.tokenizer.batch_decode([response + ids_of_text(block) for block in blocks])
        answers = [
            self.find_answer(text, block.finish_reason != "length")
            for text, block in zip(texts, blocks, strict=True)
        ]
        pairs = [(self.reference, answer) for answer in answers if answer is not None]
        verdicts = iter(self.comparer.equivalent(pairs))
        return [None if answer is None else float(next(verdicts)) for answer in answers]
