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

    from run_lib.commands import check_command_line
    from search_lib.search_args import PROGRAM, Args

    ARGUMENTS = check_command_line(Args, PROGRAM, __doc__)

from collections.abc import Callable
from dataclasses import replace

from loggers import open_trackers
from run_lib.commands import naming, parse_shard, run_command
from run_lib.hub import load_tokenizer, quiet_transformers
from run_lib.settings import as_json, free_flags
from search_lib.engines.choice import settle_engine
from search_lib.jobs import Policy, find_stopping, job_factory
from search_lib.model_checks import Contexts
from search_lib.open_models import OpenModels
from search_lib.progress import SearchProgress
from search_lib.prompts import build_prompts, stop_token_ids
from search_lib.recording import Recorder
from search_lib.results.blocks import BlocksFile
from search_lib.results.cost import SearchCost
from search_lib.results.metrics import MetricRow, published_metrics
from search_lib.results.records import RecordFile
from search_lib.results.run_config import RunConfig
from search_lib.results.shards import needed_searches, searches_of, shard_path
from search_lib.results.summary import report
from search_lib.runner import SearchFailure, SearchJob, report_failures, run_searches
from search_lib.scorers.base import Scorer
from search_lib.scorers.texts import TextScorer
from search_lib.search_args import PROGRAM, Args, check_references, load_benchmark
from search_lib.strategies import Strategy
from search_lib.tree_queue import EndedSearch, FoundTrees, TreeQueue, open_judge, problem_trees


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
    stopping = find_stopping(args)
    if stopping and args.stop != "decided":
        args = replace(args, stop_confidence=stopping.threshold)
    index, count = parse_shard(args.shard or "0/1")
    if args.shard:
        args = replace(args, output_path=shard_path(args.output_path, index, count))
    source, problems = load_benchmark(args)
    check_references(args, problems, answer_format)
    instruction = answer_format.instruction or source.instruction
    with naming("--piref_model"):
        tokenizer = load_tokenizer(args.piref_model)
        policy = Policy(tokenizer, stop_token_ids(args.piref_model, tokenizer))
        prompts = build_prompts(tokenizer, problems, instruction, answer_format.thoughts)
    Contexts(args, tokenizer).check(prompts, args.max_length)

    with RecordFile(args.output_path) as records:
        # Find the searches that are there, of this very run.
        config = RunConfig.of(args, problems, output_path=args.output_path.name)
        questions = {problem.id: problem.problem for problem in problems}
        args.vote_flags.open_calibration(questions, config.value_model_digest)
        config.bind(args.output_path, free_flags(Args))
        dealt = searches_of(problems, args.num_repetitions, index, count, stopping is not None)
        searches = {
            (problem.id, repetition): (problem, repetition) for problem, repetition in dealt
        }
        if damaged := records.recover(searches.keys()):
            print(f"{damaged} damaged lines were moved aside; their searches run again")
        blocks = BlocksFile(args.output_path)
        found = FoundTrees.read(args.output_path) if stopping else FoundTrees({}, {})
        needed = needed_searches(list(searches), found.num_trees)
        missing = [searches[key] for key in needed if key not in records.finished]
        if missing and args.save_blocks and (damaged := blocks.recover()):
            print(f"{damaged} damaged lines of {blocks.path} were moved aside")
        at_most = "at most " if stopping and missing else ""
        counts = f"{len(records.finished)} searches are there, {at_most}{len(missing)} to run"
        print(counts, flush=True)

        # Run the others.
        recorder = Recorder(policy, prompts, answer_format, args.confidence)

        def record(ended: EndedSearch) -> None:
            # First the blocks: killed in between, a search has no record and runs again.
            if args.save_blocks and (of := recorder.blocks(ended.job, ended.cost)) is not None:
                blocks.append(of)
            records.append(recorder.record(*ended))

        failures: list[SearchFailure] = []
        if missing:
            waiting = problem_trees(missing, args.num_repetitions, found, stopping)
            with open_judge(stopping, answer_format) as judge:

                def new_queue(scorer: Scorer | TextScorer | None) -> TreeQueue:
                    new_job = job_factory(args, policy, prompts, scorer, args.save_blocks)
                    return TreeQueue(waiting, new_job, recorder.answers, judge)

                work = search(args, models, new_queue, len(missing), record)
                queue, failures = models.run(work)
            if stopping:
                print(f"{queue.num_saved} searches were not needed")
            if queue.num_dropped:
                print(f"{queue.num_dropped} of them were started ahead, and dropped")

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


async def search(
    args: Args,
    models: OpenModels,
    new_queue: Callable[[Scorer | TextScorer | None], TreeQueue],
    num_searches: int,
    record: Callable[[EndedSearch], None],
) -> tuple[TreeQueue, list[SearchFailure]]:
    """Opens the models and runs the searches; each is recorded once it is certain that it counts.

    Without `--stop`, that is the moment it ends.
    """
    engine, scorer = await models.open(args, args.output_path.parent)
    queue = new_queue(scorer)

    with SearchProgress(num_searches, "search") as progress:

        def on_finished(job: SearchJob[Strategy], cost: SearchCost) -> None:
            for ended in queue.finish(job, cost):
                record(ended)
                progress.add(ended.cost)
            progress.save(queue.num_saved)

        # Every search has its scorer with it.
        failures = await run_searches(
            *(queue, engine, None, args.sampling, args.max_concurrent, on_finished),
            room=args.num_blocks if args.speculate else 0,
        )
    return queue, failures


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
    # A search that is given up doesn't wait for the batch that is running; every record is on disk.
    run_command(PROGRAM, lambda: main(ARGUMENTS), at_once=True)
