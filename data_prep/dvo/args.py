"""The flags of the commands of DVO's data, and the checks of their values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.args import BLANK_LINE, ResponseSampling, check_delimiter
from run_lib.commands import InputError, at_least, parse_shard
from run_lib.fingerprints import MODEL_FILES, fingerprint
from run_lib.settings import free
from search_lib.answer_formats import AnswerFormatName
from search_lib.engines.flags import EngineFlags
from search_lib.problem_flags import AskingFlags, ProblemFlags
from search_lib.strategies.mcts import TreeSettings

PROBLEMS = "data_prep.dvo problems"
SFT = "data_prep.dvo sft"
TREES = "data_prep.dvo trees"
DVO_PATHS = "data_prep.dvo paths"
DVO_REFERENCE = "data_prep.dvo reference"
EXPORT = "data_prep.dvo export"

FormatName = Literal["dvo", "rft", "dpo", "kto", "step_dpo"]


@dataclass(frozen=True, kw_only=True)
class ProblemsArgs(ProblemFlags):
    """Give every round of DVO problems of its own."""

    output: Path = free()
    """Folder to write to."""
    num_rounds: int = 3
    """Rounds."""
    problems_per_round: int = 10_000
    """Problems of a round."""
    seed: int = 0
    """Seed of the order in which the problems are dealt out."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(1, num_rounds=self.num_rounds, problems_per_round=self.problems_per_round)


