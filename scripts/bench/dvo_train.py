"""One DVO step on the same trees of paths, laid out in three ways; trained tokens a second of each.

    python -m scripts.bench.dvo_train --quick       # CPU: within a minute
    python -m scripts.bench.dvo_train               # CPU: some minutes; on a GPU: the real shape

- *padded*: micro batches of one tree, a path a row, padded on the right.
- *packed*: no padding. *shared_prefix*: the prompt and the steps that paths of a tree share are
  computed once. Both in micro batches of at most 16,384 tokens.

Two kinds of trees are drawn. *toy*: 4 paths of at most 4 steps of 4 to 8 tokens, behind a prompt of
24. *paper*: 8 paths of at most 8 steps of 30 to 90 tokens, behind a prompt of 128. The first path
of a tree is fresh; each further one leaves an earlier path behind one of its steps, drawn
uniformly. How much the paths of the paper's trees share is not published: the gain on real trees
is that of their own sharing.

Timing, model shapes and the check that all ways did the same step are those of
`scripts.bench.train_step`. Columns: paths; tokens that go through the model, padding included;
seconds a step; trained tokens a second, a shared step counted for each of its paths, and how many
times as many as padded. The ratio is that of shared_prefix to padded on the paper's trees.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from classifier_lib.attention import FLEX_BLOCK, choose_attention
from classifier_lib.batches import PackingName
from classifier_lib.training.step import build_optimizer, train_step
from dvo_lib.columns import PATH_SCHEMA, REFERENCE
from dvo_lib.data import TreePaths
from dvo_lib.learner import PolicyLearner
from dvo_lib.losses import DvoLoss
from dvo_lib.metrics import PathMetrics
from dvo_lib.policy import TokenLogprobs
from dvo_lib.tree_batches import TreePlan
from run_lib.commands import at_least, parse_command_line, run_command
from run_lib.processes import Processes
from scripts.bench import print_report
from scripts.bench.train_step import SHAPES, WAYS, Shape, Timing, check_agreement

PROGRAM = "scripts.bench.dvo_train"
TOKENS_PER_MICRO_BATCH = 16_384


class TreeShape(NamedTuple):
    """Sizes of the trees of one kind.

    Attributes:
        num_paths: Paths of a tree.
        num_steps: Most steps of a path.
        step_tokens: Fewest and most tokens of a step.
        prompt_tokens: Tokens of the prompt.
        trees_per_tree: Trees of this kind in a step for one of the paper's kind: both take seconds.
    """

    num_paths: int
    num_steps: int
    step_tokens: tuple[int, int]
    prompt_tokens: int
    trees_per_tree: int


TREES = {"toy": TreeShape(4, 4, (4, 8), 24, 8), "paper": TreeShape(8, 8, (30, 90), 128, 1)}


@dataclass(frozen=True)
class Args:
    """Trained tokens per second of a DVO step."""

    quick: bool = False
    """Take 2 trees of the paper's kind and 3 rounds, instead of 8 trees and 5 rounds."""
    shape: Literal["small", "1.5b"] | None = None
    """Model; by default 1.5b on a GPU, small on a CPU."""
    num_trees: int | None = None
    """Trees of the paper's kind in a step, and 8 times as many of the toy's."""
    rounds: int | None = None
    """Timed steps of each way."""
    seed: int = 0
    """Seed of the trees and the weights."""


