"""Turns a finished search into its record."""

from search_lib.results.cost import SearchCost
from search_lib.results.records import Record, RecordedResponse
from search_lib.runner import SearchJob
from search_lib.strategies import Response


def make_record(
    job: SearchJob, responses: list[tuple[Response, str, str | None]], cost: SearchCost
) -> Record:
    """The record of a finished search.

    Args:
        job: its strategy is done.
        responses: each with its text and its extracted answer.
        cost: from the runner.
    """
    return Record(
        problem_id=job.problem.id,
        repetition=job.repetition,
        problem=job.problem.problem,
        reference=job.problem.answer,
        seed=job.seed,
        responses=[
            RecordedResponse(
                text,
                answer,
                response.value,
                response.finished,
                len(response.token_ids),
                response.node,
            )
            for response, text, answer in responses
        ],
        tree=job.strategy.nodes,
        cost=cost,
    )
