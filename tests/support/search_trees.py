"""Small records of searches with trees, made without a search."""

from collections.abc import Sequence

from search_lib.results.records import Record, RecordedResponse
from search_lib.strategies.base import Node
from tests.support.runs import tree_cost


def record_of(
    parents: Sequence[int | None],
    answers: dict[int, str | None],
    problem_id: str = "a",
    repetition: int = 0,
    **changes: object,
) -> Record:
    """A search whose blocks have 10 tokens and the values 0.01, 0.02, ... in their order.

    Args:
        parents: Parent of each block.
        answers: By the last block of each response, its answer.
        problem_id: Id of the problem, whose reference is "1".
        repetition: Number of the tree.
        **changes: Attributes of the record that are others.
    """
    nodes = [
        Node(parent, 10, (index + 1) / 100, "stop" if index in answers else "length")
        for index, parent in enumerate(parents)
    ]
    responses = [
        RecordedResponse(f"answer {answer}", answer, nodes[node].value, True, 10, node)
        for node, answer in answers.items()
    ]
    parts = {
        "problem": "Which?",
        "reference": "1",
        "seed": 2**63 - 1,
        "cost": tree_cost(repetition),
    }
    return Record(problem_id, repetition, responses=responses, tree=nodes, **(parts | changes))
