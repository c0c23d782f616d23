"""One DVO step on the same trees of paths, laid out in three ways; trained tokens a second of each.

    python -m scripts.bench.dvo_train --quick       # CPU: within a minute
    python -m scripts.bench.dvo_train               # CPU: some minutes; on a GPU: the real shape

- *padded*: a path a row, padded on the right.
- *packed*: no padding. *shared_prefix*: the prompt and the steps that paths of a tree share are
  computed once.

All in micro batches of as many trees as fit into 16,384 tokens, or 4,096 on a CPU, whose caches are
small; at least one tree.

Two kinds of trees are grown by the search itself, from a policy on paper, and up to four right and
four wrong paths of each are drawn as for training. *paper*: the default settings (80 iterations, 5
steps each, depth 8), behind a prompt of 128, with the steps of `scripts.bench.trees`: 60 tokens, 3
to 9 of them, no two alike. *toy*: much as trees of the quickstart's policy come out: a prompt of
15, depth 16, 9 to 15 steps of 6 tokens, a third of the answers right, and steps so much alike that
five draws give 2. How much the paths of the paper's own trees share is not published; `--data_path`
takes the paths of yours.

Timing, model shapes and the check that all ways did the same step are those of
`scripts.bench.train_step`; but `small` has a vocabulary of 1,024. Its head then has 0.13 times the
parameters of its layers, between 0.08 of Llama 3 8B, which the paper trains, and 0.18 of `1.5b`.
The head reads trained tokens alone, so padding and prompts cost it nothing in any way.

Columns: paths; micro batches; tokens that go through the layers, padding included; seconds a step;
trained tokens a second, a shared step counted for each of its paths, and how many times as many as
padded. The notes give how many times fewer tokens shared_prefix has: what little it can gain beyond
that comes from attention and fuller batches. The ratio is that of shared_prefix to padded, the
smaller one of both kinds.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from run_lib.commands import check_command_line
    from scripts.bench.args import DVO_TRAIN, DvoTrainArgs

    ARGUMENTS = check_command_line(DvoTrainArgs, DVO_TRAIN, __doc__)

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from classifier_lib.attention import FLEX_BLOCK, choose_attention
from classifier_lib.batches import PackingName
from classifier_lib.training.step import build_optimizer
from classifier_lib.training.step import train_step as take_step
from dvo_lib.batches import Path as StepPath
from dvo_lib.columns import PATH_SCHEMA, REFERENCE
from dvo_lib.data import TreePaths
from dvo_lib.learner import PolicyLearner
from dvo_lib.losses import DvoLoss
from dvo_lib.metrics import PathMetrics
from dvo_lib.paths import draw_paths
from dvo_lib.policy import TokenLogprobs
from dvo_lib.tree_batches import TreePlan
from dvo_lib.trees import TreeRecord, recorded_steps
from run_lib.commands import naming, run_command
from run_lib.processes import Processes
from run_lib.seeds import derive_seed
from scripts.bench import print_report, simulation, train_step
from scripts.bench.args import DVO_TRAIN
from scripts.bench.args import DvoTrainArgs as Args
from scripts.bench.train_step import WAYS, Shape, Timing, check_agreement
from search_lib.engines.base import Block, Expansion
from search_lib.results.cost import SearchCost
from search_lib.strategies import Limits
from search_lib.strategies.mcts import MonteCarloTreeSearch, TreeSettings

TOKENS_PER_MICRO_BATCH = {"cpu": 4096, "cuda": 16_384}
SHAPES = train_step.SHAPES | {"small": replace(train_step.SHAPES["small"], vocab_size=1024)}


class TreeShape(NamedTuple):
    """Trees of one kind, and the policy that makes their steps.

    Attributes:
        settings: How they grow.
        prompt_tokens: Tokens of the prompt.
        median_step: Median of the tokens of a step, which are log-normal.
        deviation: Standard deviation of their logarithm.
        longest_step: Most tokens of a step.
        num_steps: Fewest and most steps of a response; each number is as likely.
        alike: Probability that a draw is not the first of a state's steps, nor the second if it is
            not the first, and so on; None: no two draws are alike.
        right: Share of right answers.
        trees_per_tree: Trees of this kind in a step for one of the paper's kind: both take seconds.
    """

    settings: TreeSettings
    prompt_tokens: int
    median_step: int
    deviation: float
    longest_step: int
    num_steps: tuple[int, int]
    alike: float | None
    right: float
    trees_per_tree: int


TREES = {
    "toy": TreeShape(TreeSettings(depth=16), 15, 6, 0.4, 12, (9, 15), 0.25, 0.32, 2),
    "paper": TreeShape(
        TreeSettings(),
        128,
        simulation.MEDIAN_STEP,
        simulation.STEP_DEVIATION,
        simulation.MAX_STEP,
        (simulation.FEWEST_STEPS, simulation.MOST_STEPS),
        None,
        0.5,
        1,
    ),
}


def draw_steps(
    shape: TreeShape, expansion: Expansion, number: int, vocab_size: int
) -> list[tuple[Block, float | None]]:
    """Draws the next steps of a response, the `number`-th, with the judge's word on each."""
    rng = np.random.default_rng(expansion.seed)
    fewest, most = shape.num_steps
    ends = 1 / (most + 1 - number) if fewest <= number <= most else 0.0
    steps: list[tuple[Block, float | None]] = []
    for draw in range(expansion.n):
        alternative = draw if shape.alike is None else int(rng.geometric(1 - shape.alike))
        own = np.random.default_rng((expansion.seed, alternative))
        length = round(shape.median_step * np.exp(shape.deviation * own.standard_normal()))
        length = min(max(length, 1), shape.longest_step)
        token_ids = own.integers(0, vocab_size, length).tolist()
        if own.random() < ends:
            steps.append((Block(token_ids, "stop"), float(own.random() < shape.right)))
        else:
            steps.append((Block(token_ids, "step"), None))
    return steps


