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

Killed at any moment, the same command goes on; what is lost is the searches in flight. Beside the
records stand `run_config.json` and `metrics.json`: one folder a run. On n machines the same command
with `--shard i/n` (under Slurm: `scripts/search_slurm.sh`), then
`python -m search_lib.results.shards merge`.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import tyro
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from classifier_lib.loading import load_value_config
from loggers import open_trackers
from run_lib.commands import InputError, parse_shard
from run_lib.fingerprints import MODEL_FILES, fingerprint
from run_lib.hub import check_vocabulary, load_config
from run_lib.seeds import derive_seed
from search_lib.benchmarks import Problem, find_benchmark, load_problems, problems_digest
from search_lib.engines.factory import EngineName, EngineSettings, check_engine, open_engine
from search_lib.grading import extract_answer
from search_lib.prompts import build_prompt, load_tokenizer, stop_token_ids, thought_mark
from search_lib.recording import make_record
from search_lib.results.cost import SearchCost
from search_lib.results.metrics import MetricRow
from search_lib.results.records import RecordFile
from search_lib.results.run_config import RunConfig, bind_folder
from search_lib.results.shards import searches_of, shard_path
from search_lib.results.summary import report
from search_lib.runner import SearchFailure, SearchJob, TooManyFailures, run_searches
from search_lib.scorers.factory import (
    ScorerName,
    ScorerSettings,
    check_scorer,
    max_path_length,
    open_scorer,
)
from search_lib.strategies import Limits, StrategyFactory, strategy_factory

SERVER_LOG_NAME = "value_server.log"


@dataclass(frozen=True)
class Args:
    """Value-guided search on a benchmark. Budget = num_blocks x num_repetitions."""

    benchmark: str
    """aime-24, aime-25, hmmt-feb-24, hmmt-feb-25, toy; a .jsonl or .parquet file; or a hub data
    set owner/name."""
    piref_model: str
    """The policy that generates: hub id or folder."""
    classifier_ckpt_path: str
    """The value model that guides and weighs: hub id or folder."""
    output_path: Path = Path("inference_outputs.jsonl")
    """Records go here, one JSON line a search. Its folder also gets run_config.json and
    metrics.json."""
    search_type: str = "beam2"
    """beam<w> (width w), bfs (one beam), bon (independent full samples), random<w> (ablation:
    survivors drawn by lot, w = 2 if left out)."""
    num_blocks: int = 8
    """Blocks (or samples, for bon) of one tree: the budget N."""
    num_repetitions: int = 1
    """Independent trees a problem (DVTS). Metrics are given for every power of two of them."""
    block_size: int = 4096
    """Tokens of a block at most."""
    max_length: int = 16384
    """Tokens of a response at most."""
    temperature: float = 0.6
    """Softmax temperature; 0 decodes greedily."""
    top_p: float = 0.95
    """Nucleus mass kept, in (0, 1]."""
    seed: int = 0
    """Every random draw derives from this, the problem, the repetition and the round."""
    max_concurrent: int | None = None
    """Searches in flight at once: the next one starts as soon as one ends. Default 32 with --engine
    hf, 256 else."""
    batch_size: int | None = None
    """Published spelling of --max_concurrent."""
    value_cache_tokens: int = 262_144
    """Tokens whose key-value states the hf value model keeps between blocks: 28 KiB each for
    DeepSeek-VM-1.5B in bfloat16. All beams of all searches in flight should fit; else prefixes are
    computed again, which tokens_scored in metrics.json shows."""
    attention_impl: str = "flash_attention_2"
    """transformers' attention: flash_attention_2 (sdpa where it is missing), sdpa, eager."""
    engine: EngineName = "hf"
    """What generates: hf runs transformers in this process, sglang runs SGLang in it, sglang_server
    asks SGLang servers (scripts/serve_policy.sh)."""
    sglang_url: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Of sglang_server: http://host:port of a server or router, or of several equal servers, given
    once for each. By default this machine's at --sglang_port."""
    sglang_patience: float = 600.0
    """Of sglang_server: seconds until a request to a service that stays away is given up."""
    scorer: ScorerName = "hf"
    """What values blocks: hf runs transformers in this process, sglang starts an SGLang server for
    this run, sglang_server uses those at --scorer_url (scripts/serve_value_model.sh)."""
    scorer_url: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Of --scorer sglang_server: http://host:port of a value server or its router, or of several
    equal ones, given once for each."""
    use_sglang_server: bool = False
    """Published spelling of --engine sglang_server."""
    sglang_port: int = 30000
    """Of sglang_server: the port where --sglang_url is not given."""
    piref_gpu_util: float = 0.75
    """Of sglang: share of GPU memory for weights and key-value states, in (0, 1)."""
    tp_size: int = 1
    """Of sglang: GPUs that share one copy of the policy."""
    dp_size: int = 1
    """Of sglang: copies of the policy. Many GPUs do better behind the router of
    scripts/serve_policy.sh, which sends a search where its prefixes are."""
    engine_args: tuple[str, ...] = ()
    """Of sglang: key=value for any other argument of its ServerArgs."""
    shard: str | None = None
    """Part i/n of the searches, i from 0, for n machines with one command but for this. Its records
    go to the folder shard-i-of-n below that of --output_path; python -m search_lib.results.shards
    merge joins them and computes the metrics."""
    max_problems: int | None = None
    """Only the first so many problems of the benchmark."""
    split: str | None = None
    """Split of a hub data set, if not its usual one."""
    problem_column: str | None = None
    """Column of the questions, if not the benchmark's usual one."""
    answer_column: str | None = None
    """Column of the reference answers, if not the benchmark's usual one."""
    neptune_project: str | None = None
    """Also logs the metrics to this neptune project (offline without NEPTUNE_API_TOKEN)."""


