"""Trees of many problems: a window of them in flight against batches that move in lock step.

    python -m scripts.bench.trees --quick     # within a minute
    python -m scripts.bench.trees             # some minutes

- *lock step*, the published way: 256 trees at a time. In every iteration each of them selects a
  leaf, all leaves are expanded, and the next iteration begins when the longest step of all has
  ended; the next trees begin when the last of these is done. So the generator runs ever emptier
  until a single long step is left, and trees that close early leave their places empty.
- *window*, ours: `search_lib.runner`. A tree waits for its own steps alone, and as one ends the
  next begins. So its size is free: once at as many trees as lock step, and once at twice as many.

All grow the same trees, node by node, or the run fails. The strategy and the runner are the real
ones; the server is simulated, in virtual time (see `simulation.py`). It is an 8B model in bfloat16
on one H100, by arithmetic, not measured: a decoding step takes 7 ms (16 GB of weights at 70 % of
3.35 TB/s) and 0.04 ms more for each sequence. At the 1,280 sequences of 256 trees that is about
what their tokens take: 35 ms for 16 GFLOP each at 60 % of the peak, and 27 ms for reading 128 KiB
of states for each of 385 tokens, which a sequence has on average behind a prompt of 128. The states
of 54 GB, 412,000 tokens, hold more sequences than 2,048, SGLang's own limit: five of them share
their prefix, and SGLang reserves a 14th of what each may still generate.

Steps are log-normal with a median of 60 tokens and a standard deviation of the logarithm of 0.6,
cut at 1,024; a response has 3 to 9 of them, each number alike, and half of the answers are right.
These are assumptions: the paper gives no lengths. Grading takes no time. The published rounds have
10,000 problems; with the 1,024 here the window's end, where no tree is left to begin, weighs more.

Columns: trees in flight; seconds; trees a minute; sequences at once in a decoding step, on average;
how many times faster than lock step. The ratio is that of the last window.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from run_lib.commands import check_command_line
    from scripts.bench.args import TREES, TreesArgs

    ARGUMENTS = check_command_line(TreesArgs, TREES, __doc__)

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from classifier_lib.scoring import Scores
from run_lib.commands import run_command
from run_lib.seeds import derive_seed
from scripts.bench import print_report
from scripts.bench.args import TREES
from scripts.bench.args import TreesArgs as Args
from scripts.bench.scheduling import LOCK_STEP, WINDOW, run_lock_step
from scripts.bench.simulation import (
    MAX_STEP,
    RIGHT,
    SERVER_8B,
    STOP_ID,
    WRONG,
    SimulatedSteps,
    VirtualLoop,
)
from search_lib.benchmarks import Problem
from search_lib.engines.base import Block, Sampling
from search_lib.runner import SearchJob, run_searches
from search_lib.strategies import Limits
from search_lib.strategies.mcts import MonteCarloTreeSearch, TreeSettings

STEP_SECONDS, ROW_SECONDS, _ = SERVER_8B
LIMITS = Limits(10 * MAX_STEP, MAX_STEP, (STOP_ID,))


class SimulatedJudge:
    """Reads the marks of the answers, in no time."""

    async def score(self, prefix_ids: list[int], blocks: Sequence[Block]) -> Scores:
        """Returns 1, 0 or None for each block."""
        marks = {RIGHT: 1.0, WRONG: 0.0}
        return Scores([marks.get(block.token_ids[-2]) for block in blocks], None)

    async def close(self) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Timing:
    """Measurements of one way to grow all trees.

    Attributes:
        seconds: Virtual wall time.
        tokens: Generated tokens.
        trees: By problem, a digest of all nodes and their values.
    """

    seconds: float
    tokens: int
    trees: dict[str, int]

    @property
    def sequences(self) -> float:
        """Sequences that ran at once, on average over decoding steps."""
        # A server with `b` of them takes STEP_SECONDS + b * ROW_SECONDS for b tokens.
        steps = (self.seconds - self.tokens * ROW_SECONDS) / STEP_SECONDS
        return self.tokens / steps


def make_jobs(args: Args) -> Iterator[SearchJob]:
    """Yields a fresh tree of each problem."""
    settings = TreeSettings(iterations=args.iterations)
    for number in range(args.trees):
        seed = derive_seed(args.seed, number)
        search = MonteCarloTreeSearch([number + 1], LIMITS, seed, settings)
        yield SearchJob(Problem(str(number), "", ""), 0, seed, search)


def grow(way: str, in_flight: int, args: Args) -> Timing:
    """Grows all trees in one way, in virtual time."""
    trees: dict[str, int] = {}

    def on_finished(job: SearchJob, cost: Any) -> None:
        nodes = job.strategy.nodes
        trees[job.problem.id] = hash(
            tuple((node.parent, node.value, node.visits, *node.token_ids) for node in nodes)
        )

    async def run() -> Timing:
        engine = SimulatedSteps(1, *SERVER_8B)
        clock = asyncio.get_running_loop().time
        parts = make_jobs(args), engine, SimulatedJudge(), Sampling(1.0, 1.0), in_flight
        if way == LOCK_STEP:
            await run_lock_step(*parts, on_finished)
        elif failures := await run_searches(*parts, on_finished):
            raise RuntimeError(f"{len(failures)} trees failed") from failures[0].error
        return Timing(clock(), engine.tokens, trees)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


def main(args: Args) -> None:
    """Prints the table and the ratio.

    Raises:
        InputError: For numbers that no run can have.
        RuntimeError: If the two ways grow different trees.
    """
    if args.quick:
        args = replace(args, trees=256, lock_step=64, windows=(64, 128), iterations=30)
    args.check()
    published = grow(LOCK_STEP, args.lock_step, args)
    timings = [(LOCK_STEP, args.lock_step, published)]
    for window in args.windows:
        ours = grow(WINDOW, window, args)
        if published.trees != ours.trees or len(ours.trees) != args.trees:
            raise RuntimeError(f"the trees of {LOCK_STEP} and {WINDOW} differ")
        timings.append((WINDOW, window, ours))
    rows = []
    for way, in_flight, timing in timings:
        cells = [f"{in_flight}", f"{timing.seconds:,.1f}"]
        cells += [f"{60 * args.trees / timing.seconds:,.1f}", f"{timing.sequences:,.1f}"]
        rows.append([way, *cells, f"{published.seconds / timing.seconds:.2f}"])
    columns = ["way", "in flight", "seconds", "trees/min", "sequences", "x faster"]
    notes = [f"{args.trees:,} trees of {args.iterations} iterations, simulated"]
    print_report(columns, rows, notes, published.seconds / timings[-1][2].seconds)


if __name__ == "__main__":
    run_command(TREES, lambda: main(ARGUMENTS))