def grow_tree(shape: TreeShape, vocab_size: int, seed: int) -> TreeRecord:
    """Grows a tree from such steps."""
    prompt = np.random.default_rng(seed).integers(0, vocab_size, shape.prompt_tokens).tolist()
    limits = Limits(10_000, shape.longest_step, ())
    search = MonteCarloTreeSearch(prompt, limits, seed, shape.settings)
    while not search.done:
        for expansion in search.ask():
            number = len(search.path(expansion.path_id))
            steps = draw_steps(shape, expansion, number, vocab_size)
            blocks, values = [block for block, _ in steps], [value for _, value in steps]
            search.tell(expansion.path_id, blocks, values)
    nodes = recorded_steps(search, [""] * len(search.nodes))
    cost = SearchCost(search.iterations, 0.0)
    return TreeRecord(str(seed), "", "", seed, prompt, search.iterations, nodes, cost)


def draw_rows(
    shape: TreeShape, num_trees: int, vocab_size: int, seed: int
) -> list[dict[str, object]]:
    """Grows trees and draws their paths, as rows of `PATH_SCHEMA`."""
    rows: list[dict[str, object]] = []
    grown = 0
    for number in itertools.count():
        if grown == num_trees:
            break
        tree = grow_tree(shape, vocab_size, derive_seed(seed, number))
        paths = draw_paths(tree, np.random.default_rng(tree.seed))
        grown += bool(paths)
        for index, path in enumerate(paths):
            step_ids = [tree.nodes[node].token_ids for node in path.nodes]
            row: dict[str, object] = dict.fromkeys(PATH_SCHEMA.names)
            row |= {"problem_id": tree.problem_id, "path": index, "prompt_ids": tree.prompt_ids}
            row |= {"step_ids": step_ids, "credits": path.credits, "correct": path.correct}
            rows.append(row | {REFERENCE: [-8.0 * len(step) for step in step_ids]})
    return rows


def padded_tokens(tree: Sequence[StepPath]) -> int:
    """Returns the tokens of the paths of a tree, all as long as the longest."""
    longest = max(len(path.prompt) + sum(map(len, path.steps)) for path in tree)
    return len(tree) * longest


def open_trees(args: Args, shape: Shape) -> Iterator[tuple[str, TreePaths, int]]:
    """Yields each kind of trees with their number in a step.

    Raises:
        InputError: If --data_path can't be read.
    """
    num_trees = args.num_trees or (2 if args.quick else 8)
    if args.data_path is not None:
        with naming("--data_path"):
            data = TreePaths(args.data_path, shape.vocab_size)
        yield "own", data, min(num_trees, len(data))
        return
    for kind, of_kind in TREES.items():
        number = num_trees * of_kind.trees_per_tree
        rows = draw_rows(of_kind, number, shape.vocab_size, args.seed)
        with tempfile.TemporaryDirectory(prefix="bench_dvo_") as folder:
            file = Path(folder) / "paths.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema=PATH_SCHEMA), file)
            yield kind, TreePaths(str(file), shape.vocab_size), number