def main(args: Args) -> int:
    """Runs or resumes an evaluation. Returns the exit status; 1 if searches failed."""
    check_flags(args)
    index, count = parse_shard(args.shard or "0/1")
    if args.shard:
        args = replace(args, output_path=shard_path(args.output_path, index, count))
    source = find_benchmark(args.benchmark, args.split, args.problem_column, args.answer_column)
    problems = load_problems(source)[: args.max_problems]
    tokenizer = load_tokenizer(args.piref_model)
    prompts = {
        problem.id: build_prompt(tokenizer, problem.problem, source.instruction)
        for problem in problems
    }
    limits = Limits(args.max_length, args.block_size, stop_token_ids(args.piref_model, tokenizer))
    new_strategy = strategy_factory(args.search_type, args.num_blocks, limits)
    check_models(args, tokenizer, prompts)

    records = RecordFile(args.output_path)
    try:
        config = run_config(args, problems)
        bind_folder(args.output_path, config)
        if damaged := records.recover():
            print(f"{damaged} damaged lines were moved aside; their searches run again")
        missing = [
            (problem, repetition)
            for problem, repetition in searches_of(problems, args.num_repetitions, index, count)
            if (problem.id, repetition) not in records.finished
        ]
        print(f"{len(records.finished)} searches are there, {len(missing)} to run", flush=True)
        failures: list[SearchFailure] = []
        if missing:
            jobs = make_jobs(args, missing, prompts, new_strategy)
            failures = asyncio.run(search(args, jobs, len(missing), tokenizer, prompts, records))
        if args.shard is None:
            rows = report(args.output_path, config)
            if args.neptune_project:
                log_to_neptune(args, args.neptune_project, rows)
        else:
            print(f"shard {args.shard}: {len(records.finished)} searches in {args.output_path}")
    finally:
        records.close()

    for failure in failures:
        print(f"failed: {failure.name}: {type(failure.error).__name__}: {failure.error}")
    if failures:
        print(f"{len(failures)} searches failed; the same command tries them again")
    return 1 if failures else 0


