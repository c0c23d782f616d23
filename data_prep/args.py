"""The flags of the stages, and the checks of their values; imports no model and no table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from run_lib.commands import InputError, at_least, naming, parse_shard
from search_lib.answer_formats import ANSWER_FORMATS, AnswerFormatName
from search_lib.benchmarks import MATH_INSTRUCTION
from search_lib.engines.base import Sampling
from search_lib.engines.flags import EngineFlags
from search_lib.thoughts import ThinkTags, Thoughts

CLEAN = "data_prep.clean"
ROLL_IN = "data_prep.roll_in"
ROLL_OUT = "data_prep.roll_out"
LABEL = "data_prep.label"

CutLaw = Literal["sqrt", "uniform", "step"]

BLANK_LINE = "\n\n"
"""The delimiter of the DVO paper."""


@dataclass(frozen=True, kw_only=True)
class CleanArgs:
    """Clean a set of problems, and divide it into train, validation and test."""

    input: str
    """Problems: .parquet, .jsonl, .json or .csv file, folder of Parquet files, or hub id."""
    output: Path
    """Folder to write to."""
    config: str | None = None
    """Configuration of a hub data set, where it has several; by default its own choice."""
    decontaminate: tuple[str, ...] = ()
    """Benchmarks whose problems must not be in the output: names of search_lib.benchmarks, .jsonl
    or .parquet files, or hub ids."""
    ngram: int = 13
    """Words of a run. A problem with a third of a benchmark problem's runs is left out; of a
    benchmark problem that is shorter than a run, it must have all words in a row."""
    num_validation: int = 500
    """Problems of the validation split."""
    num_test: int = 500
    """Problems of the test split."""
    seed: int = 0
    """Seed of the division into splits, which doesn't depend on the order of the rows."""
    rows_per_file: int = 1000
    """Rows that make one file; so many are in memory at once, and a kill loses their work."""
    num_workers: int = 2
    """Processes that check answers."""
    shard: str = "0/1"
    """Part i/n of the checking, i from 0. The output does not depend on n."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(
            1, ngram=self.ngram, num_workers=self.num_workers, rows_per_file=self.rows_per_file
        )
        at_least(0, num_validation=self.num_validation, num_test=self.num_test)
        parse_shard(self.shard)
        if self.config is not None and Path(self.input).exists():
            raise InputError(
                f"--config {self.config} is for hub data sets; --input {self.input} is local"
            )


@dataclass(frozen=True)
class ResponseSampling(Sampling):
    """How responses are drawn. The rows depend on all of these flags."""

    max_length: int = 16384
    """Tokens of a whole response at most, those before a cut included."""
    seed: int = 0
    """Every random draw derives from this, the row's id and the place of the draw in the row."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        super().check()
        at_least(1, max_length=self.max_length)


@dataclass(frozen=True, kw_only=True)
class GenerationArgs:
    """Flags of the stages that generate."""

    input: str
    output: Path
    engine_flags: EngineFlags = EngineFlags(sglang_patience=3600.0, gpu_util=0.85)
    """How responses are generated. A stage runs for days: it waits longer for a server than a
    search does. No value model shares its GPU."""
    sampling: ResponseSampling = ResponseSampling()
    """How responses are drawn. The rows depend on all of these flags."""
    window: int = 32
    """Problems in flight at once: the engine sees the requests of all of them. At most three times
    as many are in memory, those that wait for the rest of their file included."""
    shard: str = "0/1"
    """Part i/n of the work, i from 0. The rows do not depend on n."""

    def check(self) -> None:
        """Raises InputError for values that no run can have; `settle_engine` checks the engine."""
        self.engine_flags.check_values()
        self.sampling.check()
        parse_shard(self.shard)


