r"""Grows a tree of reasoning steps for every problem: the targets of DVO (its section 4.4.1).

The settings of the paper:

    python -m data_prep.dvo trees --benchmark train.jsonl --answer_format final_answer \
        --model meta-llama/Meta-Llama-3-8B-Instruct --output outputs/dvo/trees

The same on a plain CPU, with the policy that scripts/quickstart.sh makes; its steps are lines:

    python -m data_prep.dvo trees --benchmark toy --model outputs/quickstart/policy \
        --step_delimiter $'\n' --depth 16 --max_step_tokens 12 --max_length 96 \
        --output outputs/dvo/trees

The trees stand in OUTPUT/trees.jsonl, a line each, in the order in which they ended; read them with
`dvo_lib.trees.read_trees`. Killed at any moment, the same command goes on; what is lost is the
trees in flight. With `--shard i/n` they go to OUTPUT/shard-i-of-n/trees.jsonl; a tree does not
depend on n, and the files can be joined with `cat`.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from data_prep.dvo.args import TREES, TreesArgs
    from run_lib.commands import check_command_line

    check_command_line(TreesArgs, TREES, __doc__)

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
import transformers

from data_prep.dvo.args import TREES, TreesArgs
from data_prep.dvo.summary import TreeSummary
from data_prep.sampling import Policy, load_policy
from dvo_lib.trees import (
    SETTINGS_NAME,
    TREES_NAME,
    TreeFile,
    TreeRecord,
    read_trees,
    recorded_steps,
)
from run_lib.commands import (
    InputError,
    naming,
    parse_command_line,
    parse_shard,
    run_command,
)
from run_lib.files import write_json
from run_lib.seeds import derive_seed
from run_lib.settings import Settings, SettingsFile, as_json, free_flags
from run_lib.text import some_of
from search_lib.answer_formats import AnswerFormat, Comparer
from search_lib.benchmarks import Problem, problems_digest
from search_lib.engines.base import Block
from search_lib.engines.choice import settle_engine
from search_lib.engines.factory import open_engine
from search_lib.engines.steps import StepEngine
from search_lib.problem_flags import ProblemFlags
from search_lib.progress import SearchProgress
from search_lib.prompts import build_prompts
from search_lib.results.cost import SearchCost
from search_lib.results.run_config import holds_something
from search_lib.results.shards import shard_path
from search_lib.runner import SearchFailure, SearchJob, report_failures, run_searches
from search_lib.scorers.judge import OutcomeJudge
from search_lib.strategies import Limits
from search_lib.strategies.mcts import MonteCarloTreeSearch

JUDGE_THREADS = 4

TreeJob = SearchJob[MonteCarloTreeSearch]


def trees_path(args: TreesArgs) -> Path:
    """Returns the file of the trees of a run, or of its shard."""
    path = args.output / TREES_NAME
    return shard_path(path, *parse_shard(args.shard)) if args.shard else path


def grow_trees(args: TreesArgs) -> int:
    """Grows the trees that are missing. Returns the exit status; 1 if searches failed.

    Raises:
        InputError: If something that was given can't be used.
        EngineUnavailable: If a server stays away.
        TooManyFailures: If consecutive trees fail.
    """
    engine_flags, answer_format = settle_engine(args.engine_flags), args.find_format()
    args = replace(args, engine_flags=engine_flags, answer_format=answer_format.name)
    args.check()
    index, count = parse_shard(args.shard or "0/1")
    source, problems = args.load()
    policy = load_policy(args.model, "--model")
    prompts = make_prompts(args, policy, problems, answer_format, source.instruction)
    path = trees_path(args)
    with answer_format.open_comparer() as comparer, TreeFile(path, "--output") as file:
        args.check_references(problems, comparer)
        own = {problem.id: problem for problem in problems[index::count]}
        bind_settings(args, own, prompts, policy)
        if damaged := file.recover(own.keys()):
            print(f"{damaged} damaged lines were moved aside; their trees grow again")
        missing = [problem for name, problem in own.items() if name not in file.finished]
        print(f"{path}: {len(file.finished)} trees are there, {len(missing)} to grow", flush=True)
        failures: list[SearchFailure] = []
        if missing:
            forest = Forest(args, policy, prompts, answer_format, comparer)
            failures = asyncio.run(forest.grow(missing, file))
        if file.finished:
            print(TreeSummary.of(read_trees(path)).format(), flush=True)
    return report_failures(failures)


def make_prompts(
    args: TreesArgs,
    policy: Policy,
    problems: Sequence[Problem],
    answer_format: AnswerFormat,
    usual: str,
) -> dict[str, list[int]]:
    """Returns the prompt of each problem, by its id.

    Args:
        args: The command line.
        policy: The policy.
        problems: The problems.
        answer_format: How answers are written.
        usual: Instruction of the benchmark, where neither the command line nor the format has one.

    Raises:
        InputError: If they can't be made, or one with its longest response exceeds the context.
    """
    instruction = args.instruction
    if instruction is None:
        instruction = answer_format.instruction or usual
    with naming("--model"):
        prompts = build_prompts(policy.tokenizer, problems, instruction, answer_format.thoughts)
    too_long = [
        f"{name}: {excess}"
        for name, prompt in prompts.items()
        if (excess := policy.excess(prompt, args.sampling.max_length))
    ]
    if too_long:
        raise InputError(
            f"--max_length {args.sampling.max_length} is too long for {len(too_long)} problems: "
            f"{some_of(too_long, most=3)}"
        )
    return prompts


ADVICE = "Give these trees a folder of their own with --output"


def bind_settings(
    args: TreesArgs,
    problems: Mapping[str, Problem],
    prompts: Mapping[str, list[int]],
    policy: Policy,
) -> None:
    """Saves the settings beside new trees, or compares them with those of the trees there.

    A tree depends on its own problem alone: more problems may come to those of the trees there.

    Args:
        args: The command line.
        problems: Problems of this shard, by id.
        prompts: Their prompts.
        policy: The policy.

    Raises:
        InputError: If other settings, or other problems, have made the trees.
    """
    path = trees_path(args)
    has_trees = holds_something(path)
    flags = {name: value for name, value in as_json(args).items() if name != "output"}
    contents = {"benchmark": problems_digest(list(problems.values())), "model": policy.digest}
    of_problems = {entry.name for entry in fields(ProblemFlags)}
    file = SettingsFile(
        path.with_name(SETTINGS_NAME),
        path,
        ADVICE,
        free_flags(TreesArgs) | of_problems,
        # Earlier versions knew no other.
        parse=lambda document: Settings.load({"think_tags": "auto"} | document),
    )
    settings = Settings(flags, contents)
    file.bind(settings, not has_trees)
    saved = file.read()
    if has_trees and saved and saved.contents.get("benchmark") != contents["benchmark"]:
        check_problems(path, problems, prompts)
        write_json(file.path, settings.document())


def check_problems(
    path: Path, problems: Mapping[str, Problem], prompts: Mapping[str, list[int]]
) -> None:
    """Raises InputError unless every tree of a file is of one of the problems, as it is now."""
    for tree in read_trees(path):
        problem = problems.get(tree.problem_id)
        if problem is None:
            raise InputError(
                f"{path} has the tree of problem {tree.problem_id}, which is none of the "
                f"{len(problems)} asked for now. {ADVICE}"
            )
        now = problem.problem, problem.answer, prompts[tree.problem_id]
        if now != (tree.problem, tree.reference, tree.prompt_ids):
            raise InputError(
                f"{path} has the tree of problem {tree.problem_id} with another question, "
                f"reference or prompt than now. {ADVICE}"
            )


@dataclass(frozen=True)
class Forest:
    """Grows many trees at once through one engine.

    Attributes:
        args: Flags of the run; checked.
        policy: The policy.
        prompts: Token ids of the prompts, by the problem's id.
        answer_format: How answers are written.
        comparer: Compares them with references.
    """

    args: TreesArgs
    policy: Policy
    prompts: Mapping[str, list[int]]
    answer_format: AnswerFormat
    comparer: Comparer

    async def grow(self, problems: Sequence[Problem], file: TreeFile) -> list[SearchFailure]:
        """Loads the policy and grows the trees; each is recorded the moment it ends."""
        args = self.args
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with naming("--model"):
            engine = StepEngine(
                open_engine(args.engine_flags, self.policy.name, device),
                self.policy.tokenizer,
                args.step_delimiter,
            )
        judges = ThreadPoolExecutor(JUDGE_THREADS, thread_name_prefix="judge")
        with SearchProgress(len(problems), "tree") as progress:

            def on_finished(job: TreeJob, cost: SearchCost) -> None:
                file.append(self.record(job, cost))
                progress.add(cost)

            try:
                jobs = self.jobs(problems, judges)
                return await run_searches(
                    jobs, engine, None, args.sampling, args.window, on_finished
                )
            finally:
                await engine.close()
                judges.shutdown(wait=False, cancel_futures=True)

    def jobs(self, problems: Sequence[Problem], judges: Executor) -> Iterator[TreeJob]:
        """Yields the trees that are to grow, made one by one as the runner has room."""
        args = self.args
        limits = Limits(args.sampling.max_length, args.max_step_tokens, self.policy.stop_ids)
        for problem in problems:
            prompt_ids = self.prompts[problem.id]
            prompt = str(self.policy.tokenizer.decode(prompt_ids))
            judge = OutcomeJudge(
                problem.reference,
                len(prompt_ids),
                self.policy.tokenizer,
                partial(self.answer_format.find_answer, prompt),
                self.comparer,
                judges,
            )
            seed = derive_seed(args.sampling.seed, problem.id)
            search = MonteCarloTreeSearch(prompt_ids, limits, seed, args.tree, self.stripped_text)
            yield SearchJob(problem, 0, seed, search, judge)

    def stripped_text(self, block: Block) -> str:
        """Returns the text of a step as the published code compares it with others."""
        return str(self.policy.tokenizer.decode(block.token_ids)).strip()

    def record(self, job: TreeJob, cost: SearchCost) -> TreeRecord:
        """Returns the record of a tree that has grown."""
        search = job.strategy
        texts = self.policy.tokenizer.batch_decode([node.token_ids for node in search.nodes])
        return TreeRecord(
            problem_id=job.problem.id,
            problem=job.problem.problem,
            reference=job.problem.reference,
            seed=job.seed,
            prompt_ids=search.prompt_ids,
            iterations=search.iterations,
            nodes=recorded_steps(search, texts),
            cost=cost,
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_command_line(TreesArgs, TREES, __doc__, argv)
    transformers.utils.logging.disable_progress_bar()
    # A tree that is given up doesn't wait for the batch that is running; whole ones are on disk.
    run_command(TREES, lambda: grow_trees(args), at_once=True)


if __name__ == "__main__":
    main()
