"""Finds problems of a benchmark in a training set by the runs of words that both have.

One run proves little: "where m and n are relatively prime positive integers, find m + n" ends every
second problem of AIME, and many of any training set. So a run that different benchmark problems
share is no evidence, and a text must have `MIN_SHARE` of the other runs of one problem. Numbers are
words, signs aren't.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from data_prep.cleaning.normalise import normalise, words
from search_lib.benchmarks import find_benchmark, load_problems

MIN_SHARE = 1 / 3
"""A text with this share of the runs of a benchmark problem is that problem.

A changed word takes away as many runs as a run has words: of a problem of 40 words with runs of 13,
which are 28, one in the middle leaves 15, and a new end of 10 words leaves 18. A closing sentence
of 17 words that is shared by chance has 5.
"""

SAME_PROBLEM = 1 / 2
"""Two benchmark problems that share this part of the longer one's runs are one problem."""

Run = tuple[str, ...]


class BenchmarkWords:
    """The runs of words of benchmark problems.

    Args:
        benchmarks: The problems of each benchmark by its name, as (id, problem).
        ngram: Words of a run. A benchmark problem with fewer is one run.

    Attributes:
        digests: Digest of the words of each benchmark.
    """

    def __init__(self, benchmarks: Mapping[str, Sequence[tuple[str, str]]], ngram: int):
        self.digests: dict[str, str] = {}
        # The same problem may be in several benchmarks.
        names: dict[Run, str] = {}  # of a problem, by its words
        for benchmark, problems in benchmarks.items():
            digest = hashlib.sha256()
            for problem_id, problem in problems:
                sequence = tuple(words(normalise(problem)))
                digest.update(f"{' '.join(sequence)}\n".encode("utf-8", "surrogatepass"))
                if sequence:
                    names.setdefault(sequence, f"{benchmark}, problem {problem_id}")
            self.digests[benchmark] = digest.hexdigest()[:16]
        self._names = list(names.values())
        all_runs = [_runs(sequence, min(ngram, len(sequence))) for sequence in names]
        holders: dict[Run, list[int]] = defaultdict(list)
        for number, runs in enumerate(all_runs):
            for run in runs:
                holders[run].append(number)
        # A problem without runs of its own keeps those that it shares.
        self._evidence = [
            dict.fromkeys(run for run in runs if _is_evidence(holders[run], all_runs)) or runs
            for runs in all_runs
        ]
        self._holders: dict[Run, list[int]] = defaultdict(list)
        for number, runs in enumerate(self._evidence):
            for run in runs:
                self._holders[run].append(number)
        self._lengths = sorted({len(run) for run in self._holders})

    def find(self, text: str) -> str | None:
        """Returns the benchmark problem that a normalised text repeats, and their first common run.

        None if it repeats none.
        """
        sequence = words(text)
        shared = {
            run: None  # a set in order
            for length in self._lengths
            for run in _runs(sequence, length)
            if run in self._holders
        }
        counts = Counter(number for run in shared for number in self._holders[run])
        for number, count in counts.most_common():
            evidence = self._evidence[number]
            if count >= MIN_SHARE * len(evidence):
                first = next(run for run in shared if run in evidence)
                return f"{self._names[number]}: {' '.join(first)}"
        return None


def load_benchmark_words(benchmarks: Sequence[str], ngram: int) -> BenchmarkWords:
    """Loads the runs of words of benchmarks that `search_lib.benchmarks` knows or can read.

    Raises:
        ValueError: If one can't be read; begins with its name.
    """
    problems = {
        benchmark: [
            (item.id, item.problem)
            for item in load_problems(find_benchmark(benchmark), number_repeated=True)
        ]
        for benchmark in benchmarks
    }
    return BenchmarkWords(problems, ngram)


def _runs(sequence: Sequence[str], length: int) -> dict[Run, None]:
    """Returns the different runs of a length, in order."""
    starts = range(len(sequence) - length + 1)
    return dict.fromkeys(tuple(sequence[start : start + length]) for start in starts)


def _is_evidence(holders: Sequence[int], all_runs: Sequence[Mapping[Run, None]]) -> bool:
    """Returns whether a run is of one problem only, by the numbers of the problems that have it."""
    first = all_runs[holders[0]]
    return all(
        len(first.keys() & all_runs[other].keys())
        >= SAME_PROBLEM * max(len(first), len(all_runs[other]))
        for other in holders[1:]
    )