class Bench:
    """A random policy, to be trained on trees in any of the ways; the learning rate is 0."""

    def __init__(self, shape: Shape, device: torch.device, seed: int):
        self._processes = Processes(0, 1, device)
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_key_value_heads,
            max_position_embeddings=131_072,
            initializer_range=shape.hidden_size**-0.5,
        )
        with device:
            model = Qwen2ForCausalLM(config)
        if shape.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self._policy = TokenLogprobs(model).train()
        self._optimizer = build_optimizer(self._policy, max_lr=0.0, weight_decay=0.0)

    def time(self, data: TreePaths, num_trees: int, rounds: int) -> dict[PackingName, Timing]:
        """Times steps of all ways in turns, after one of each that doesn't count."""
        timings = {way: self._step(data, num_trees, way) for way in WAYS}
        for timing in timings.values():
            timing.seconds.clear()
        for _ in range(rounds):
            for way in WAYS:
                timings[way].seconds += self._step(data, num_trees, way).seconds
        return timings

    def _step(self, data: TreePaths, num_trees: int, way: PackingName) -> Timing:
        device = self._processes.device
        implementation = choose_attention("auto", way, device)
        multiple = FLEX_BLOCK if implementation == "flex_attention" else None
        limit = TOKENS_PER_MICRO_BATCH[device.type]
        fitting = limit // max(map(padded_tokens, islice(data, num_trees)))
        plan = TreePlan(way, max(fitting, 1), limit, multiple)
        self._policy.model.set_attn_implementation(implementation)
        metrics = PathMetrics(0.1, self._processes)
        learner = PolicyLearner(self._policy, DvoLoss(), implementation, self._processes, metrics)
        self._synchronize()
        start = self._clock()
        (mine,) = plan.micro_batches(data, range(num_trees), world_size=1)
        batches = [plan.load(data, indices) for indices in mine]
        result = take_step(learner, self._optimizer, batches, seed=0, step=0)
        assert result is not None  # nobody asks to stop
        self._synchronize()
        return Timing(len(mine), result, [self._clock() - start], 0)

    def _synchronize(self) -> None:
        """Waits until a GPU has done its work."""
        if self._processes.device.type == "cuda":
            torch.cuda.synchronize(self._processes.device)


def main(args: Args) -> None:
    """Prints the table and the ratio."""
    args.check()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    shape = SHAPES[args.shape or ("1.5b" if device.type == "cuda" else "small")]
    rounds = args.rounds or (3 if args.quick else 5)
    bench = Bench(shape, device, args.seed)
    columns = ["trees", "way", "paths", "micro batches", "tokens", "s/step", "trained tokens/s"]
    columns += ["x more", "loss"]
    rows, notes, ratios = [], [], []
    for kind, data, num_trees in open_trees(args, shape):
        timings = bench.time(data, num_trees, rounds)
        check_agreement(timings)
        padded = timings["padded"].loss_tokens_per_second
        num_paths = sum(map(len, islice(data, num_trees)))
        for way, timing in timings.items():
            rows.append(
                [
                    f"{num_trees} {kind}",
                    way,
                    f"{num_paths:,}",
                    f"{timing.num_micro_batches}",
                    f"{timing.result.counts.all:,}",
                    f"{min(timing.seconds):.2f}",
                    f"{timing.loss_tokens_per_second:,.0f}",
                    f"{timing.loss_tokens_per_second / padded:.2f}",
                    f"{timing.result.loss:.4f}",
                ]
            )
        tokens = [timings[way].result.counts.all for way in WAYS]
        notes.append(
            f"{kind}: tokens of padded / shared_prefix {tokens[0] / tokens[2]:.2f}, "
            f"packed / shared_prefix {tokens[1] / tokens[2]:.2f}"
        )
        ratios.append(timings["shared_prefix"].loss_tokens_per_second / padded)
    print_report(columns, rows, notes, min(ratios))


if __name__ == "__main__":
    run_command(DVO_TRAIN, lambda: main(ARGUMENTS))
