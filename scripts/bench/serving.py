"""Throughput of the server of answers, against the same searches by `inference_eval.py`.

    python -m scripts.bench.serving --quick     # less than a minute
    python -m scripts.bench.serving             # a few minutes, with the quickstart's models

Problems of the toy task with the settings of the quickstart: beam2, 4 blocks of 12 tokens, 96 at
most, 4 trees a problem. The models are the quickstart's if they are there, else random weights of
their size.

- *inference_eval*: `inference_eval.evaluate`, with its window of searches in flight. It runs in
  this process, whose models are opened by a run that isn't timed. Timed is what it does with the
  models: from the first search until the last record is on disk, without the reading of tokenizer
  and problems before it, and without the votes behind it.
- *server*: `python -m search_lib.serve`, a process of its own with the same window, asked for all
  problems at once over HTTP, one request each. It has answered some requests before. Timed is from
  the first request until the last reply, with each request's prompt, vote and answer.
- *server, streamed*: the same, with progress events while the searches run.

All ways have one CPU thread for both models, and take turns; the client and, of the evaluation,
nothing else have the second core. A search's draws depend on the name of its problem, which
requests don't have: the ways draw different responses to the same problems, in every round others.
So the table compares tokens: those that a second generates, by the median round. The machine should
have nothing else to do; where it has, seconds of CPU say more than those of the clock. They are
those of the process with the models.

Columns: requests; searches; seconds; seconds of CPU; tokens that were generated; tokens a second;
those as a share of inference_eval's, and tokens a second of CPU as a share of its. The ratio is the
server's share by the clock, without streaming.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    import os

    os.environ["OMP_NUM_THREADS"] = "1"

    from run_lib.commands import check_command_line
    from scripts.bench.args import SERVING, ServingArgs

    ARGUMENTS = check_command_line(ServingArgs, SERVING, __doc__)

import asyncio
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

import inference_eval
from run_lib.commands import RunStopped, parse_command_line, run_command
from run_lib.hub import quiet_transformers
from run_lib.ports import free_port
from scripts.bench import print_report
from scripts.bench.args import SERVING
from scripts.bench.args import ServingArgs as Args
from scripts.bench.scheduling import save_random_models
from search_lib.asking.flags import QuestionFlags, toy_defaults
from search_lib.benchmarks import BENCHMARKS, Problem, load_problems
from search_lib.open_models import OpenModels, Result
from search_lib.results.records import read_records
from search_lib.search_args import Args as SearchArgs

ROOT = Path(inference_eval.__file__).parent
EVALUATION, SERVER, STREAMED = WAYS = ("inference_eval", "server", "server, streamed")
TREES = 4
SETTINGS = (
    "--search_type beam2 --num_blocks 4 --block_size 12 --max_length 96 --temperature 1.0 "
    f"--top_p 1.0 --engine hf --attention_impl sdpa --num_repetitions {TREES}"
).split()
NAME = "toy"
"""What the server calls the policy."""
COLUMNS = ["way", "requests", "searches", "seconds", "CPU s", "tokens", "tokens/s"]
COLUMNS += ["share", "share, CPU"]
START_SECONDS = 120.0
END_SECONDS = 20.0


class Timing(NamedTuple):
    """Measurements of one round.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Seconds of CPU of the process with the models.
        tokens: Tokens that were generated, of dropped paths, too.
    """

    seconds: float
    cpu_seconds: float
    tokens: int


class TimedModels(OpenModels):
    """Models that know how long they have been at work.

    Attributes:
        seconds: Wall time of all work.
        cpu_seconds: Seconds of CPU of this process meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = self.cpu_seconds = 0.0

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs work that uses the models to its end."""
        started, cpu_started = time.perf_counter(), time.process_time()
        try:
            return super().run(work)
        finally:
            self.seconds += time.perf_counter() - started
            self.cpu_seconds += time.process_time() - cpu_started


def time_evaluation(args: SearchArgs, models: TimedModels) -> Timing:
    """Runs an evaluation; raises RuntimeError if a search failed."""
    started, cpu_started = models.seconds, models.cpu_seconds
    # Its table isn't ours.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        status = inference_eval.evaluate(args, models)
    if status:
        raise RuntimeError("searches of the evaluation failed")
    tokens = sum(record.cost.tokens_generated for record in read_records(args.output_path))
    return Timing(models.seconds - started, models.cpu_seconds - cpu_started, tokens)


async def ask(
    session: aiohttp.ClientSession, problem: Problem, seed: int, streamed: bool
) -> dict[str, int]:
    """Asks the server for a problem, and returns the usage that it names."""
    body: dict[str, Any] = {
        "model": NAME,
        "messages": [{"role": "user", "content": problem.problem}],
        "seed": seed,
    }
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    async with session.post("/v1/chat/completions", json=body) as reply:
        text = await reply.text()
        if reply.status != 200:
            raise RuntimeError(f"the server answers with {reply.status}: {text}")
    if not streamed:
        return dict(json.loads(text)["usage"])
    events = [line.removeprefix("data: ") for line in text.splitlines() if line[:5] == "data:"]
    if events[-1] != "[DONE]":
        raise RuntimeError(f"a stream ends with {events[-1]}")
    return dict(json.loads(events[-2])["usage"])


async def time_server(url: str, problems: list[Problem], seed: int, streamed: bool) -> Timing:
    """Asks for all problems at once."""
    everything = aiohttp.TCPConnector(limit=0)
    forever = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(url, connector=everything, timeout=forever) as session:
        cpu_started = await cpu_seconds_of_server(session)
        started = time.perf_counter()
        usages = await asyncio.gather(
            *(
                ask(session, problem, seed * len(problems) + number, streamed)
                for number, problem in enumerate(problems)
            )
        )
        seconds = time.perf_counter() - started
        cpu_seconds = await cpu_seconds_of_server(session) - cpu_started
    return Timing(seconds, cpu_seconds, sum(usage["completion_tokens"] for usage in usages))


async def cpu_seconds_of_server(session: aiohttp.ClientSession) -> float:
    """Returns the seconds of CPU that the server has had, by its metrics."""
    async with session.get("/metrics") as reply:
        lines = [line for line in (await reply.text()).splitlines() if line[0] != "#"]
    metrics = dict(line.rsplit(" ", 1) for line in lines)
    return float(metrics["process_cpu_seconds_total"])


@contextlib.contextmanager
def serving(models: list[str], args: Args, num_requests: int, log: Path) -> Iterator[str]:
    """Runs the server in a process of its own, and yields its URL once it answers.

    Args:
        models: Flags that name them.
        args: Flags of this benchmark.
        num_requests: Requests that it answers at once.
        log: Where it writes what it says.

    Raises:
        RunStopped: If it doesn't start; with the last line that it said.
    """
    port = free_port()
    flags = f"--port {port} --max_concurrent {args.max_concurrent} --max_requests {num_requests}"
    command = [sys.executable, "-m", "search_lib.serve", *SETTINGS, *flags.split(), *models]
    command += ["--served_model_name", NAME, "--instruction", ""]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("VGS_API_KEY", None)
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            if not asyncio.run(is_healthy(url, process)):
                said = log.read_text().splitlines() or ["nothing"]
                raise RunStopped(f"the server did not start: {said[-1]}")
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            process.kill()


async def is_healthy(url: str, process: "subprocess.Popen[bytes]") -> bool:
    """Waits until the server answers; returns False if it ends, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession() as session:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/health") as reply:
                    if reply.status == 200:
                        return True
            await asyncio.sleep(0.1)
    return False