def draw_trees(
    shape: TreeShape, num_trees: int, vocab_size: int, seed: int
) -> list[dict[str, object]]:
    """Draws the paths of trees, as rows of `PATH_SCHEMA`."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> list[int]:
        return rng.integers(0, vocab_size, count).tolist()

    def steps(count: int) -> list[list[int]]:
        fewest, most = shape.step_tokens
        return [ids(int(rng.integers(fewest, most + 1))) for _ in range(count)]

    rows: list[dict[str, object]] = []
    for tree in range(num_trees):
        prompt, paths = ids(shape.prompt_tokens), [steps(shape.num_steps)]
        while len(paths) < shape.num_paths:
            base = paths[rng.integers(len(paths))]
            kept = int(rng.integers(len(base)))
            more = int(rng.integers(1, shape.num_steps - kept + 1))
            paths.append([*base[:kept], *steps(more)])
        for number, path in enumerate(paths):
            row: dict[str, object] = dict.fromkeys(PATH_SCHEMA.names)
            row |= {"problem_id": str(tree), "path": number, "prompt_ids": prompt}
            row |= {"step_ids": path, "credits": rng.normal(size=len(path)).tolist()}
            row |= {"correct": number % 2 == 0, REFERENCE: [-8.0 * len(step) for step in path]}
            rows.append(row)
    return rows


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

    def time(self, data: TreePaths, rounds: int) -> dict[PackingName, Timing]:
        """Times steps of all ways in turns, after one of each that doesn't count."""
        timings = {way: self._step(data, way) for way in WAYS}
        for timing in timings.values():
            timing.seconds.clear()
        for _ in range(rounds):
            for way in WAYS:
                timings[way].seconds += self._step(data, way).seconds
        return timings

    def _step(self, data: TreePaths, way: PackingName) -> Timing:
        device = self._processes.device
        implementation = choose_attention("auto", way, device)
        multiple = FLEX_BLOCK if implementation == "flex_attention" else None
        plan = TreePlan(way, 1, TOKENS_PER_MICRO_BATCH, multiple)
        self._policy.model.set_attn_implementation(implementation)
        metrics = PathMetrics(0.1, self._processes)
        learner = PolicyLearner(self._policy, DvoLoss(), implementation, self._processes, metrics)
        self._synchronize()
        start = self._clock()
        (mine,) = plan.micro_batches(data, range(len(data)), world_size=1)
        batches = [plan.load(data, trees) for trees in mine]
        result = train_step(learner, self._optimizer, batches, seed=0, step=0)
        assert result is not None  # nobody asks to stop
        self._synchronize()
        return Timing(len(mine), result, [self._clock() - start], 0)

    def _synchronize(self) -> None:
        """Waits until a GPU has done its work."""
        if self._processes.device.type == "cuda":
            torch.cuda.synchronize(self._processes.device)


def main(args: Args) -> None:
    """Prints the table and the ratio."""
    at_least(1, num_trees=args.num_trees, rounds=args.rounds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    shape = SHAPES[args.shape or ("1.5b" if device.type == "cuda" else "small")]
    num_trees = args.num_trees or (2 if args.quick else 8)
    rounds = args.rounds or (3 if args.quick else 5)
    bench = Bench(shape, device, args.seed)
    columns = ["trees", "way", "paths", "micro batches", "tokens", "s/step", "trained tokens/s"]
    columns += ["x more", "loss"]
    rows, ratio = [], 0.0
    for kind, trees in TREES.items():
        drawn = draw_trees(trees, num_trees * trees.trees_per_tree, shape.vocab_size, args.seed)
        with tempfile.TemporaryDirectory(prefix="bench_dvo_") as folder:
            file = Path(folder) / "paths.parquet"
            pq.write_table(pa.Table.from_pylist(drawn, schema=PATH_SCHEMA), file)
            data = TreePaths(str(file), shape.vocab_size)
        timings = bench.time(data, rounds)
        check_agreement(timings)
        padded = timings["padded"].loss_tokens_per_second
        for way, timing in timings.items():
            rows.append(
                [
                    kind,
                    way,
                    f"{data.num_paths:,}",
                    f"{timing.num_micro_batches}",
                    f"{timing.result.counts.all:,}",
                    f"{min(timing.seconds):.2f}",
                    f"{timing.loss_tokens_per_second:,.0f}",
                    f"{timing.loss_tokens_per_second / padded:.2f}",
                    f"{timing.result.loss:.4f}",
                ]
            )
        ratio = timings["shared_prefix"].loss_tokens_per_second / padded
    print_report(columns, rows, [], ratio)


if __name__ == "__main__":
    arguments = parse_command_line(Args, PROGRAM, __doc__)
    run_command(PROGRAM, lambda: main(arguments))
