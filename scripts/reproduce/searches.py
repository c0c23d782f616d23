"""The runs of `inference_eval.py` that tables and figures of the VGS paper are made of."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from run_lib.commands import at_least, parse_command_line
from run_lib.settings import as_json, free, free_flags
from run_lib.text import some_of
from scripts.compare import Curve, load_run
from scripts.reproduce.cost import find_size, forward
from scripts.reproduce.plan import Command, PlanArgs
from search_lib.answer_rules import ANSWER_RULES, RulesName
from search_lib.results.metrics import MetricRow, metrics_name
from search_lib.results.run_config import RunConfig
from search_lib.results.selection import Selection
from search_lib.results.statistics import Estimate
from search_lib.search_args import Args as SearchFlags


@dataclass(frozen=True)
class SearchPlanArgs(PlanArgs):
    """Flags of the scripts whose commands are searches."""

    num_runs: int = 1
    """Independent runs of each budget. The published intervals, over searches on the same problems,
    need two."""
    search_flags: str = ""
    """Further flags of every search, in one text: --search_flags="--engine sglang_server". The last
    one of a flag counts."""
    answers: RulesName = free("published")
    """How answers are counted: published as the published code does, or strict
    (docs/search.md)."""


class Policy(NamedTuple):
    """A policy, and the budget of its line in the main table.

    Attributes:
        name: Its name in tables.
        model: Hub id or folder.
        budget: N, in blocks in flight x trees, or samples.
    """

    name: str
    model: str
    budget: int


class Setting(NamedTuple):
    """One way to search.

    Attributes:
        search_type: See `--search_type`.
        num_blocks: Blocks of a tree.
        block_size: Tokens of a block.
        by_prm: Whether `PRM` guides it in the place of the value model.
    """

    search_type: str
    num_blocks: int
    block_size: int
    by_prm: bool = False


@dataclass(frozen=True)
class Scale:
    """The paper's experiments, or the same with toy models.

    Attributes:
        policies: The policies, the one of the ablations first.
        benchmarks: Flags that choose the problems, by name of the set.
        means: Names of the sets that are averaged, by name of the mean.
        num_problems: Problems of a set.
        value_model: Hub id or folder.
        vgs: The published search.
        prm_sets: Names of the sets on which it is guided by `PRM`, too.
        flags: Further flags of every search.
        prompt_tokens: Tokens of a prompt, assumed for the estimate of the cost.
        vgs_tokens: Mean tokens of a response of VGS, for the same.
        sample_tokens: Mean tokens of an independent sample, for the same.
        sources: Folders that must be there before.
    """

    policies: Sequence[Policy]
    benchmarks: dict[str, Sequence[str]]
    means: dict[str, Sequence[str]]
    num_problems: int
    value_model: str
    vgs: Setting
    flags: Sequence[str]
    prompt_tokens: int
    vgs_tokens: int
    sample_tokens: int
    sources: Sequence[Path] = ()
    prm_sets: Sequence[str] = ()


_SETS = ("aime-24", "aime-25", "hmmt-feb-24", "hmmt-feb-25")

PRM = "Qwen/Qwen2.5-Math-PRM-7B"
PRM_FOLDER = Path("outputs/Qwen2.5-Math-PRM-7B")
"""A copy of it whose config lets it read whole responses: docs/reproduce.md says how it is made."""

_SETS_OF_2025 = ("aime-25", "hmmt-feb-25")

PAPER = Scale(
    policies=[
        Policy("1.5B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 256),
        Policy("7B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 128),
        Policy("14B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 64),
    ],
    benchmarks={name: ["--benchmark", name] for name in _SETS},
    means={"the two of 2025": _SETS_OF_2025, "all four": _SETS},
    num_problems=30,
    value_model="VGS-AI/DeepSeek-VM-1.5B",
    vgs=Setting("beam2", 8, 4096),
    flags=["--temperature", "0.6", "--top_p", "0.95", "--max_length", "16384", "--seed", "7996"],
    prompt_tokens=200,
    # The paper's mean lengths, which are all that is published.
    vgs_tokens=11_219,
    sample_tokens=12_793,
    prm_sets=_SETS_OF_2025,
)

_TOY_SETS = ("toy-1", "toy-2", "toy-3", "toy-4")
_QUICKSTART = Path("outputs/quickstart")

TOY = Scale(
    policies=[Policy("toy", str(_QUICKSTART / "policy"), 64)],
    benchmarks={
        name: ["--benchmark", "toy", "--skip_problems", str(15 * place), "--max_problems", "15"]
        for place, name in enumerate(_TOY_SETS)
    },
    means={"all four": _TOY_SETS},
    num_problems=15,
    value_model=str(_QUICKSTART / "value_model" / "final"),
    vgs=Setting("beam2", 8, 12),
    flags=[
        *("--temperature", "1.0", "--top_p", "1.0", "--max_length", "96", "--seed", "7996"),
        *("--engine", "hf", "--attention_impl", "sdpa"),
    ],
    prompt_tokens=30,
    vgs_tokens=50,
    sample_tokens=50,
    sources=[_QUICKSTART / "policy", _QUICKSTART / "value_model" / "final"],
)


def scale_of(args: PlanArgs) -> Scale:
    """Returns the experiments that the flags ask for."""
    return TOY if args.toy else PAPER


SAMPLES = Setting("bon", 1, 0)
"""Independent samples without a value model: the majority vote of the main table."""


@dataclass(frozen=True)
class SearchRun:
    """One run: a policy, a problem set and a way to search.

    Attributes:
        args: Flags of the script.
        policy: The policy.
        benchmark: Name of the problem set.
        setting: The search; `SAMPLES` has no value model.
    """

    args: SearchPlanArgs
    policy: Policy
    benchmark: str
    setting: Setting

    @property
    def trees(self) -> int:
        """Trees that make the policy's budget."""
        return self.policy.budget // self.setting.num_blocks

    @property
    def name(self) -> str:
        """The policy, the problem set and the search."""
        kind, blocks, size, by_prm = self.setting
        search = kind if self.setting == SAMPLES else f"{kind}-{blocks}x{size}"
        search += "-prm" if by_prm else ""
        return f"{self.policy.name}/{self.benchmark}/{search}"

    @property
    def folder(self) -> Path:
        """Where the run is; it depends on all that the scripts vary."""
        num_trees = self.trees * self.args.num_runs
        return self.args.out / self.name / f"trees-{num_trees}"

    @cached_property
    def arguments(self) -> list[str]:
        """The arguments of inference_eval.py."""
        scale = scale_of(self.args)
        search_type, num_blocks, block_size, by_prm = self.setting
        flags = [*scale.benchmarks[self.benchmark], "--piref_model", self.policy.model]
        if self.setting == SAMPLES:
            flags += ["--scorer", "none", "--search_type", search_type]
        else:
            flags += ["--scorer", "prm"] if by_prm else []
            flags += ["--classifier_ckpt_path", str(PRM_FOLDER) if by_prm else scale.value_model]
            flags += ["--search_type", search_type, "--block_size", str(block_size)]
        flags += ["--num_blocks", str(num_blocks)]
        flags += ["--num_repetitions", str(self.trees * self.args.num_runs), *scale.flags]
        # 256 blocks in flight.
        flags += ["--max_concurrent", str(max(1, 256 // num_blocks))]
        flags += ["--answers", self.args.answers, *shlex.split(self.args.search_flags)]
        return [*flags, "--output_path", str(self.folder / "records.jsonl")]

    @cached_property
    def flops(self) -> float | None:
        """FLOPs of policy and scorer; see `scripts.reproduce.cost`."""
        scale = scale_of(self.args)
        responses = scale.num_problems * self.policy.budget * self.args.num_runs
        policy = find_size(self.policy.model)
        scorer = find_size(PRM if self.setting.by_prm else scale.value_model)
        if policy is None or scorer is None:
            return None
        if self.setting == SAMPLES:
            return forward(policy, responses, scale.sample_tokens, scale.prompt_tokens)
        sizes = (policy, scorer)
        return sum(forward(s, responses, scale.vgs_tokens, scale.prompt_tokens) for s in sizes)

    @property
    def command(self) -> Command:
        """The command that makes the run, or goes on with it."""
        sources = scale_of(self.args).sources
        return Command(
            f"{self.name}, N = {self.policy.budget}",
            ["python", "inference_eval.py", *self.arguments],
            self.flops,
            lambda: self.curves is not None,
            needs=[*sources, PRM_FOLDER] if self.setting.by_prm else sources,
        )

    @property
    def curves(self) -> dict[str, Curve] | None:
        """Its curves by method; None if it is not complete, or has other flags than the command.

        Raises:
            InputError: If its files are damaged.
        """
        metrics = self.folder / metrics_name(ANSWER_RULES[self.args.answers])
        config = RunConfig.load(self.folder)
        if config is None or not metrics.exists() or not is_run_of(self.arguments, config):
            return None
        try:
            loaded = load_run(Selection(self.name, metrics, None, False))
        except ValueError:  # no complete problem
            return None
        is_complete = list(loaded.problems.ids) == sorted(config.problem_ids)
        return loaded.curves if is_complete else None

    def point(self, method: str, budget: int | None = None) -> MetricRow | None:
        """Returns the accuracy at a budget, by default the policy's; None if it is not there."""
        curves = self.curves or {}
        return curves.get(method, {}).get(budget or self.policy.budget)


def is_run_of(arguments: Sequence[str], config: RunConfig) -> bool:
    """Returns whether all that a command of inference_eval.py says of its results holds for a run.

    Raises:
        SystemExit: If the arguments can't be read; the lines on standard error name the flag.
    """
    asked = as_json(parse_command_line(SearchFlags, "inference_eval.py", None, arguments))
    words = [word for word in arguments if word.startswith("--")]
    named = {word[2:].partition("=")[0].replace("-", "_") for word in words}
    # The engine is settled when the run starts, and the path is saved as a name.
    bound = named - free_flags(SearchFlags) - {"engine", "output_path"}
    return all(config.flags.get(name) == asked.get(name) for name in bound)


def check_flags(args: SearchPlanArgs) -> None:
    """Raises InputError for a number of runs that can't be; exits for bad `--search_flags`."""
    at_least(1, num_runs=args.num_runs)
    scale = scale_of(args)
    first = SearchRun(args, scale.policies[0], next(iter(scale.benchmarks)), SAMPLES)
    parse_command_line(SearchFlags, "inference_eval.py", None, first.arguments)


def mean_point(points: Sequence[MetricRow | None]) -> MetricRow | None:
    """Returns the mean over problem sets, each of the same weight; None if one is missing.

    The sets are independent: of S sets the half-width is the root of the summed squares, over S.
    """
    there = [point for point in points if point is not None]
    if len(there) < len(points) or not there:
        return None
    estimates = [point.estimate for point in there]

    def combine(half_widths: list[float | None]) -> float | None:
        known = [width for width in half_widths if width is not None]
        return float(np.hypot.reduce(known)) / len(points) if len(known) == len(points) else None

    estimate = Estimate(
        float(np.mean([one.mean for one in estimates])),
        combine([one.over_problems for one in estimates]),
        combine([one.over_searches for one in estimates]),
        sum(one.num_problems for one in estimates),
        min(one.num_repetitions for one in estimates),
    )
    scores = [score for point in there for score in point.per_problem]
    return replace(there[0], estimate=estimate, per_problem=scores)


def mean_curve(runs: Sequence[SearchRun], method: str) -> Curve:
    """Returns the mean over the problem sets of runs, at budgets up to the policy's."""
    curves = [(run.curves or {}).get(method, {}) for run in runs]
    most = runs[0].policy.budget
    budgets = sorted(of for of in set.intersection(*map(set, curves)) if of <= most)
    points = {budget: mean_point([curve[budget] for curve in curves]) for budget in budgets}
    return {budget: point for budget, point in points.items() if point is not None}


def runs_of(args: SearchPlanArgs, policy: Policy, setting: Setting) -> list[SearchRun]:
    """Returns the runs of a way to search, one a problem set."""
    scale = scale_of(args)
    names = scale.prm_sets if setting.by_prm else scale.benchmarks
    return [SearchRun(args, policy, name, setting) for name in names]


def format_missing(runs: Sequence[SearchRun]) -> str:
    """Returns a line that names the runs that are not there; empty if all are."""
    return name_missing([run.name for run in runs if run.curves is None])


def name_missing(names: Sequence[str]) -> str:
    """Returns a line that names what is missing; empty if nothing is."""
    return f"missing, or not complete: {len(names)}, {some_of(names)}" if names else ""
