"""The problems of a run, graded one after the other as their records come."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from search_lib.answer_rules import STRICT, AnswerRules
from search_lib.calibration import Calibration
from search_lib.confidence import Confidence
from search_lib.grouping import Equivalence
from search_lib.results.cost import RunCost
from search_lib.results.records import Record
from search_lib.voting import FEATURES, Ballots, find_vote


@dataclass
class GradedProblem:
    """Answers, classes and values of the responses to one problem, by repetition.

    A problem that the run stopped early has fewer repetitions than others.

    Attributes:
        reference: The reference answer; None if nobody knows it.
        answers: Answer of each response.
        classes: Answer class of each response (see `grouping`).
        correct: Whether each response is right; none is known to be, without a reference.
        values: Value of each response; empty lists where there are none.
        rules: How they are counted.
        joining: Answers that the grader found equal to ones of two classes, which are one now.
        confidences: How sure the policy was of each response; empty lists where that is not known.
        calibrated: Calibrated value of each response; empty without a calibration.
    """

    reference: str | None
    answers: list[list[str | None]]
    classes: list[list[int | None]]
    correct: list[list[bool]]
    values: list[list[float]]
    rules: AnswerRules
    joining: Sequence[str] = ()
    confidences: list[list[Confidence]] = field(default_factory=list)
    calibrated: list[list[float]] = field(default_factory=list)

    @property
    def features(self) -> set[str]:
        """Keys of `FEATURES` that every response has."""
        expected = list(map(len, self.classes))
        return {name for name in FEATURES if list(map(len, getattr(self, name))) == expected}

    def calibrate(self, calibration: Calibration) -> None:
        """Gives the responses calibrated values, from their values."""
        self.calibrated = [calibration.apply(of_search) for of_search in self.values]

    def members(self) -> dict[int, list[tuple[int, int]]]:
        """Returns (repetition, place) of the responses of each class, both in their order."""
        members: dict[int, list[tuple[int, int]]] = {}
        for tree, (answers, classes) in enumerate(zip(self.answers, self.classes, strict=True)):
            for place, (answer, own) in enumerate(zip(answers, classes, strict=True)):
                if answer is not None and own is not None:
                    members.setdefault(own, []).append((tree, place))
        return members

    def spelling(self, responses: Sequence[tuple[int, int]]) -> str:
        """Returns the most frequent answer of some responses, the first of those in a tie."""
        spellings = [str(self.answers[tree][place]) for tree, place in responses]
        return max(spellings, key=spellings.count)

    def score(self, method: str, trees: int) -> list[float]:
        """Returns the accuracy of an aggregation over each whole group of `trees` repetitions.

        If there are fewer, they are the only group.
        """
        vote, scores = find_vote(method), []
        for start in range(0, max(1, len(self.classes) - trees + 1), trees):
            ballots = self.ballots(slice(start, start + trees))
            scores.append(vote(ballots, self.rules))
        return scores

    def ballots(self, group: slice) -> Ballots:
        """Returns the responses of some repetitions."""
        return Ballots(
            list(chain.from_iterable(self.classes[group])),
            list(chain.from_iterable(self.values[group])),
            list(chain.from_iterable(self.correct[group])),
            list(chain.from_iterable(self.confidences[group])),
            list(chain.from_iterable(self.calibrated[group])),
        )


@dataclass(frozen=True)
class RunSummary:
    """The content of `metrics.json` on a run's searches, but for the accuracies.

    Attributes:
        num_searches: Searches in the records.
        num_responses: Responses in the records.
        finished_share: Share of responses that the policy ended.
        answered_share: Share of responses with an answer.
        mean_response_tokens: Generated tokens of a kept response.
        tokens_generated: Tokens of all blocks, kept or not.
        search_seconds: Seconds summed over searches, which overlap.
        cost: Cost of the whole run.
    """

    num_searches: int
    num_responses: int
    finished_share: float
    answered_share: float
    mean_response_tokens: float
    tokens_generated: int
    search_seconds: float
    cost: RunCost


class CountedResponse(NamedTuple):
    """What votes need of a response."""

    answer: str | None
    value: float | None
    confidence: Confidence | None = None


TreeAnswers = Sequence[CountedResponse]
"""The responses of one tree."""


def answers_of(record: Record) -> TreeAnswers:
    """Returns what counts of the responses of a search, by the strict rules."""
    return [CountedResponse(one.answer, one.value, one.confidence) for one in record.responses]


def grade_problem(
    trees: Sequence[TreeAnswers],
    reference: str | None,
    equivalent: Equivalence,
    rules: AnswerRules = STRICT,
) -> GradedProblem:
    """Groups the answers of one problem.

    Args:
        trees: Its trees, by repetition.
        reference: The reference answer; None if nobody knows it.
        equivalent: The grader, whose comparison is that of the rules.
        rules: How they are counted.
    """
    answers = [[one.answer for one in tree] for tree in trees]
    grouping = rules.group(list(chain.from_iterable(answers)), reference, equivalent)
    classes, correct = iter(grouping.classes), iter(grouping.correct)
    return GradedProblem(
        reference=reference,
        answers=answers,
        classes=[[next(classes) for _ in tree] for tree in trees],
        correct=[[next(correct) for _ in tree] for tree in trees],
        values=[[one.value for one in tree if one.value is not None] for tree in trees],
        rules=rules,
        joining=grouping.joining,
        confidences=[[one.confidence for one in tree if one.confidence] for tree in trees],
    )


def common_features(problems: Iterable[GradedProblem]) -> set[str]:
    """Returns the keys of `FEATURES` that every response to every problem has."""
    return set(FEATURES).intersection(*(problem.features for problem in problems))


class CompleteProblem(NamedTuple):
    """What a run's tables say of a problem, once its answers are let go.

    Attributes:
        reference: The reference answer; None if nobody knows it.
        num_trees: Its trees; the run may have stopped it early.
        joining: See `GradedProblem`.
    """

    reference: str | None
    num_trees: int
    joining: Sequence[str]


@dataclass
class _Waiting:
    """A problem of which trees are missing: answers by repetition."""

    reference: str | None
    num_trees: int
    trees: dict[int, TreeAnswers] = field(default_factory=dict)


class RunGrader:
    """Grades the problems of a run, each as soon as its last tree is there.

    In memory are the problems of which some trees have come, and a few numbers of the others: of a
    run that has ended, and of merged shards, little more than one problem.

    Args:
        num_repetitions: Repetitions of the run; a problem with fewer records is left out, unless
            they are those up to one that is enough.
        equivalent: The grader, whose comparison is that of the rules.
        rules: How answers are counted.
        calibration: Of values, if they are to be calibrated.

    Attributes:
        complete: The problems with all their trees, by id, in the order of their last trees.
    """

    def __init__(
        self,
        num_repetitions: int,
        equivalent: Equivalence,
        rules: AnswerRules = STRICT,
        calibration: Calibration | None = None,
    ):
        self.complete: dict[str, CompleteProblem] = {}
        self._num_repetitions = num_repetitions
        self._equivalent = equivalent
        self._rules = rules
        self._calibration = calibration
        self._waiting: dict[str, _Waiting] = {}
        # The repetitions that have come, by problem: bit r for repetition r.
        self._seen: dict[str, int] = {}
        self._cost = RunCost()
        self._num_searches = self._num_responses = 0
        self._num_finished = self._num_answered = 0
        self._response_tokens = self._tokens_generated = 0
        self._search_seconds = 0.0

    def problems(self, records: Iterable[Record]) -> Iterator[tuple[str, GradedProblem]]:
        """Yields the complete problems with their ids.

        Args:
            records: Records of one run, in any order. Of several of one search the first counts.
        """
        rules = self._rules
        for record in records:
            problem_id, repetition = record.key
            seen = self._seen.get(problem_id, 0)
            if seen >> repetition & 1:
                continue
            self._seen[problem_id] = seen | 1 << repetition
            answers = [
                CountedResponse(rules.answer_of(one.text, one.answer), one.value, one.confidence)
                for one in record.responses
            ]
            self._count(record, answers)
            if problem_id in self.complete:
                continue
            waiting = self._waiting.setdefault(
                problem_id, _Waiting(record.reference, self._num_repetitions)
            )
            waiting.trees[repetition] = answers
            if record.is_enough:
                waiting.num_trees = repetition + 1
            if all(number in waiting.trees for number in range(waiting.num_trees)):
                del self._waiting[problem_id]
                yield problem_id, self._grade(problem_id, waiting)

    def _grade(self, problem_id: str, waiting: _Waiting) -> GradedProblem:
        trees = [waiting.trees[number] for number in range(waiting.num_trees)]
        problem = grade_problem(trees, waiting.reference, self._equivalent, self._rules)
        if self._calibration is not None:
            problem.calibrate(self._calibration)
        self.complete[problem_id] = CompleteProblem(
            waiting.reference, waiting.num_trees, problem.joining
        )
        return problem

    def _count(self, record: Record, answers: TreeAnswers) -> None:
        self._cost.add(record.cost)
        self._num_searches += 1
        self._num_responses += len(answers)
        self._num_finished += sum(response.finished for response in record.responses)
        self._num_answered += sum(one.answer is not None for one in answers)
        self._response_tokens += sum(response.num_tokens for response in record.responses)
        self._tokens_generated += record.cost.tokens_generated
        self._search_seconds += record.cost.seconds

    def summary(self) -> RunSummary:
        """Returns the summary of all records so far, those of incomplete problems among them."""
        num_responses = max(1, self._num_responses)
        return RunSummary(
            num_searches=self._num_searches,
            num_responses=self._num_responses,
            finished_share=self._num_finished / num_responses,
            answered_share=self._num_answered / num_responses,
            mean_response_tokens=self._response_tokens / num_responses,
            tokens_generated=self._tokens_generated,
            search_seconds=self._search_seconds,
            cost=self._cost,
        )
