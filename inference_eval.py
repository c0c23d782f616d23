r"""Runs one search setting on one benchmark, writes a record a search and reports the metrics.

The published evaluation: beam width 2, 8 blocks, 16 trees (DVTS), a budget of 8 x 16 = 128:

    python inference_eval.py --benchmark aime-24 --num_blocks 8 --num_repetitions 16 \
        --piref_model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
        --classifier_ckpt_path VGS-AI/DeepSeek-VM-1.5B --output_path outputs/aime-24/records.jsonl

The same on a plain CPU, with the models that scripts/quickstart.sh makes:

    python inference_eval.py --benchmark toy --piref_model outputs/quickstart/policy \
        --classifier_ckpt_path outputs/quickstart/value_model/final --temperature 1.0 --top_p 1.0 \
        --block_size 12 --max_length 96 --num_blocks 4 --num_repetitions 4 --batch_size 64 \
        --output_path outputs/toy/records.jsonl

Plain sampling has `--scorer none --search_type bon`, and needs no value model.

Killed at any moment, the same command goes on; what is lost is the searches in flight. Beside the
records stand `run_config.json`, `metrics.json`, `answers.jsonl` and `blocks.jsonl`: one folder a
run. On n machines the same command with `--shard i/n` (under Slurm: `scripts/search_slurm.sh`),
then `python -m search_lib.results.shards merge`.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from loggers import open_trackers
from run_lib.commands import naming, parse_command_line, parse_shard, run_command
from run_lib.fingerprints import MODEL_FILES, fingerprint
from run_lib.hub import load_tokenizer, quiet_transformers
from run_lib.seeds import derive_seed
from run_lib.settings import as_json, free_flags
from search_lib.benchmarks import Problem, problems_digest
from search_lib.engines.choice import settle_engine
from search_lib.kept_blocks import KeptBlocks
from search_lib.model_checks import check_models
from search_lib.open_models import OpenModels
from search_lib.progress import SearchProgress
from search_lib.prompts import build_prompts, stop_token_ids
from search_lib.recording import Recorder
from search_lib.results.blocks import BlocksFile
from search_lib.results.cost import SearchCost
from search_lib.results.metrics import MetricRow, published_metrics
from search_lib.results.records import RecordFile
from search_lib.results.run_config import RunConfig
from search_lib.results.shards import searches_of, shard_path
from search_lib.results.summary import report
from search_lib.runner import SearchFailure, SearchJob, report_failures, run_searches
from search_lib.scorers.base import Scorer
from search_lib.scorers.texts import ProblemScorer, TextScorer
from search_lib.search_args import Args, check_references, load_benchmark
from search_lib.strategies import Limits, Strategy, StrategyFactory, strategy_factory

PROGRAM = "inference_eval.py"


def main(args: Args) -> int:
    """Runs or resumes an evaluation. Returns the exit status; 1 if searches failed."""
    with OpenModels() as models:
        return evaluate(args, models)


def evaluate(args: Args, models: OpenModels) -> int:
    """Runs or resumes an evaluation with models that other ones may share; see `main`."""
    # Check the flags, and read everything but the weights.
    engine_flags, answer_format = settle_engine(args.engine_flags), args.find_format()
    args = replace(args, engine_flags=engine_flags, answer_format=answer_format.name)
    args.check()
    index, count = parse_shard(args.shard or "0/1")
    if args.shard:
        args = replace(args, output_path=shard_path(args.output_path, index, count))
    source, problems = load_benchmark(args)
    check_references(args, problems, answer_format)
    instruction = answer_format.instruction or source.instruction
    with naming("--piref_model"):
        tokenizer = load_tokenizer(args.piref_model)
        ends = stop_token_ids(args.piref_model, tokenizer)
        prompts = build_prompts(tokenizer, problems, instruction)
    limits = Limits(args.max_length, args.block_size, ends)
    has_values, settings = args.scorer_flags.has_values, args.strategy_settings
    new_strategy = strategy_factory(
        args.search_type, args.num_blocks, limits, has_values, settings, args.confidence
    )
    check_models(args, tokenizer, prompts)

    with RecordFile(args.output_path) as records:
        # Find the searches that are there, of this very run.
        config = run_config(args, problems)
        questions = {problem.id: problem.problem for problem in problems}
        args.vote_flags.open_calibration(questions, config.value_model_digest)
        config.bind(args.output_path, free_flags(Args))
        searches = {
            (problem.id, repetition): (problem, repetition)
            for problem, repetition in searches_of(problems, args.num_repetitions, index, count)
        }
        if damaged := records.recover(searches.keys()):
            print(f"{damaged} damaged lines were moved aside; their searches run again")
        blocks = BlocksFile(args.output_path)
        missing = [search for key, search in searches.items() if key not in records.finished]
        if missing and args.save_blocks and (damaged := blocks.recover()):
            print(f"{damaged} damaged lines of {blocks.path} were moved aside")
        print(f"{len(records.finished)} searches are there, {len(missing)} to run", flush=True)

        # Run the others.
        recorder = Recorder(tokenizer, prompts, ends, answer_format, args.confidence)

        def record(job: SearchJob[Strategy], cost: SearchCost) -> None:
            # First the blocks: killed in between, a search has no record and runs again.
            if args.save_blocks and (of_search := recorder.blocks(job, cost)) is not None:
                blocks.append(of_search)
            records.append(recorder.record(job, cost))

        failures: list[SearchFailure] = []
        if missing:
            jobs = make_jobs(args, missing, prompts, new_strategy)

            def reading(scorer: TextScorer, problem: Problem) -> ProblemScorer:
                prompt_length = len(prompts[problem.id])
                return ProblemScorer(scorer, problem.problem, prompt_length, tokenizer)

            failures = models.run(search(args, models, jobs, len(missing), record, reading))

        # Vote, and report.
        if not records.finished:
            print("no search has ended well: there is nothing to report")
        elif args.shard is None:
            rows = report(args.output_path, config)
            if args.neptune_project:
                log_to_neptune(args, args.neptune_project, rows)
        else:
            print(f"shard {args.shard}: {len(records.finished)} searches in {args.output_path}")

    return report_failures(failures)


def run_config(args: Args, problems: list[Problem]) -> RunConfig:
    """Returns the settings that the results depend on, for `run_config.json`."""
    value_model = args.value_model
    named = {"output_path": args.output_path.name, "classifier_ckpt_path": value_model}
    return RunConfig(
        flags=as_json(args) | named,
        fingerprints={
            "benchmark": problems_digest(problems),
            "piref_model": fingerprint(args.piref_model, MODEL_FILES),
            "classifier_ckpt_path": value_model and fingerprint(value_model, MODEL_FILES),
        },
        problem_ids=[problem.id for problem in problems],
    )


def make_jobs(
    args: Args,
    missing: list[tuple[Problem, int]],
    prompts: dict[str, list[int]],
    new_strategy: StrategyFactory,
) -> Iterator[SearchJob[Strategy]]:
    """Yields the searches that are to run, made one by one as the runner has room."""
    for problem, repetition in missing:
        own_seed = derive_seed(args.seed, problem.id, repetition)
        strategy = new_strategy(prompts[problem.id], own_seed)
        kept = KeptBlocks() if args.save_blocks or args.confidence else None
        yield SearchJob(problem, repetition, own_seed, strategy, kept=kept)


async def search(
    args: Args,
    models: OpenModels,
    jobs: Iterator[SearchJob[Strategy]],
    num_jobs: int,
    record: Callable[[SearchJob[Strategy], SearchCost], None],
    reading: Callable[[TextScorer, Problem], ProblemScorer],
) -> list[SearchFailure]:
    """Opens the models and runs the searches; each is recorded the moment it ends.

    Args:
        args: The flags.
        models: Opens the models.
        jobs: The searches.
        num_jobs: How many there are.
        record: Records a search that has ended.
        reading: Makes a scorer of texts one of the searches on a problem.
    """
    engine, scorer = await models.open(args)
    if isinstance(scorer, TextScorer):
        jobs = own_scorers(jobs, partial(reading, scorer))

    with SearchProgress(num_jobs, "search") as progress:

        def on_finished(job: SearchJob[Strategy], cost: SearchCost) -> None:
            record(job, cost)
            progress.add(cost)

        shared = None if isinstance(scorer, TextScorer) else scorer
        return await run_searches(
            jobs, engine, shared, args.sampling, args.max_concurrent, on_finished
        )


def own_scorers(
    jobs: Iterator[SearchJob[Strategy]], scorer_of: Callable[[Problem], Scorer]
) -> Iterator[SearchJob[Strategy]]:
    """Yields the searches, each with a scorer that knows its problem."""
    for job in jobs:
        yield replace(job, scorer=scorer_of(job.problem))


def log_to_neptune(args: Args, project: str, rows: list[MetricRow]) -> None:
    """Logs accuracies and 95 % intervals under the published names; a step is a budget."""
    trackers = open_trackers(
        args.output_path.parent,
        as_json(args),
        ["neptune"],
        run_name=args.output_path.stem,
        neptune_project=project,
        tags=args.logger_tags,
    )
    for budget, metrics in published_metrics(args.benchmark, rows).items():
        trackers.log(metrics, step=budget)
    trackers.close()


if __name__ == "__main__":
    quiet_transformers()
    arguments = parse_command_line(Args, PROGRAM, __doc__)
    # A search that is given up doesn't wait for the batch that is running; every record is on disk.
    run_command(PROGRAM, lambda: main(arguments), at_once=True)
