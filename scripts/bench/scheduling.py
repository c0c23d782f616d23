"""Searches of many problems: a window of them in flight against batches that move in lock step.

    python -m scripts.bench.scheduling --quick     # about a minute: 40 searches, 100 on paper
    python -m scripts.bench.scheduling             # some minutes: 40 searches, 1,000 on paper
    python -m scripts.bench.scheduling --policy outputs/quickstart/policy \
        --classifier outputs/quickstart/value_model/final

- *lock step*, the published way: 10 problems at a time. Every round all their beams are continued,
  then all new blocks are scored, then the next round begins; the next 10 problems begin when the
  last of these has ended. So the generator waits for scoring and for the slowest problem.
- *window*, ours: `search_lib.runner`. No search waits for another, and as one ends the next begins.

Both drive the same strategies (beam2) with the same engine and the same scorer. `scoring.py`
measures how little a scorer computes; here scoring costs the two ways the same. Two things differ
at once between the published way and ours, so the table has all four combinations: lock step or
not, and the number of searches in flight (10, or 64, which keeps the server full). All ways must
end in the same responses, or the run fails (in the first part, where rounding depends on the batch,
those of nine searches in ten).

First part, measured: the embedded transformers engine and value model share one CPU thread, so that
neither can overlap the other; the gain comes from fuller batches. The seconds are wall time, the
median of five rounds in which all ways take turns; the machine should have nothing else to do. The
settings are those of the quickstart: 40 problems of the toy task, 4 blocks of 12 tokens, 96 at
most. By default both models have the toy task's size and random weights, whose responses seldom end
before the limit.

Second part, on paper: the real runner and strategies drive a simulated server, in virtual time (see
`simulation.py`); also with `--speculate`, which sends blocks ahead (`search_lib.speculation`). The
settings are the published ones: 8 blocks of 4,096 tokens, 16,384 at most.
Response lengths are log-normal, with the standard deviations of `training_rows.draw_row` and the
median that gives the published mean of 11.2k tokens at that limit. The server is a 1.5B model in
bfloat16 on one H100, by arithmetic, not measured: a step takes 4 ms (3.1 GB of weights and the
launches) and 0.1 ms more for each sequence (28 KiB of states for each of 6,000 tokens at 70 % of
3.35 TB/s, and sampling); 256 sequences fit. Its value model reads 80,000 new tokens a second on a
device of its own. Nearly all blocks of a round are equally long, so that none waits for another.

Third part, on paper, too: blocks are steps of reasoning, of very different lengths, so that a round
waits for its slowest step. 16 blocks; steps and server, an 8B model, are those of `trees.py`, and
an 8B value model reads 37,000 tokens a second (16 GFLOP each at 60 % of the peak).

Columns: searches; searches in flight; seconds; share of the seconds in which the generator
computes; tokens of the searches a second; tokens that were sent ahead for nothing, as a share of
all; how many times faster than the published way, and than a window of the same size. The ratio is
the smallest gain of ours over the published way, over the parts and their sizes.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from run_lib.commands import check_command_line
    from scripts.bench.args import SCHEDULING, SchedulingArgs

    ARGUMENTS = check_command_line(SchedulingArgs, SCHEDULING, __doc__)

import asyncio
import gc
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from classifier_lib.loading import load_value_model
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.scoring import ValueScorer
from data_prep.toy.policy import build_model
from data_prep.toy.tokenizer import build_tokenizer
from run_lib.commands import naming, run_command
from run_lib.hub import load_tokenizer, quiet_transformers
from run_lib.seeds import derive_seed
from scripts.bench import print_report
from scripts.bench.args import SCHEDULING
from scripts.bench.args import SchedulingArgs as Args
from scripts.bench.simulation import (
    MAX_STEP,
    SERVER_1_5B,
    SERVER_8B,
    STOP_ID,
    Lengths,
    SimulatedGenerator,
    SimulatedScorer,
    SimulatedSteps,
    VirtualLoop,
)
from scripts.bench.training_rows import BETWEEN_PROBLEMS, WITHIN_PROBLEM
from search_lib.batching import ModelThread
from search_lib.benchmarks import BENCHMARKS, Problem, load_problems
from search_lib.engines.base import Engine, Sampling
from search_lib.engines.hf import HfEngine
from search_lib.prompts import PromptTemplate, stop_token_ids
from search_lib.runner import SearchJob, run_searches
from search_lib.scorers.base import Scorer
from search_lib.scorers.hf import HfScorer
from search_lib.strategies import Limits, StrategyFactory, strategy_factory

TOY_BLOCKS, TOY_BLOCK_SIZE, TOY_MAX_LENGTH = 4, 12, 96
NUM_BLOCKS, BLOCK_SIZE, MAX_LENGTH = 8, 4096, 16_384
SAMPLING = Sampling(1.0, 1.0)

LENGTHS = Lengths(11_090, BETWEEN_PROBLEMS, WITHIN_PROBLEM)


class Paper(NamedTuple):
    """What is simulated.

    Attributes:
        name: Its name in the table.
        num_blocks: The budget of a search.
        limits: Lengths.
        server: The generator; its arguments are lengths, tokens of a prompt, seconds of a step and
            of a row, and rows.
        scored_per_second: Tokens that the value model reads.
        spread: Standard deviation of a value's logit from that of the path before; assumed.
    """

    name: str
    num_blocks: int
    limits: Limits
    server: Callable[[], SimulatedGenerator]
    scored_per_second: float
    spread: float


PAPERS = (
    Paper(
        "on paper",
        NUM_BLOCKS,
        Limits(MAX_LENGTH, BLOCK_SIZE, (STOP_ID,)),
        lambda: SimulatedGenerator(LENGTHS, 1, *SERVER_1_5B),
        scored_per_second=80_000,
        spread=0.7,
    ),
    Paper(
        "steps",
        16,
        Limits(10 * MAX_STEP, MAX_STEP, (STOP_ID,)),
        lambda: SimulatedSteps(1, *SERVER_8B),
        scored_per_second=37_000,
        spread=0.5,
    ),
)

LOCK_STEP, WINDOW, AHEAD = "lock step", "window", "window + speculation"
PUBLISHED, OURS = (LOCK_STEP, 10), (WINDOW, 64)
WAYS = (PUBLISHED, (LOCK_STEP, 64), (WINDOW, 10), OURS)
PAPER_WAYS = (*WAYS, (AHEAD, 10), (AHEAD, 64))
MEASURED_WAYS = (
    PUBLISHED,
    (LOCK_STEP, 20),
    (LOCK_STEP, 64),
    (WINDOW, 10),
    (WINDOW, 20),
    OURS,
)
ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """Measurements of one way to run all searches.

    Attributes:
        seconds: Wall time of the whole run, virtual where it is not measured.
        busy_seconds: Seconds in which the generator computed.
        tokens: Generated tokens of the searches.
        responses: By problem, a digest of the tokens of all its responses.
        wasted: Tokens that were generated beside, for nothing.
    """

    seconds: float
    busy_seconds: float
    tokens: int
    responses: dict[str, int]
    wasted: int = 0


async def run_lock_step(
    jobs: Iterable[SearchJob],
    engine: Engine,
    scorer: Scorer,
    sampling: Sampling,
    batch_size: int,
    on_finished: Callable[[SearchJob, Any], None],
) -> None:
    """Runs batches of searches in lock step: the published way (see the module)."""
    waiting = iter(jobs)
    while batch := list(islice(waiting, batch_size)):
        while active := [job for job in batch if not job.strategy.done]:
            asked = [(job, expansion) for job in active for expansion in job.strategy.ask()]
            generated = await asyncio.gather(
                *(engine.generate(expansion, sampling) for _, expansion in asked)
            )
            scores = await asyncio.gather(
                *(
                    scorer.score(expansion.prefix_ids, blocks)
                    for (_, expansion), blocks in zip(asked, generated, strict=True)
                )
            )
            for (job, expansion), blocks, of_blocks in zip(asked, generated, scores, strict=True):
                job.strategy.tell(expansion.path_id, blocks, of_blocks.values)
        for job in batch:
            on_finished(job, None)


async def time_way(
    way: str,
    in_flight: int,
    jobs: Iterator[SearchJob],
    engine: "TimedHfEngine | SimulatedGenerator",
    scorer: Scorer,
    clock: Callable[[], float],
    room: int = 0,
) -> Timing:
    """Runs all jobs in one way, sending blocks ahead as far as there is room."""
    tokens = 0
    responses: dict[str, int] = {}

    def on_finished(job: SearchJob, cost: Any) -> None:
        nonlocal tokens
        tokens += sum(node.num_tokens for node in job.strategy.nodes)
        results = job.strategy.result()
        responses[job.problem.id] = hash(tuple(tuple(r.token_ids) for r in results))

    started, busy = clock(), engine.busy_seconds
    if way == LOCK_STEP:
        await run_lock_step(jobs, engine, scorer, SAMPLING, in_flight, on_finished)
    elif failures := await run_searches(
        jobs, engine, scorer, SAMPLING, in_flight, on_finished, room
    ):
        raise RuntimeError(f"{len(failures)} searches failed") from failures[0].error
    return Timing(clock() - started, engine.busy_seconds - busy, tokens, responses)


def make_jobs(
    prompts: Iterable[tuple[str, list[int]]], new_strategy: StrategyFactory, seed: int
) -> Iterator[SearchJob]:
    """Yields a fresh search of each (problem id, prompt)."""
    for problem_id, prompt in prompts:
        own = derive_seed(seed, problem_id, 0)
        yield SearchJob(Problem(problem_id, "", ""), 0, own, new_strategy(prompt, own))


class ForwardClock:
    """Measures how long a model computes.

    Attributes:
        seconds: Wall time of its forward passes.
    """

    def __init__(self, model: nn.Module):
        self.seconds = self._started = 0.0
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._started = perf_counter()

    def _stop(self, *_: Any) -> None:
        self.seconds += perf_counter() - self._started


class TimedHfEngine(HfEngine):
    """An engine that knows how long its model has computed."""

    def __init__(self, model: PreTrainedModel, thread: ModelThread, clock: ForwardClock):
        super().__init__(model, thread)
        self._clock = clock

    @property
    def busy_seconds(self) -> float:
        """Seconds in forward passes."""
        return self._clock.seconds


def save_random_models(folder: Path, seed: int) -> tuple[str, str]:
    """Writes a policy and a value model of the toy task's size, with random weights."""
    tokenizer = build_tokenizer()
    # With tied embeddings random weights repeat the last token, and no response ever ends.
    own = build_model(tokenizer, seed).config.to_diff_dict() | {"tie_word_embeddings": False}
    policy, classifier = folder / "policy", folder / "value_model"
    torch.manual_seed(seed)
    Qwen2ForCausalLM(Qwen2Config(**own)).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    Qwen2ForClassifier(Qwen2Config(**own | {"num_labels": 3})).save_pretrained(classifier)
    return str(policy), str(classifier)