def check_flags(args: Args) -> None:
    """Raises InputError for values that no run can have."""
    check_engine(engine_settings(args))
    check_scorer(scorer_settings(args))
    for flag, value in (
        ("num_repetitions", args.num_repetitions),
        ("max_concurrent (--batch_size)", max_concurrent(args)),
        ("max_problems", 1 if args.max_problems is None else args.max_problems),
    ):
        if value < 1:
            raise InputError(f"--{flag} must be at least 1, got {value}")
    if args.value_cache_tokens < 0:
        raise InputError(
            f"--value_cache_tokens must not be negative, got {args.value_cache_tokens}"
        )
    if args.temperature < 0:
        raise InputError(f"--temperature must not be negative, got {args.temperature}")
    if not 0 < args.top_p <= 1:
        raise InputError(f"--top_p must be in (0, 1], got {args.top_p}")
    if args.output_path.suffix != ".jsonl":
        raise InputError(f"--output_path must end in .jsonl, got {args.output_path}")


def engine_settings(args: Args) -> EngineSettings:
    """The engine that the flags ask for."""
    engine: EngineName = "sglang_server" if args.use_sglang_server else args.engine
    return EngineSettings(
        engine,
        args.attention_impl,
        urls=args.sglang_url or (f"http://127.0.0.1:{args.sglang_port}",),
        patience=args.sglang_patience,
        gpu_util=args.piref_gpu_util,
        tp_size=args.tp_size,
        dp_size=args.dp_size,
        engine_args=args.engine_args,
    )


def scorer_settings(args: Args) -> ScorerSettings:
    """The scorer that the flags ask for."""
    return ScorerSettings(
        args.scorer, args.attention_impl, args.value_cache_tokens, args.scorer_url
    )


def max_concurrent(args: Args) -> int:
    """The size of the window, by either of its names.

    Raises:
        InputError: if they differ.
    """
    if (
        None not in (args.max_concurrent, args.batch_size)
        and args.max_concurrent != args.batch_size
    ):
        raise InputError(
            f"--max_concurrent {args.max_concurrent} and --batch_size {args.batch_size} are two "
            "names of one thing: give one of them"
        )
    given = args.max_concurrent if args.batch_size is None else args.batch_size
    if given is None:
        return 32 if engine_settings(args).engine == "hf" else 256
    return given


def check_models(
    args: Args, tokenizer: PreTrainedTokenizerBase, prompts: dict[str, list[int]]
) -> None:
    """Raises InputError unless both models can read every path of every search."""
    configs = []
    for flag, load in (
        ("piref_model", load_config),
        ("classifier_ckpt_path", load_value_config),
    ):
        try:
            configs.append(load(getattr(args, flag)))
        except ValueError as error:
            raise InputError(f"--{flag} {error}") from error
    policy, classifier = configs
    check_tokens(args.classifier_ckpt_path, classifier.vocab_size, tokenizer)
    scored = max_path_length(scorer_settings(args), classifier.max_position_embeddings)
    for role, context in (("policy", policy.max_position_embeddings), ("value model", scored)):
        too_long = [
            f"{problem_id} ({len(prompt)} tokens)"
            for problem_id, prompt in prompts.items()
            if len(prompt) + args.max_length > context
        ]
        if too_long:
            raise InputError(
                f"prompt and --max_length {args.max_length} exceed the {role}'s context of "
                f"{context} tokens for {len(too_long)} problems: "
                f"{', '.join(too_long[:5])}{', ...' if len(too_long) > 5 else ''}"
            )