def measure(
    models: list[str], problems: list[Problem], args: Args, folder: Path
) -> dict[str, list[Timing]]:
    """Times all ways in turns; returns the rounds of each.

    Args:
        models: Flags that name them.
        problems: What is searched.
        args: Flags of this benchmark.
        folder: For records and logs.
    """

    def evaluation(seed: int, num_problems: int) -> SearchArgs:
        flags = f"--benchmark toy --max_problems {num_problems} --seed {seed} --no_save_blocks"
        flags += f" --max_concurrent {args.max_concurrent}"
        output = ["--output_path", str(folder / f"{num_problems}_{seed}" / "records.jsonl")]
        arguments = [*SETTINGS, *flags.split(), *models, *output]
        return parse_command_line(SearchArgs, "inference_eval.py", None, arguments)

    timings: dict[str, list[Timing]] = {way: [] for way in WAYS}
    with TimedModels() as opened, serving(models, args, len(problems), folder / "log") as url:
        time_evaluation(evaluation(args.seed, 2), opened)  # warm-up
        asyncio.run(time_server(url, problems[:2], args.seed, streamed=True))
        for number in range(args.rounds or (1 if args.quick else 5)):
            seed = args.seed + number
            timings[EVALUATION].append(time_evaluation(evaluation(seed, len(problems)), opened))
            for way in (SERVER, STREAMED):
                work = time_server(url, problems, seed, streamed=way == STREAMED)
                timings[way].append(asyncio.run(work))
    return timings