def measure(policy: str, classifier: str, args: Args) -> dict[tuple[str, int], Timing]:
    """Times all ways on real models, in turns, and returns the median round of each.

    Raises:
        InputError: If one of the models can't be loaded.
    """
    device = torch.device("cpu")
    thread = ModelThread()
    asyncio.run(thread.run(lambda: torch.set_num_threads(1)))
    with naming("--policy"):
        tokenizer = load_tokenizer(policy)
        ends = stop_token_ids(policy, tokenizer)
        policy_model = HfEngine.load(policy, "sdpa", device).model
    clock = ForwardClock(policy_model)
    with naming("--classifier"):
        classifier_model = load_value_model(classifier, "sdpa", torch.float32, device)
    source = BENCHMARKS["toy"]
    template = PromptTemplate(tokenizer, source.instruction)
    prompts = [
        (problem.id, template.prompt_ids(problem.problem))
        for problem in load_problems(source)[: args.problems]
    ]
    limits = Limits(TOY_MAX_LENGTH, TOY_BLOCK_SIZE, ends)
    new_strategy = strategy_factory("beam2", TOY_BLOCKS, limits)

    def run(way: str, in_flight: int, num_searches: int) -> Timing:
        # New ones each time: what old ones keep are states of the same searches.
        engine = TimedHfEngine(policy_model, thread, clock)
        scorer = HfScorer(ValueScorer(classifier_model, 16_384), thread)
        jobs = make_jobs(prompts[:num_searches], new_strategy, args.seed)
        return asyncio.run(time_way(way, in_flight, jobs, engine, scorer, perf_counter))

    run(*OURS, num_searches=4)  # warm-up
    gc.collect()
    gc.freeze()  # as `OpenModels` does
    rounds = [
        {way: run(*way, num_searches=len(prompts)) for way in MEASURED_WAYS}
        for _ in range(1 if args.quick else ROUNDS)
    ]
    thread.close()
    return {
        way: sorted((timings[way] for timings in rounds), key=lambda timing: timing.seconds)[
            len(rounds) // 2
        ]
        for way in MEASURED_WAYS
    }