@dataclass(frozen=True, kw_only=True)
class SftArgs:
    """Choose a policy's own right responses in steps."""

    input: Path
    """Output folder of data_prep.roll_in, that of one model."""
    output: Path = free()
    """File of JSON lines to write. Beside it: <output>.config.json and <output>.report.json."""
    answer_format: AnswerFormatName = "boxed"
    r"""How an answer is written, and compared: boxed (\boxed{42}), final_answer (Final Answer: 42,
    or Answer: 42, to the end of the line), choice (Final Answer: (B), a letter of A to E)."""
    step_delimiter: str = BLANK_LINE
    """Text that ends a step, and is part of it."""
    min_steps: int = 2
    """Fewest steps of a response."""
    max_steps: int = 8
    """Most steps of a response; best the --depth of the trees."""
    per_problem: int = 64
    """Most responses to a problem."""
    seed: int = 0
    """Seed of the draw among more of them."""
    split: Literal["train", "validation", "test"] = "train"
    """Split of the input."""
    tokenizer: str | None = None
    """Folder or Hub id of the policy; by default the one that the roll-ins are of."""
    num_workers: int = free(2)
    """Processes that check answers."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(
            1,
            min_steps=self.min_steps,
            max_steps=self.max_steps,
            per_problem=self.per_problem,
            num_workers=self.num_workers,
        )
        if self.min_steps > self.max_steps:
            raise InputError(
                f"--min_steps {self.min_steps} is more than --max_steps {self.max_steps}"
            )
        check_delimiter(self.step_delimiter)


@dataclass(frozen=True, kw_only=True)
class TreesArgs(AskingFlags):
    """Monte Carlo tree search over reasoning steps, a tree a problem."""

    model: str
    """The policy that writes the steps: Hub id or folder."""
    output: Path
    """Folder of the trees, trees.jsonl, and of their settings."""
    tree: TreeSettings = TreeSettings()
    step_delimiter: str = BLANK_LINE
    """Text that ends a step, and is part of it."""
    max_step_tokens: int = 1024
    """Most tokens of a step; a longer one is cut there, and continued as the next."""
    sampling: ResponseSampling = ResponseSampling(temperature=1.0, top_p=1.0, max_length=4096)
    instruction: str | None = None
    """Added to the question, instead of what the answer format or benchmark asks for."""
    engine_flags: EngineFlags = EngineFlags(sglang_patience=3600.0, gpu_util=0.85)
    window: int = free(32)
    """Trees in flight at once. Each has one leaf at the engine, of which it wants as many steps as
    the breadth."""
    shard: str | None = None
    """Part i/n of the problems, i from 0, for n machines with one command but for this."""

    def check(self) -> None:
        """Raises InputError for values that no run can have; `settle_engine` checks the engine."""
        self.engine_flags.check_values()
        self.tree.check()
        self.sampling.check()
        at_least(1, max_step_tokens=self.max_step_tokens, window=self.window)
        check_delimiter(self.step_delimiter)
        parse_shard(self.shard or "0/1")


@dataclass(frozen=True, kw_only=True)
class PathsArgs:
    """Draw paths from trees, with the credit of each step."""

    input: tuple[Path, ...]
    """Files of trees, or output folders of data_prep.dvo trees."""
    output: Path
    """Folder to write to."""
    paths_per_side: int = 4
    """Most right paths of a tree, and most wrong ones."""
    min_visits: int = 1
    """Paths with a step before the last that has fewer visits are left out."""
    wrong_paths: Literal["all", "answers"] = "all"
    """all: also responses that ended without an answer, or were cut for their length or depth;
    answers, as published: those with a wrong answer only."""
    validation_share: float = 0.05
    """Share of the problems that go to validation, in [0, 1)."""
    seed: int = 0
    """Seed of the draws."""
    targets: Literal["mcts", "value_model"] = "mcts"
    """Where the values of states come from: the tree, or --classifier_ckpt_path."""
    classifier_ckpt_path: str | None = None
    """Folder or Hub id of the value model of --targets value_model."""
    level: Literal["step", "response"] = "step"
    """What has a credit: each step, or the whole response as one step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the value model's computation."""
    max_batch_tokens: int = 65_536
    """Tokens of a forward of the value model; changes values by rounding only."""
    rows_per_file: int = 256
    """Trees that make one file, and are in memory together."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(
            1,
            paths_per_side=self.paths_per_side,
            max_batch_tokens=self.max_batch_tokens,
            rows_per_file=self.rows_per_file,
        )
        at_least(0, min_visits=self.min_visits)
        if not 0 <= self.validation_share < 1:
            raise InputError(f"--validation_share must be in [0, 1), got {self.validation_share}")
        if (self.targets == "value_model") != (self.classifier_ckpt_path is not None):
            raise InputError("--targets value_model and --classifier_ckpt_path go together")

    @property
    def settings(self) -> dict[str, Any]:
        """All that the rows depend on, but for the trees."""
        names = ["paths_per_side", "min_visits", "wrong_paths"]
        names += ["validation_share", "seed", "targets", "level"]
        settings = {name: getattr(self, name) for name in names}
        if self.classifier_ckpt_path is not None:
            settings |= {
                "classifier_ckpt_path": self.classifier_ckpt_path,
                "classifier_ckpt_path_digest": fingerprint(self.classifier_ckpt_path, MODEL_FILES),
                "dtype": self.dtype,
            }
        return settings


@dataclass(frozen=True, kw_only=True)
class ReferenceArgs:
    """Store the log-probabilities of paths under the reference policy."""

    input: Path
    """Output folder of data_prep.dvo paths."""
    output: Path
    """Folder to write to."""
    model: str
    """Folder or Hub id of the policy that made the trees."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; best that of training."""
    attention_impl: Literal["auto", "sdpa", "flex_attention"] = "auto"
    """Attention of trees. auto: flex_attention on a GPU, sdpa on a CPU."""
    max_batch_tokens: int = 16_384
    """Tokens of a forward pass, shared ones once; a path longer than that goes alone. Changes
    log-probabilities by rounding only."""
    shard: str = "0/1"
    """Part i/n of the work, i from 0. The rows do not depend on n."""

    def check(self) -> None:
        """Raises InputError for values that no run can have."""
        at_least(1, max_batch_tokens=self.max_batch_tokens)
        parse_shard(self.shard)


@dataclass(frozen=True, kw_only=True)
class ExportArgs:
    """Write paths as JSON lines for other trainers."""

    input: Path
    """Output folder of data_prep.dvo paths or reference, or a file that --format dvo wrote."""
    output: Path = free()
    """File of JSON lines to write. Beside it: <output>.config.json."""
    format: FormatName
    """Format of the lines."""
    split: Literal["train", "validation"] = "train"
    """Split of a folder."""
    tokenizer: str | None = None
    """Folder or Hub id of the policy that made the trees, where --input doesn't say it."""
