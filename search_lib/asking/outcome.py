"""What the searches of a question answer: the vote, and the response that stands for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

from search_lib.results.cost import RunCost
from search_lib.results.graded import GradedProblem
from search_lib.results.records import Record, RecordedResponse
from search_lib.voting import winning_classes

VoteName = Literal["MV", "WMV", "BoN"]


def usual_vote(has_values: bool) -> VoteName:
    """Returns how answers vote if nothing else is asked for."""
    return "WMV" if has_values else "MV"


class Candidate(NamedTuple):
    """A class of equal answers in a vote.

    Attributes:
        answer: The answer, as most of its responses spell it.
        num_responses: Responses that give it.
        weight: Its responses (MV), their summed values (WMV), or their largest value (BoN).
        share: Share of the weights of all classes; 0 if they are all 0.
        best: Its response with the largest value, or the first: the tree's number, and its place.
    """

    answer: str
    num_responses: int
    weight: float
    share: float
    best: tuple[int, int]


def count_vote(problem: GradedProblem, vote: VoteName) -> list[Candidate]:
    """Returns the classes of answers, the winner first, then by weight and number of responses.

    Args:
        problem: The answers, with values unless the vote is MV.
        vote: How they vote.
    """
    has_values = "values" in problem.features
    members = problem.members()

    def value(response: tuple[int, int]) -> float:
        tree, place = response
        return problem.values[tree][place] if has_values else 0.0

    weigh = {
        "MV": len,
        "WMV": lambda of: sum(map(value, of)),
        "BoN": lambda of: max(map(value, of)),
    }
    weights = {answer_class: float(weigh[vote](of)) for answer_class, of in members.items()}
    winning = winning_classes(vote, problem.ballots(slice(None)), problem.rules)
    total = sum(weights.values())

    def rank(answer_class: int) -> tuple[bool, float, int]:
        is_winning = answer_class in winning  # in a tie that rounding may hide from the weights
        weight = 0.0 if is_winning else -weights[answer_class]
        return not is_winning, weight, -len(members[answer_class])

    candidates = []
    for answer_class in sorted(members, key=rank):
        of = members[answer_class]
        candidates.append(
            Candidate(
                problem.spelling(of),
                len(of),
                weights[answer_class],
                weights[answer_class] / total if total else 0.0,
                max(of, key=value),
            )
        )
    return candidates


@dataclass(frozen=True)
class Outcome:
    """The end of a question.

    Attributes:
        vote: How its answers voted.
        candidates: The classes of answers, the winner first; none if no response has an answer.
        records: Its searches, by repetition.
        chosen: The response that stands for the answer; without any answer, the one with the
            largest value.
        is_right: Whether the answer is the reference; None without a reference.
        seconds: Wall time of the question.
        failures: What went wrong with searches that failed, a line each.
    """

    vote: VoteName
    candidates: list[Candidate]
    records: list[Record]
    chosen: RecordedResponse
    is_right: bool | None
    seconds: float
    failures: list[str]

    @property
    def answer(self) -> str | None:
        """The answer that won; None if there is none."""
        return self.candidates[0].answer if self.candidates else None

    @property
    def cost(self) -> RunCost:
        """Cost of all its searches."""
        return RunCost.of(record.cost for record in self.records)


def is_right(problem: GradedProblem, candidates: Sequence[Candidate]) -> bool | None:
    """Returns whether the answer of a vote is right; None if the problem has no reference."""
    if problem.reference is None:
        return None
    if not candidates:
        return False
    tree, place = candidates[0].best
    return problem.correct[tree][place]


def choose_response(records: Sequence[Record], candidates: Sequence[Candidate]) -> RecordedResponse:
    """Returns the response that stands for the answer of a vote.

    Args:
        records: The searches whose answers voted, in the order of the vote.
        candidates: The vote.
    """
    if candidates:
        tree, place = candidates[0].best
        return records[tree].responses[place]
    responses = list(chain.from_iterable(record.responses for record in records))
    return max(responses, key=lambda one: -1.0 if one.value is None else one.value)
