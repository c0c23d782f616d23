"""Finds problems of a benchmark in a training set: runs of words that both have."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from classifier_lib.commands import InputError
from data_prep.normalise import normalise, words
from search_lib.benchmarks import find_benchmark, load_problems


class BenchmarkWords:
    """The runs of words of benchmark problems.

    Args:
        ngram: words of a run. A benchmark problem with fewer is one run.

    Attributes:
        digests: benchmark -> digest of its runs.
    """

    def __init__(self, ngram: int):
        self.digests: dict[str, str] = {}
        self._ngram = ngram
        # length -> run -> the problem that it is of
        self._runs: dict[int, dict[tuple[str, ...], str]] = defaultdict(dict)

    def add(self, benchmark: str, problem_id: str, problem: str) -> None:
        """Adds a problem of a benchmark."""
        sequence = words(normalise(problem))
        length = min(self._ngram, len(sequence))
        if length:
            for run in _runs(sequence, length):
                self._runs[length].setdefault(run, f"{benchmark}, problem {problem_id}")
        content = f"{self.digests.get(benchmark, '')} {' '.join(sequence)}"
        self.digests[benchmark] = hashlib.sha256(content.encode()).hexdigest()[:16]

    def find(self, text: str) -> str | None:
        """The benchmark problem that a normalised text shares a run with, and the run."""
        if not self._runs:
            return None
        sequence = words(text)
        for length, known in self._runs.items():
            for run in _runs(sequence, length):
                if run in known:
                    return f"{known[run]}: {' '.join(run)}"
        return None


def load_benchmark_words(benchmarks: Sequence[str], ngram: int) -> BenchmarkWords:
    """The runs of words of benchmarks that ``search_lib.benchmarks`` knows or can read.

    Raises:
        InputError: if one can't be read.
    """
    index = BenchmarkWords(ngram)
    for benchmark in benchmarks:
        try:
            problems = load_problems(find_benchmark(benchmark))
        except InputError as error:
            raise InputError(f"--decontaminate {benchmark}: {error}") from error
        for problem in problems:
            index.add(benchmark, problem.id, problem.problem)
    return index


def _runs(sequence: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(sequence[start : start + length]) for start in range(len(sequence) - length + 1)]
