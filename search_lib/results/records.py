"""Records of searches: what their metrics and a drawing of their trees need."""

from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from run_lib.commands import InputError
from search_lib.confidence import Confidence
from search_lib.results.cost import SearchCost
from search_lib.results.record_log import RecordLog, parse_line, read_lines, read_whole
from search_lib.strategies.base import Node

RecordKey = tuple[str, int]
"""(problem id, repetition): one search."""


@dataclass(frozen=True)
class RecordedResponse:
    """One response of a search.

    Attributes:
        text: All generated tokens but the one that ended it, decoded.
        answer: Last box after the thought; None if there is none.
        value: P(correct) at the last token; None without a value model.
        finished: Whether the policy ended it.
        num_tokens: Generated tokens.
        node: Index of its last block in the record's tree.
        confidence: How sure the policy was of it; None if that was not recorded.
    """

    text: str
    answer: str | None
    value: float | None
    finished: bool
    num_tokens: int
    node: int
    confidence: Confidence | None = None


@dataclass(frozen=True)
class Record:
    """One finished search, with all that its metrics and its tree need.

    Attributes:
        problem_id: Id of the problem in the benchmark.
        repetition: Number of the tree among the problem's.
        problem: The question.
        reference: The reference answer; None if nobody knows it.
        seed: Seed of the search.
        responses: Responses in slot order.
        tree: Every block, parents before children.
        cost: Tokens and time of the search.
        is_enough: Whether the problem's trees end with this one, by the run's `--stop`.
    """

    problem_id: str
    repetition: int
    problem: str
    reference: str | None
    seed: int
    responses: list[RecordedResponse]
    tree: list[Node]
    cost: SearchCost
    is_enough: bool = False

    @property
    def key(self) -> RecordKey:
        """Key of this search among those of a run."""
        return self.problem_id, self.repetition

    @property
    def name(self) -> str:
        """What this search is called in messages."""
        return describe(self.key)


def describe(key: RecordKey) -> str:
    """Returns what a search is called in messages."""
    return f"problem {key[0]}, repetition {key[1]}"


@dataclass(frozen=True)
class RunSearches(Container[RecordKey]):
    """The keys of all searches of a run, without a list of them.

    Attributes:
        problem_ids: Its problems.
        num_repetitions: Most trees of each.
    """

    problem_ids: Collection[str]
    num_repetitions: int

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, tuple):
            return False
        problem_id, repetition = key
        return 0 <= repetition < self.num_repetitions and problem_id in self.problem_ids


def parse_record(line: bytes) -> Record | None:
    """Returns the record of a line, None if the line is torn; see `parse_line`."""
    return parse_line(Record, line)


def read_records(path: Path, searches: Container[RecordKey] | None = None) -> Iterator[Record]:
    """Yields the whole records of a file, each search once; see `read_whole`."""
    return read_whole(Record, path, searches)


def read_all_records(path: Path, searches: Container[RecordKey]) -> Iterator[Record]:
    """Yields the whole records of a file, also several of one search; see `read_lines`.

    It remembers none of them, as `read_records` must: for who does so anyway.
    """
    lines = read_lines(Record, path, searches)
    return (line.record for line in lines if line.record is not None)


OTHER_NAMES = ("blocks.jsonl", "answers.jsonl", "answers.published.jsonl")
"""Files of JSON lines that a run writes beside its records."""


class RecordFile(RecordLog[Record]):
    """The file of the searches of an evaluation, `--output_path`.

    Raises:
        InputError: As `RecordLog` does, and for the name of a file that is written beside it.
    """

    def __init__(self, path: Path):
        if path.name in OTHER_NAMES:
            raise InputError(f"--output_path {path}: a run writes {path.name} beside its records")
        super().__init__(Record, path, "--output_path")
