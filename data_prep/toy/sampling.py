"""Samples and labels roll-outs of the toy policy, many problems at once over one engine."""

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from transformers import PreTrainedTokenizerBase

from data_prep.toy.task import MAX_RESPONSE_TOKENS, ToyProblem
from search_lib.engines.base import Block, Engine, Sampling
from search_lib.grading import Grader, extract_answer
from search_lib.prompts import build_prompt
from search_lib.seeds import derive_seed

INCORRECT, CORRECT, UNFINISHED = 0, 1, 2  # the value model's classes

Item = TypeVar("Item")
Result = TypeVar("Result")


def draw_cuts(length: int, count: int, rng: random.Random) -> list[int]:
    """Where to cut a roll-in: prefix lengths in [1, length), with P(i) proportional to sqrt(i).

    The mean is 0.6 of the length. Cuts are independent and may coincide. Something is left to
    generate behind every cut; a roll-in of one token can only be cut before it, at 0.
    """
    if length == 1:
        return [0] * count
    return rng.choices(range(length), weights=[math.sqrt(i) for i in range(length)], k=count)


class Response(NamedTuple):
    """One prefix and its completion, of ``MAX_RESPONSE_TOKENS`` response tokens at most."""

    roll_in_ids: list[int]
    completion_ids: list[int]
    finished: bool


class RolloutSampler:
    """Makes rows of training data out of problems. Safe to call for many problems at once.

    Args:
        engine: samples for the policy.
        tokenizer: of the policy.
        grader: compares answers.
        stop_ids: token ids that end a response.
        num_roll_ins: responses that the policy starts for a problem.
        num_cuts: cuts of a roll-in, each of which is completed once.
        temperature: softmax temperature; nothing is cut from the policy's distribution.

    Attributes:
        num_tokens: tokens sampled so far, those behind a cut included.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        grader: Grader,
        stop_ids: tuple[int, ...],
        num_roll_ins: int,
        num_cuts: int,
        temperature: float,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.grader = grader
        self.stop_ids = stop_ids
        self.num_roll_ins = num_roll_ins
        self.num_cuts = num_cuts
        self.temperature = temperature
        self.num_tokens = 0

    async def build_row(self, message_id: str, problem: ToyProblem) -> dict[str, Any]:
        """Samples and labels one problem.

        Args:
            message_id: unique to the row, and the seed of all its random draws.
            problem: what to solve.

        Returns:
            The columns of OpenR1-VM. The lists hold num_roll_ins * num_cuts entries, those of one
            roll-in side by side.
        """
        prompt = build_prompt(self.tokenizer, str(problem), instruction="")
        responses = await self._sample_responses(prompt, message_id)
        texts = self.tokenizer.batch_decode(
            [(roll_in + completion)[len(prompt) :] for roll_in, completion, _ in responses]
        )
        answers = [extract_answer(text) for text in texts]
        verdicts = self.grader.equivalent(
            [(str(problem.answer), answer or "") for answer in answers]
        )
        labels = [
            UNFINISHED if not response.finished else CORRECT if right else INCORRECT
            for response, right in zip(responses, verdicts, strict=True)
        ]
        return {
            "message_id": message_id,
            "problem": str(problem),
            "solution": problem.solution,
            "answer": str(problem.answer),
            "reward": [float(label == CORRECT) for label in labels],
            "roll_in_ids": [response.roll_in_ids for response in responses],
            "roll_outs_ids": [response.completion_ids for response in responses],
            "processed_answer": answers,
            "labels": labels,
        }

    async def _sample_responses(self, prompt: list[int], message_id: str) -> list[Response]:
        rng = random.Random(derive_seed(message_id, "cuts"))
        roll_ins = await self._generate(prompt, self.num_roll_ins, message_id, "roll-ins")
        prefixes = [
            roll_in.token_ids[:cut]
            for roll_in in roll_ins
            for cut in draw_cuts(len(roll_in.token_ids), self.num_cuts, rng)
        ]
        completions = await asyncio.gather(
            *(
                self._generate(prompt + prefix, 1, message_id, number, room=room(prefix))
                for number, prefix in enumerate(prefixes)
            )
        )
        responses = []
        for prefix, (block,) in zip(prefixes, completions, strict=True):
            finished = block.finish_reason == "stop"
            responses.append(Response(prompt + prefix, block.token_ids, finished))
        return responses

    async def _generate(
        self, prefix: list[int], n: int, *purpose: int | str, room: int = MAX_RESPONSE_TOKENS
    ) -> list[Block]:
        seed = derive_seed(*purpose)
        sampling = Sampling(self.temperature, 1.0, room, self.stop_ids, seed)
        blocks = await self.engine.generate(prefix, n, sampling)
        self.num_tokens += sum(len(block.token_ids) for block in blocks)
        return blocks


def room(prefix: list[int]) -> int:
    """Tokens that a response may still take after its first ones."""
    return MAX_RESPONSE_TOKENS - len(prefix)


async def in_order(
    function: Callable[[Item], Awaitable[Result]], items: Iterable[Item], window: int
) -> AsyncIterator[tuple[Item, Result]]:
    """Runs up to ``window`` calls at once; yields items with their results, in the order given."""
    pending: deque[tuple[Item, asyncio.Future[Result]]] = deque()
    for item in items:
        pending.append((item, asyncio.ensure_future(function(item))))
        if len(pending) == window:
            item, result = pending.popleft()
            yield item, await result
    for item, result in pending:
        yield item, await result