def check_tokens(classifier_path: str, vocab_size: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError if the value model cannot be one for the policy's tokens.

    A value model carries no tokenizer of its own when it is the published one; then its number of
    embeddings is all there is to compare.
    """
    try:
        check_vocabulary(tokenizer, vocab_size)
    except ValueError as error:
        raise InputError(f"--classifier_ckpt_path {classifier_path}: {error}") from error
    if (Path(classifier_path) / "tokenizer.json").is_file():
        own = load_tokenizer(classifier_path, "--classifier_ckpt_path").get_vocab()
        if own != tokenizer.get_vocab():
            raise InputError(
                f"--classifier_ckpt_path {classifier_path} comes with another tokenizer than the "
                "policy's: the same ids mean other tokens"
            )


def run_config(args: Args, problems: list[Problem]) -> RunConfig:
    """What the results depend on, for ``run_config.json``."""
    return RunConfig(
        flags=as_json(args) | {"output_path": args.output_path.name},
        fingerprints={
            "benchmark": problems_digest(problems),
            "piref_model": fingerprint(args.piref_model, MODEL_FILES),
            "classifier_ckpt_path": fingerprint(args.classifier_ckpt_path, MODEL_FILES),
        },
        problem_ids=[problem.id for problem in problems],
    )


def as_json(args: Args) -> dict[str, Any]:
    """The flags as JSON types."""
    return asdict(args) | {
        "output_path": str(args.output_path),
        "sglang_url": list(args.sglang_url),
        "engine_args": list(args.engine_args),
        "scorer_url": list(args.scorer_url),
    }


def make_jobs(
    args: Args,
    missing: list[tuple[Problem, int]],
    prompts: dict[str, list[int]],
    new_strategy: StrategyFactory,
) -> Iterator[SearchJob]:
    """The searches that are to run, made one by one as the runner has room."""
    for problem, repetition in missing:
        seed = derive_seed(args.seed, problem.id, repetition)
        yield SearchJob(problem, repetition, seed, new_strategy(prompts[problem.id], seed))


async def search(
    args: Args,
    jobs: Iterator[SearchJob],
    num_jobs: int,
    tokenizer: PreTrainedTokenizerBase,
    prompts: dict[str, list[int]],
    records: RecordFile,
) -> list[SearchFailure]:
    """Loads both models and runs the searches; each is recorded the moment it ends."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # On a CPU the two models take turns in one thread, on a GPU they overlap.
    shared = ThreadPoolExecutor(1) if device.type == "cpu" else None
    engine = open_engine(engine_settings(args), args.piref_model, "--piref_model", device, shared)
    scorer = open_scorer(
        scorer_settings(args),
        args.classifier_ckpt_path,
        "--classifier_ckpt_path",
        device,
        args.output_path.with_name(SERVER_LOG_NAME),
        shared,
    )

    with tqdm(total=num_jobs, unit="search", disable=None, smoothing=0.05) as progress:
        tokens = 0
        ends = stop_token_ids(args.piref_model, tokenizer)

        def on_finished(job: SearchJob, cost: SearchCost) -> None:
            nonlocal tokens
            prompt = str(tokenizer.decode(prompts[job.problem.id]))
            answered = []
            for response in job.strategy.result():
                ids = response.token_ids
                text = str(tokenizer.decode(ids[:-1] if ids[-1] in ends else ids))
                answered.append((response, text, extract_answer(text, thought_mark(prompt, text))))
            records.append(make_record(job, answered, cost))
            tokens += cost.tokens_generated
            seconds = progress.format_dict["elapsed"] or 1e-9
            progress.set_postfix_str(f"{tokens / seconds:,.0f} tok/s", refresh=False)
            progress.update()

        try:
            return await run_searches(
                jobs,
                engine,
                scorer,
                args.temperature,
                args.top_p,
                max_concurrent(args),
                on_finished,
            )
        finally:
            await engine.close()
            await scorer.close()


def log_to_neptune(args: Args, project: str, rows: list[MetricRow]) -> None:
    """Logs the accuracies, by budget."""
    trackers = open_trackers(
        args.output_path.parent,
        as_json(args),
        ["neptune"],
        run_name=args.output_path.stem,
        neptune_project=project,
    )
    for row in rows:
        trackers.log({f"accuracy/{row.method}": row.estimate.mean}, step=row.budget)
    trackers.close()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    transformers.utils.logging.disable_progress_bar()
    arguments = tyro.cli(
        Annotated[Args, tyro.conf.FlagCreatePairsOff], use_underscores=True, description=__doc__
    )
    try:
        sys.exit(main(arguments))
    except InputError as error:
        print(f"inference_eval.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    except TooManyFailures as error:
        print(f"inference_eval.py: stopped: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # at once: a normal exit would wait for the batch that is running
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        os._exit(130)  # likewise; every record is on disk