def simulate(paper: Paper, num_searches: int, seed: int) -> dict[tuple[str, int], Timing]:
    """Times all ways on paper, in virtual time."""
    new_strategy = strategy_factory("beam2", paper.num_blocks, paper.limits)

    async def run(way: str, in_flight: int) -> Timing:
        prompts = ((str(problem), [problem]) for problem in range(num_searches))
        engine = paper.server()
        scorer = SimulatedScorer(paper.scored_per_second, paper.spread)
        jobs = make_jobs(prompts, new_strategy, seed)
        clock = asyncio.get_running_loop().time
        room = paper.num_blocks if way == AHEAD else 0
        timing = await time_way(way, in_flight, jobs, engine, scorer, clock, room)
        return replace(timing, wasted=engine.tokens - timing.tokens)

    timings = {}
    for way, in_flight in PAPER_WAYS:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            timings[way, in_flight] = runner.run(run(way, in_flight))
    return timings


def check_agreement(timings: dict[tuple[str, int], Timing], least: float) -> None:
    """Raises RuntimeError unless enough searches have the responses of the published way."""
    expected = timings[PUBLISHED].responses
    for way, timing in timings.items():
        same = sum(timing.responses.get(name) == digest for name, digest in expected.items())
        if len(timing.responses) != len(expected) or same < least * len(expected):
            raise RuntimeError(f"{way} agrees with {PUBLISHED} in {same} of {len(expected)}")


