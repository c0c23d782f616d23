"""The commands behind Table 1 of the DVO paper: rounds, baselines, evaluations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from run_lib.commands import InputError, at_least
from run_lib.settings import free
from scripts.mean_of_runs import Run, check_runs
from scripts.reproduce.cost import find_size, forward
from scripts.reproduce.plan import Command, PlanArgs
from scripts.reproduce.searches import is_run_of
from search_lib.results.statistics import Estimate, estimate_mean

SEEDS = (1, 2, 3)
"""The paper reports the mean of three runs; scripts/dvo_rounds.sh has these seeds."""

BASELINES = ("rft", "dpo", "kto", "step_dpo")

# Assumed for the estimate of the cost: the paper gives no lengths, in tokens.
PROMPT, RESPONSE, STEP = 150, 200, 40


@dataclass(frozen=True)
class DvoPlanArgs(PlanArgs):
    """Flags of the script of DVO."""

    problems: Path = Path("metamath.jsonl")
    """Training problems, a file as for --benchmark of inference_eval.py (docs/reproduce.md)."""
    nproc: int = 8
    """Processes of a training, one a GPU."""
    training_gpu_flops: float = free(2e14)
    """As --gpu_flops, in training: an assumption, too, a fifth of the same peak."""

    def check(self) -> None:
        """Raises InputError for values that no plan can have."""
        at_least(1, nproc=self.nproc)


@dataclass(frozen=True)
class Backbone:
    """A policy that is trained.

    Attributes:
        name: Its name in folders and titles.
        model: Hub id or folder.
        start: Which policy its first line is of: base, or sft where the paper says that it has been
            fine-tuned to answer in steps.
    """

    name: str
    model: str
    start: str


@dataclass(frozen=True)
class DvoScale:
    """The paper's experiment, or the same with a toy policy.

    Attributes:
        backbones: The policies.
        benchmarks: Number of problems by name.
        rounds: Rounds of DVO.
        problems: Training problems of a round.
        samples: Responses to each for the supervised training.
        environment: Further variables of scripts/dvo_rounds.sh.
        baseline_flags: Further flags of scripts/dvo_baselines.sh.
        evaluation_flags: Flags of an evaluation; those that scripts/dvo_rounds.sh gives, too.
        sources: Folders that must be there before.
    """

    backbones: Sequence[Backbone]
    benchmarks: dict[str, int]
    rounds: int
    problems: int
    samples: int
    environment: dict[str, str]
    baseline_flags: Sequence[str]
    evaluation_flags: Sequence[str]
    sources: Sequence[Path] = ()


AS_PUBLISHED = {
    "TREE_FLAGS": "--duplicates drop --backup mean",
    "PATH_FLAGS": "--wrong_paths answers",
}
"""Trees and paths of the published code (docs/dvo.md)."""

PAPER = DvoScale(
    backbones=[
        Backbone("deepseek-math-7b", "deepseek-ai/deepseek-math-7b-instruct", "sft"),
        Backbone("llama-3-8b", "meta-llama/Meta-Llama-3-8B-Instruct", "base"),
    ],
    benchmarks={"gsm8k": 1319, "math": 5000, "agieval-math": 1000},
    rounds=3,
    problems=10_000,
    samples=64,
    environment={**AS_PUBLISHED, "TRAIN_FLAGS": "--parallel fsdp"},
    baseline_flags=[],
    evaluation_flags=["--answer_format", "final_answer"],
)

_TOY_EVALUATION = (
    *("--max_problems", "100", "--max_length", "96", "--temperature", "1.0"),
    *("--engine", "hf", "--attention_impl", "sdpa"),
)

# Those of scripts/dvo_quickstart.sh, in two rounds instead of one.
TOY = DvoScale(
    backbones=[Backbone("toy", "outputs/quickstart/policy", "base")],
    benchmarks={"toy": 100},
    rounds=2,
    problems=75,
    samples=8,
    environment={
        "STEP_DELIMITER": "\n",
        "ANSWER_FORMAT": "boxed",
        "INSTRUCTION": "",
        "SAMPLE_FLAGS": "--max_length 96 --temperature 1.0 --top_p 1.0 --window 144",
        "SFT_DATA_FLAGS": "--max_steps 16",
        "SFT_FLAGS": "--max_lr 1e-4 --total_batch_size 32 --micro_batch_size 32",
        "TREE_FLAGS": f"{AS_PUBLISHED['TREE_FLAGS']} --depth 16 --max_step_tokens 12 "
        "--max_length 96 --window 64",
        "PATH_FLAGS": AS_PUBLISHED["PATH_FLAGS"],
        "TRAIN_FLAGS": "--num_epochs 15 --total_batch_size 16 --no_gradient_checkpointing "
        "--log_every 10 --max_lr 3e-4",
        "EVALUATION_FLAGS": " ".join(_TOY_EVALUATION),
    },
    baseline_flags=[
        *("--num_epochs", "5", "--total_batch_size", "32", "--micro_batch_size", "32"),
        *("--max_lr", "1e-4"),
    ],
    evaluation_flags=["--answer_format", "boxed", *_TOY_EVALUATION],
    sources=[Path("outputs/quickstart/policy")],
)


def scale_of(args: DvoPlanArgs) -> DvoScale:
    """Returns the experiment that the flags ask for."""
    return TOY if args.toy else PAPER


@dataclass(frozen=True)
class DvoRuns:
    """All that is made of one backbone.

    Attributes:
        args: Flags of the script.
        backbone: The policy that is trained.
    """

    args: DvoPlanArgs
    backbone: Backbone

    @property
    def scale(self) -> DvoScale:
        """The experiment."""
        return scale_of(self.args)

    @property
    def folder(self) -> Path:
        """Where everything is."""
        return self.args.out / "dvo" / self.backbone.name

    @property
    def dvo(self) -> str:
        """Name of the policy of the last round."""
        return f"round_{self.scale.rounds}"

    def evaluation(self, policy: str, benchmark: str, seed: int) -> Path:
        """Returns the folder of an evaluation; scripts/dvo_rounds.sh has the same ones."""
        return self.folder / "evaluation" / policy / benchmark / f"seed-{seed}"

    def commands(self) -> list[Command]:
        """Returns the commands, in order."""
        evaluations = [
            self._evaluate(policy, benchmark, seed)
            for policy in BASELINES
            for benchmark in self.scale.benchmarks
            for seed in SEEDS
        ]
        return [*self._toy_problems(), self._rounds(), self._baselines(), *evaluations]

    @property
    def _problems(self) -> Path:
        return self.folder / "problems.parquet" if self.args.toy else self.args.problems

    def _toy_problems(self) -> list[Command]:
        if not self.args.toy:
            return []
        count = self.scale.rounds * self.scale.problems
        words = ["python", "-m", "data_prep.toy.problems", "--output", str(self._problems)]
        words += ["--num_problems", str(count), "--seed", "11"]
        return [Command("toy: training problems", words, 0.0, self._problems.exists)]

    def _rounds(self) -> Command:
        scale = self.scale
        sizes = {"ROUNDS": scale.rounds, "PROBLEMS": scale.problems, "SAMPLES": scale.samples}
        environment = {
            **{name: str(value) for name, value in sizes.items()},
            "EVALUATE": " ".join(scale.benchmarks),
            "NPROC_PER_NODE": str(self._nproc),
            **scale.environment,
        }
        last = self.evaluation(self.dvo, list(scale.benchmarks)[-1], SEEDS[-1])
        sampled = scale.problems * scale.samples * self._forward(RESPONSE)
        # At most 80 expansions of five steps each, half a response from the prompt.
        steps = scale.rounds * scale.problems * 80 * 5
        grown = steps * self._forward(STEP, PROMPT + RESPONSE // 2)
        paths = scale.rounds * scale.problems * 8 * self._forward(RESPONSE)
        evaluated = (2 + scale.rounds) * len(SEEDS) * sum(scale.benchmarks.values())
        return Command(
            f"{self.backbone.name}: supervised training, {scale.rounds} rounds of DVO, evaluations",
            ["scripts/dvo_rounds.sh", self.backbone.model, str(self._problems), str(self.folder)],
            self._if_known(sampled + grown + paths + evaluated * self._forward(RESPONSE)),
            lambda: _load(last) is not None,
            training_flops=3 * (sampled + 3 * paths),
            environment=environment,
            needs=[self._problems, *scale.sources],
        )

    def _baselines(self) -> Command:
        data, policy = self.folder / "round_1_data", self.folder / "sft" / "final"
        # Of a tree: 4 right responses, 4 pairs, 8 responses, 4 pairs of steps; in 3 epochs.
        responses = self.scale.problems * (4 + 8 + 8 + 8) * 3
        return Command(
            f"{self.backbone.name}: training of RFT, DPO, KTO and Step-DPO",
            [
                *("scripts/dvo_baselines.sh", str(data), str(policy), str(self.folder)),
                *self.scale.baseline_flags,
            ],
            self._if_known(0.0),
            lambda: all((self.folder / name / "final").is_dir() for name in BASELINES),
            training_flops=3 * responses * self._forward(RESPONSE),
            environment={"NPROC_PER_NODE": str(self._nproc)},
            needs=[data, policy],
        )

    def _evaluate(self, policy: str, benchmark: str, seed: int) -> Command:
        folder, model = self.evaluation(policy, benchmark, seed), self.folder / policy / "final"
        # As scripts/dvo_rounds.sh evaluates the others.
        arguments = ["--benchmark", benchmark, "--piref_model", str(model), "--scorer", "none"]
        arguments += ["--search_type", "bon", "--num_blocks", "1", "--temperature", "0.7"]
        arguments += ["--top_p", "1.0", "--max_length", "2048", "--max_concurrent", "256"]
        arguments += [*self.scale.evaluation_flags, "--seed", str(seed)]
        arguments += ["--output_path", str(folder / "records.jsonl")]

        def is_done() -> bool:
            run = _load(folder)
            return run is not None and is_run_of(arguments, run.config)

        return Command(
            f"{self.backbone.name}: {policy} on {benchmark}, seed {seed}",
            ["python", "inference_eval.py", *arguments],
            self._if_known(self.scale.benchmarks[benchmark] * self._forward(RESPONSE)),
            is_done,
            needs=[model],
        )

    @property
    def _nproc(self) -> int:
        return 1 if self.args.toy else self.args.nproc

    def _forward(self, tokens: int, prompt: int = PROMPT) -> float:
        """Returns the FLOPs of one response or step; 0 if the policy's size is not known."""
        size = find_size(self.backbone.model)
        return forward(size, 1, tokens, prompt) if size else 0.0

    def _if_known(self, flops: float) -> float | None:
        return flops if find_size(self.backbone.model) else None

    def accuracy(self, policy: str, benchmark: str) -> Estimate | None:
        """Returns the mean over the three runs; None if one is missing or not complete.

        Raises:
            InputError: If they differ in more than their seeds.
        """
        runs = [_load(self.evaluation(policy, benchmark, seed)) for seed in SEEDS]
        there = [run for run in runs if run is not None]
        if len(there) < len(runs):
            return None
        check_runs(there)
        return estimate_mean(np.array([run.accuracies["pass@1", 1] for run in there]).T)


def _load(folder: Path) -> Run | None:
    """Returns a run; None if it is missing or not complete."""
    try:
        return Run.load(folder)
    except InputError:
        return None