@dataclass(frozen=True, kw_only=True)
class RollInArgs(GenerationArgs):
    """Sample roll-ins for every problem."""

    input: str
    """Problems: output folder of data_prep.clean, .parquet, .jsonl, .json or .csv file, folder of
    Parquet files, or hub id."""
    output: Path
    """Folder; every model gets one below it."""
    models: tuple[str, ...]
    """Policies with their number of roll-ins a problem: folder or hub id, a colon, a number."""
    splits: tuple[str, ...] = ()
    """Splits of the input to roll in; by default all."""
    answer_format: AnswerFormatName = "boxed"
    """How the policy is asked to write its answer, and data_prep.label reads it: boxed,
    final_answer or choice."""
    think_tags: ThinkTags = "auto"
    """Two texts that begin and end a thought: prompts end with the first and a line break, and an
    answer stands behind the second. none: the policies don't think before they answer. auto:
    <think> </think>, which prompts open for tokenizers of DeepSeek-R1's kind, and for others where
    their chat template does."""
    instruction: str | None = None
    """Text of the prompt after the problem, instead of what the answer format asks for."""
    rows_per_file: int = 16
    """Problems that make one file; a kill loses the files in the making."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        super().check()
        with naming("--think_tags"):
            Thoughts.of(self.think_tags)
        if self.window < self.rows_per_file:
            raise InputError(
                f"--window {self.window} must be at least --rows_per_file {self.rows_per_file}"
            )

    @property
    def prompt_text(self) -> str:
        """Text of the prompt after the problem."""
        if self.instruction is not None:
            return self.instruction
        return ANSWER_FORMATS[self.answer_format].instruction or MATH_INSTRUCTION


@dataclass(frozen=True)
class CutFlags:
    """Where roll-ins are cut, and how often each prefix is completed."""

    num_cuts: int = 4
    """Cuts of a roll-in."""
    num_completions: int = 1
    """Completions of a prefix."""
    cut: CutLaw = "sqrt"
    """Where a roll-in of n tokens is cut: sqrt draws the prefix length i in 1..n-1 with probability
    proportional to sqrt(i), uniform each alike, step at the ends of steps (uniform where there is
    none)."""
    step_delimiter: str = BLANK_LINE
    """Text that ends a step, for --cut step."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(1, num_cuts=self.num_cuts, num_completions=self.num_completions)
        check_delimiter(self.step_delimiter)


def check_delimiter(delimiter: str) -> None:
    """Raises InputError for a value of `--step_delimiter` with which no step would ever end."""
    if not delimiter:
        raise InputError("--step_delimiter must not be empty")
    if "\\n" in delimiter:
        raise InputError("--step_delimiter has a backslash and an n: bash writes a newline $'\\n'")


@dataclass(frozen=True, kw_only=True)
class RollOutArgs(GenerationArgs):
    """Cut roll-ins and complete the prefixes."""

    input: str
    """Output folder of data_prep.roll_in."""
    output: Path
    """Folder to write to."""
    model: str
    """The policy that completes: folder or hub id. The value model learns its values."""
    cuts: CutFlags = CutFlags()
    """Where roll-ins are cut, and how often each prefix is completed."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        super().check()
        self.cuts.check()


@dataclass(frozen=True, kw_only=True)
class LabelArgs:
    """Grade roll-outs and assemble the training set."""

    input: Path
    """Output folder of data_prep.roll_out."""
    output: Path
    """Folder to write to."""
    tokenizer: str
    """Folder or hub id of the policy whose token ids these are."""
    soft_labels: bool = False
    """Adds the column soft_labels; of use when prefixes have several completions.
    train_classifier.py --loss mse works them out itself."""
    keep_unsolved: bool = False
    """Keep problems without a correct response, too."""
    rows_per_file: int = 64
    """Problems that make one file, and are in memory together."""
    num_workers: int = 2
    """Processes that check answers."""
    push_to_hub: str | None = None
    """Uploads the finished data set to this repository, owner/name."""
    shard: str = "0/1"
    """Part i/n of the work, i from 0. The rows do not depend on n."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(1, num_workers=self.num_workers)
        if self.push_to_hub is not None and self.push_to_hub.count("/") != 1:
            raise InputError(f"--push_to_hub {self.push_to_hub}: expected owner/name")
        parse_shard(self.shard)