def table_rows(part: str, timings: dict[tuple[str, int], Timing]) -> list[list[str]]:
    """Returns the lines of one part."""
    published = timings[PUBLISHED].seconds
    windows = {size: timing.seconds for (way, size), timing in timings.items() if way == WINDOW}
    return [
        [
            f"{part}, {way}",
            f"{len(timing.responses):,}",
            f"{in_flight}",
            f"{timing.seconds:,.1f}",
            f"{timing.busy_seconds / timing.seconds:.1%}",
            f"{timing.tokens / timing.seconds:,.0f}",
            f"{timing.wasted / (timing.tokens + timing.wasted):.1%}",
            f"{published / timing.seconds:.2f}",
            f"{windows[in_flight] / timing.seconds:.2f}" if in_flight in windows else "-",
        ]
        for (way, in_flight), timing in timings.items()
    ]


def main(args: Args) -> None:
    """Prints the table and the ratio.

    Raises:
        InputError: If one of the two models was given without the other.
    """
    args.check()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench_scheduling_") as folder:
        policy, classifier = args.policy, args.classifier
        if policy is None or classifier is None:
            policy, classifier = save_random_models(Path(folder), args.seed)
        measured = measure(policy, classifier, args)
    check_agreement(measured, least=0.9)
    parts = [("hf", measured)]
    for paper in PAPERS:
        for num_searches in (args.problems, args.simulated or (100 if args.quick else 1_000)):
            simulated = simulate(paper, num_searches, args.seed)
            check_agreement(simulated, least=1.0)
            parts.append((paper.name, simulated))
    columns = ["way", "searches", "in flight", "seconds", "busy", "tokens/s"]
    columns += ["waste", "x faster", "x window"]
    rows = [row for part, timings in parts for row in table_rows(part, timings)]
    weights = "random weights" if args.policy is None else "trained"
    notes = [
        f"hf: measured on one CPU thread, toy models ({weights}); on paper: simulated",
        f"mean response on paper, before selection: {LENGTHS.mean(MAX_LENGTH):,.0f} tokens",
    ]
    gains = [timings[PUBLISHED].seconds / timings[OURS].seconds for _, timings in parts]
    print_report(columns, rows, notes, min(gains))


if __name__ == "__main__":
    quiet_transformers()
    run_command(SCHEDULING, lambda: main(ARGUMENTS))
