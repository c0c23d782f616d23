"""The flags of the speed benchmarks, and the sizes that they are multiples of."""

from dataclasses import dataclass
from typing import Literal

from run_lib.commands import InputError, at_least

VOTING = "scripts.bench.voting"
LABELLING = "scripts.bench.labelling"
DATA_LOADING = "scripts.bench.data_loading"
TREES = "scripts.bench.trees"
SCORING = "scripts.bench.scoring"
SCHEDULING = "scripts.bench.scheduling"
SERVING = "scripts.bench.serving"
DVO_TRAIN = "scripts.bench.dvo_train"
TRAIN_STEP = "scripts.bench.train_step"

NUM_RESPONSES = 56
TYPICAL_DISTINCT = 8
FULL_LENGTH = 16384
"""Longest response of the paper, in tokens."""
NUM_CUTS = 4
"""Cuts of a roll-in, each completed once; its samples are neighbours."""
PARTS = (4, 8, 16)
"""Blocks of a response."""


@dataclass(frozen=True)
class VotingArgs:
    """Seconds to compute the votes at all budgets."""

    quick: bool = False
    """Take 4 problems of each kind instead of 15."""
    problems: int | None = None
    """Problems of each kind."""
    num_blocks: int = 4
    """Samples of one tree."""
    num_repetitions: int = 16
    """Trees of a problem."""
    seed: int = 0
    """Seed of the answers and values."""


@dataclass(frozen=True)
class LabellingArgs:
    """Compare the two ways of grading."""

    problems: int = 60
    """Problems, with 56 answers each."""
    distinct: tuple[int, ...] = (4, TYPICAL_DISTINCT, 16, NUM_RESPONSES)
    """Different answers a problem at most; must hold 8."""
    num_workers: int = 2
    """Processes of our grader; the table has one process, too."""
    rounds: int = 2
    """Times that each way grades everything; the fastest counts."""
    seed: int = 0
    """Seed of the answers."""
    quick: bool = False
    """A few problems, once."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        if TYPICAL_DISTINCT not in self.distinct:
            raise InputError(f"--distinct must hold {TYPICAL_DISTINCT}, which the ratio is of")


@dataclass(frozen=True)
class DataLoadingArgs:
    """Samples per second, start-up and memory of the two ways to read."""

    quick: bool = False
    """Take 240 rows for the large data set, and fewer samples."""
    rows: int | None = None
    """Rows of the large data set; 2,400 by default."""
    small_rows: int = 24
    """Rows of the small data set."""
    max_length: int = FULL_LENGTH
    """Longest response, in tokens."""
    num_roll_ins: int = 14
    """Roll-ins of a row; each has four responses."""
    rounds: int = 5
    """Times that both ways are timed, in turns."""
    published_samples: int | None = None
    """Samples of the published way in a round, 8 by default (4 with --quick)."""
    our_samples: int = 1000
    """Samples of ours in a round."""
    seed: int = 0
    """Seed of the rows and of the samples read."""


@dataclass(frozen=True)
class TreesArgs:
    """Trees a minute for two ways to schedule their iterations."""

    quick: bool = False
    """256 trees of 30 iterations, and a quarter as many in flight."""
    trees: int = 1024
    """Trees to grow."""
    lock_step: int = 256
    """Trees in flight at once in lock step."""
    windows: tuple[int, ...] = (256, 512)
    """Trees in flight at once in windows."""
    iterations: int = 80
    """Expansions of a tree."""
    seed: int = 0
    """Seed of the trees."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(1, trees=self.trees, iterations=self.iterations, lock_step=self.lock_step)
        at_least(1, windows=min(self.windows, default=0))


@dataclass(frozen=True)
class ScoringArgs:
    """Tokens and seconds of the value model for one search."""

    quick: bool = False
    """Responses of 512 tokens at most and 1 round, instead of 2,048 and 2."""
    shape: Literal["small", "1.5b"] | None = None
    """Model and lengths; by default 1.5b on a GPU, small on a CPU."""
    max_length: int | None = None
    """Tokens of a response, a multiple of 16."""
    rounds: int | None = None
    """Timed searches of each way and block size."""
    seed: int = 0
    """Seed of the tokens and the weights."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        if self.max_length is not None and (self.max_length < 1 or self.max_length % max(PARTS)):
            raise InputError(f"--max_length {self.max_length} is not a multiple of {max(PARTS)}")


@dataclass(frozen=True)
class SchedulingArgs:
    """Wall time and busy share of the generator for two ways to schedule searches."""

    quick: bool = False
    """Measure one round instead of five, and simulate 100 searches instead of 1,000."""
    problems: int = 40
    """Searches of the first part, and of the small cases on paper."""
    simulated: int | None = None
    """Searches of the large cases on paper."""
    policy: str | None = None
    """Folder of a trained toy policy; by default random weights."""
    classifier: str | None = None
    """Folder of its value model; by default random weights."""
    seed: int = 0
    """Seed of the searches and the random weights."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        if (self.policy is None) != (self.classifier is None):
            raise InputError("--policy and --classifier go together")


@dataclass(frozen=True)
class ServingArgs:
    """Tokens a second of the server of answers and of an evaluation."""

    quick: bool = False
    """16 problems and one round."""
    problems: int | None = None
    """Problems, each a request; 64 by default."""
    rounds: int | None = None
    """Times that every way is timed, in turns; 5 by default."""
    max_concurrent: int = 64
    """Searches in flight, of all problems; a problem has four."""
    policy: str | None = None
    """Folder of a trained toy policy; by default the quickstart's, or random weights if there is
    none."""
    classifier: str | None = None
    """Folder of its value model."""
    seed: int = 0
    """Seed of the searches and of random weights."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        if (self.policy is None) != (self.classifier is None):
            raise InputError("--policy and --classifier go together")
        at_least(1, problems=self.problems, rounds=self.rounds, max_concurrent=self.max_concurrent)


@dataclass(frozen=True)
class DvoTrainArgs:
    """Trained tokens per second of a DVO step."""

    quick: bool = False
    """Take 2 trees of the paper's kind and 3 rounds, instead of 8 trees and 5 rounds."""
    shape: Literal["small", "1.5b"] | None = None
    """Model; by default 1.5b on a GPU, small on a CPU."""
    num_trees: int | None = None
    """Trees of the paper's kind in a step, and twice as many of the toy's."""
    data_path: str | None = None
    """Take --num_trees trees of this data set of data_prep.dvo reference instead of both kinds."""
    rounds: int | None = None
    """Timed steps of each way."""
    seed: int = 0
    """Seed of the trees and the weights."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(1, num_trees=self.num_trees, rounds=self.rounds)


@dataclass(frozen=True)
class TrainStepArgs:
    """Loss tokens per second of a training step."""

    quick: bool = False
    """Take 16 samples and 4 rounds, instead of 64 samples and 5 rounds."""
    shape: Literal["small", "1.5b"] | None = None
    """Model and lengths; by default 1.5b on a GPU, small on a CPU."""
    max_length: int | None = None
    """Longest sample in tokens, prompt included; by default that of the shape."""
    micro_batch_size: int = 8
    """Samples of a padded micro batch; packed ones have as many tokens as these can have."""
    total_batch_size: int | None = None
    """Samples of a step; 64 by default (16 with --quick)."""
    rounds: int | None = None
    """Timed steps of each way; 5 by default (4 with --quick)."""
    seed: int = 0
    """Seed of the samples and the weights."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        if self.total_batch_size is not None and self.total_batch_size % NUM_CUTS:
            raise InputError(
                f"--total_batch_size {self.total_batch_size} is not a multiple of {NUM_CUTS}"
            )
