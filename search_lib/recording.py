"""Turns finished searches into records."""

from collections.abc import Mapping

import numpy as np

from search_lib.answer_formats import AnswerFormat
from search_lib.confidence import Confidence
from search_lib.jobs import Policy
from search_lib.results.blocks import RecordedBlocks
from search_lib.results.cost import SearchCost
from search_lib.results.graded import CountedResponse, TreeAnswers
from search_lib.results.records import Record, RecordedResponse
from search_lib.runner import SearchJob
from search_lib.strategies import BlockSource, Response, Strategy


class Recorder:
    """Makes the record of a finished search: decodes its responses and extracts their answers.

    Args:
        policy: The policy; the tokens that end a response are left out of its text.
        prompts: Token ids of the prompts, by the problem's id.
        answer_format: How answers are written.
        confidence_window: Tokens of a window of confidence; None if it is not recorded.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Mapping[str, list[int]],
        answer_format: AnswerFormat,
        confidence_window: int | None = None,
    ):
        self._tokenizer = policy.tokenizer
        self._prompts = prompts
        self._stop_token_ids = policy.stop_token_ids
        self._answer_format = answer_format
        self._confidence_window = confidence_window

    def record(self, job: SearchJob[Strategy], cost: SearchCost, is_enough: bool = False) -> Record:
        """Returns the record of a search.

        Args:
            job: The search; its strategy is done.
            cost: Its cost, from the runner.
            is_enough: Whether the trees of its problem end with it.
        """
        return Record(
            problem_id=job.problem.id,
            repetition=job.repetition,
            problem=job.problem.problem,
            reference=job.problem.answer,
            seed=job.seed,
            responses=self._responses(job),
            tree=job.strategy.nodes,
            cost=cost,
            is_enough=is_enough,
        )

    def answers(self, job: SearchJob[Strategy]) -> TreeAnswers:
        """Returns what counts of the responses of a search, as its record will have it."""
        return [CountedResponse(one.answer, one.value) for one in self._responses(job)]

    def blocks(self, job: SearchJob[Strategy], cost: SearchCost) -> RecordedBlocks | None:
        """Returns the blocks of a search, for the file beside the records; None if none are kept.

        Args:
            job: The search; its strategy is done.
            cost: Its cost, from the runner.
        """
        if job.kept is None:
            return None
        kept = job.kept.of(job.strategy.sources)
        values = [block.token_values for block in kept if block.token_values is not None]
        return RecordedBlocks.pack(
            (job.problem.id, job.repetition, cost.session),
            self._prompts[job.problem.id],
            [block.token_ids for block in kept],
            values if len(values) == len(kept) else None,
        )

    def _responses(self, job: SearchJob[Strategy]) -> list[RecordedResponse]:
        prompt = str(self._tokenizer.decode(self._prompts[job.problem.id]))
        return [
            self._response(response, prompt, self._confidence(job, response.node))
            for response in job.strategy.result()
        ]

    def _confidence(self, job: SearchJob[Strategy], node: int) -> Confidence | None:
        """Returns how sure the policy was of the response that ends with a node, if it is kept."""
        if self._confidence_window is None or job.kept is None:
            return None
        nodes, sources = job.strategy.nodes, job.strategy.sources
        path: list[BlockSource] = []
        place: int | None = node
        while place is not None:
            path.append(sources[place])
            place = nodes[place].parent
        blocks = job.kept.of(path[::-1])
        numbers = [
            (block.confidences, block.certainties)
            for block in blocks
            if block.confidences is not None and block.certainties is not None
        ]
        if len(numbers) < len(blocks):
            return None
        confidences, certainties = map(np.concatenate, zip(*numbers, strict=True))
        return Confidence.of(confidences, certainties, self._confidence_window)

    def _response(
        self, response: Response, prompt: str, confidence: Confidence | None
    ) -> RecordedResponse:
        ids = response.token_ids
        text = str(self._tokenizer.decode(ids[:-1] if ids[-1] in self._stop_token_ids else ids))
        return RecordedResponse(
            text,
            self._answer_format.find_answer(prompt, text, response.finished),
            response.value,
            response.finished,
            len(ids),
            response.node,
            confidence,
        )