def find_models(args: Args, folder: Path) -> tuple[str, str, str]:
    """Returns policy and value model, and what they are."""
    if args.policy is not None and args.classifier is not None:
        return args.policy, args.classifier, "trained"
    if toy := toy_defaults(QuestionFlags):
        return str(toy["piref_model"]), str(toy["classifier_ckpt_path"]), "the quickstart's"
    return *save_random_models(folder, args.seed), "random weights"


def table_rows(
    timings: dict[str, list[Timing]], num_problems: int
) -> tuple[list[list[str]], float]:
    """Returns the lines of the table, and the ratio."""

    def median(way: str, of: Callable[[Timing], float]) -> float:
        return statistics.median(map(of, timings[way]))

    def speed(way: str) -> float:
        return median(way, lambda one: one.tokens / one.seconds)

    def cpu_speed(way: str) -> float:
        return median(way, lambda one: one.tokens / one.cpu_seconds)

    rows = [
        [
            way,
            "-" if way == EVALUATION else f"{num_problems}",
            f"{num_problems * TREES}",
            f"{median(way, lambda one: one.seconds):.2f}",
            f"{median(way, lambda one: one.cpu_seconds):.2f}",
            f"{median(way, lambda one: one.tokens):,.0f}",
            f"{speed(way):,.0f}",
            f"{speed(way) / speed(EVALUATION):.2f}",
            f"{cpu_speed(way) / cpu_speed(EVALUATION):.2f}",
        ]
        for way in WAYS
    ]
    return rows, speed(SERVER) / speed(EVALUATION)


def main(args: Args) -> None:
    """Prints the table and the ratio.

    Raises:
        InputError: If one of the two models was given without the other.
        RunStopped: If the server doesn't start.
    """
    args.check()
    problems = load_problems(BENCHMARKS["toy"])[: args.problems or (16 if args.quick else 64)]
    with tempfile.TemporaryDirectory(prefix="bench_serving_") as folder:
        policy, classifier, weights = find_models(args, Path(folder))
        models = ["--piref_model", policy, "--classifier_ckpt_path", classifier]
        timings = measure(models, problems, args, Path(folder))
    rows, ratio = table_rows(timings, len(problems))
    notes = [
        f"toy models ({weights}), one CPU thread, {args.max_concurrent} searches in flight, "
        f"medians of {len(timings[EVALUATION])} rounds"
    ]
    print_report(COLUMNS, rows, notes, ratio)


if __name__ == "__main__":
    quiet_transformers()
    run_command(SERVING, lambda: main(ARGUMENTS))
