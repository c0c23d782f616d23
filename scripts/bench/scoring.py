"""Tokens and seconds of the value model for one search, scored in the published way and in ours.

    python -m scripts.bench.scoring --quick          # CPU: within a minute
    python -m scripts.bench.scoring                  # CPU: some minutes; on a GPU: the real shape

- *published*: each candidate is scored alone, with its whole prefix; when the search is over, the
  final beams are scored once more.
- *prefix cache*, ours: `ValueScorer`. A round's candidates share batches and only their new blocks
  are computed; the value of a response is that of its last block.

One beam search of width 2 with 8 blocks in flight (`BeamSearch`, the paper's setting), at blocks of
1/4, 1/8 and 1/16 of the maximum length. Blocks are random tokens and no response ends before the
limit, so that the tokens are known in advance: with k rounds the published way computes
4 k (k + 1) + 4 k blocks and ours 8 k, which is (k + 2) / 2 times fewer, prompt aside: 3, 5 and 9.
Our scorer guides the search; the published way then scores the candidates of that same search.
The run fails unless all values agree (to 1e-4 in float32, 0.05 in bfloat16).

The ways take turns, after one short search of each that doesn't count; the fastest of the rounds
counts. On a CPU the seconds are CPU time of one thread, so other work on the machine matters
little. Only the scoring is timed. With a single search our way can batch the least.

`--shape 1.5b`, the default on a GPU, is DeepSeek-R1-Distill-Qwen-1.5B with random weights in
bfloat16, at 16,384 tokens; `--shape small`, the default on a CPU, has the same proportions at 2.3M
parameters (`train_step.SHAPES`) in float32, at 2,048 tokens (512 with --quick).

Columns: block size in tokens; forward passes; tokens that went through the model, without padding,
and how many times fewer; seconds and how many times fewer; the largest difference of a value to the
published way's. The ratio is that of the seconds at 1/8, the middle setting.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from run_lib.commands import check_command_line
    from scripts.bench.args import SCORING, ScoringArgs

    ARGUMENTS = check_command_line(ScoringArgs, SCORING, __doc__)

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from classifier_lib.modeling import ValueModel
from classifier_lib.scoring import ScoringRequest, ValueScorer
from run_lib.commands import run_command
from scripts.bench import print_report
from scripts.bench.args import PARTS, SCORING
from scripts.bench.args import ScoringArgs as Args
from scripts.bench.train_step import SHAPES, build_model
from search_lib.engines.base import Block
from search_lib.strategies import BeamSearch, Limits

MIDDLE = 8
NUM_BLOCKS, WIDTH = 8, 2
PROMPT_SHARE = 128
"""Tokens of a response at most to one of the prompt."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
PUBLISHED, OURS = "published", "prefix cache"


class Search(NamedTuple):
    """The requests of one search, and the values of our way.

    Attributes:
        requests: Prefix and blocks of every expansion, by round.
        values: Value of each block.
        final_paths: Prompt and response of each beam in the end.
        final_values: Values of these, as the search reports them.
    """

    requests: list[list[ScoringRequest]]
    values: list[list[list[float]]]
    final_paths: list[list[int]]
    final_values: list[float]

    @property
    def block_values(self) -> list[float]:
        """Value of each block, in one list."""
        return [value for of_round in self.values for values in of_round for value in values]


class Work(NamedTuple):
    """The work of one way for a search.

    Attributes:
        passes: Forward passes.
        tokens: Tokens that went through the model, without padding.
        seconds: Seconds of scoring.
        difference: Largest difference of a value to that of the other way.
        mean_difference: Mean of these differences.
    """

    passes: int
    tokens: int
    seconds: float
    difference: float = 0.0
    mean_difference: float = 0.0

    def compared(self, values: Sequence[float], others: Sequence[float]) -> "Work":
        """Returns this work with the differences of its values to others."""
        differences = [abs(a - b) for a, b in zip(values, others, strict=True)]
        mean = sum(differences) / len(differences)
        return self._replace(difference=max(differences), mean_difference=mean)


def prompt_tokens(max_length: int) -> int:
    """Returns the tokens of the prompt."""
    return max(1, max_length // PROMPT_SHARE)


class Bench:
    """A value model whose forward passes are counted.

    Args:
        model: The value model.
        max_length: Tokens of a response.
        seed: Seed of the tokens.
    """

    def __init__(self, model: ValueModel, max_length: int, seed: int):
        self._model = model
        self._max_length = max_length
        self._seed = seed
        self._on_gpu = model.device.type == "cuda"
        self._clock = time.perf_counter if self._on_gpu else time.process_time
        self._passes = 0
        model.register_forward_hook(self._count)

    def compare(self, parts: int) -> dict[str, Work]:
        """Runs one search with `parts` blocks a response and scores it in both ways.

        Raises:
            RuntimeError: If the values differ by more than rounding.
        """
        search, ours = self.search(parts)
        published = self.score_alone(search)
        tolerance = TOLERANCE[self._model.dtype]
        if published.difference > tolerance:
            raise RuntimeError(
                f"values differ by {published.difference} at blocks of 1/{parts}, more than "
                f"{tolerance}"
            )
        return {
            PUBLISHED: published._replace(difference=0.0, mean_difference=0.0),
            OURS: ours._replace(difference=published.difference),
        }

    def search(self, parts: int) -> tuple[Search, Work]:
        """Runs a search with `parts` blocks a response, guided by our way."""
        rng = np.random.default_rng(self._seed)
        vocab_size = self._model.config.vocab_size
        size = self._max_length // parts

        def draw(count: int) -> list[int]:
            return rng.integers(0, vocab_size, count).tolist()

        scorer = ValueScorer(self._model)
        prompt = draw(prompt_tokens(self._max_length))
        strategy = BeamSearch(prompt, Limits(self._max_length, size, ()), 0, NUM_BLOCKS, WIDTH)
        requests, values = [], []
        passes, seconds = self._passes, 0.0
        while not strategy.done:
            expansions = strategy.ask()
            of_round = [
                ScoringRequest(expansion.prefix_ids, [draw(size) for _ in range(expansion.n)])
                for expansion in expansions
            ]
            took, scores = self._timed(lambda of_round=of_round: scorer.score(of_round))
            seconds += took
            requests.append(of_round)
            values.append([of_request.values for of_request in scores])
            for expansion, request, of_request in zip(expansions, of_round, scores, strict=True):
                blocks = [Block(ids, "length") for ids in request.blocks]
                strategy.tell(expansion.path_id, blocks, of_request.values)
        responses = strategy.result()
        search = Search(
            requests,
            values,
            [prompt + response.token_ids for response in responses],
            [response.value for response in responses if response.value is not None],
        )
        return search, Work(self._passes - passes, scorer.tokens_computed, seconds)

    def score_again(self, search: Search) -> Work:
        """Scores the blocks of a search in our way, from an empty cache."""
        scorer = ValueScorer(self._model)
        passes = self._passes
        seconds, values = self._timed(
            lambda: [
                value
                for of_round in search.requests
                for scores in scorer.score(of_round)
                for value in scores.values
            ]
        )
        work = Work(self._passes - passes, scorer.tokens_computed, seconds)
        return work.compared(values, search.block_values)

    def score_alone(self, search: Search) -> Work:
        """Scores the paths of a search in the published way."""
        paths = [
            request.prefix_ids + block
            for of_round in search.requests
            for request in of_round
            for block in request.blocks
        ]
        paths += search.final_paths
        passes = self._passes
        seconds, values = self._timed(lambda: [self._value_of(path) for path in paths])
        work = Work(self._passes - passes, sum(map(len, paths)), seconds)
        return work.compared(values, search.block_values + search.final_values)

    @torch.inference_mode()
    def _value_of(self, path: list[int]) -> float:
        input_ids = torch.tensor([path], device=self._model.device)
        return self._model(input_ids, use_cache=False).success_probs[0, -1].item()

    def _timed(self, function: Callable) -> tuple[float, list]:
        """Returns seconds and result; each of the functions ends by reading from the device."""
        if self._on_gpu:
            torch.cuda.synchronize()
        start = self._clock()
        result = function()
        return self._clock() - start, result

    def _count(self, *_: object) -> None:
        self._passes += 1


def report(work: dict[int, dict[str, Work]], max_length: int) -> None:
    """Prints the table and the ratio."""
    columns = ["way", "block", "passes", "tokens", "x fewer", "seconds", "x faster", "difference"]
    rows = []
    for parts, by_way in work.items():
        published = by_way[PUBLISHED]
        for way, done in by_way.items():
            rows.append(
                [
                    way,
                    f"{max_length // parts:,}",
                    f"{done.passes}",
                    f"{done.tokens:,}",
                    f"{published.tokens / done.tokens:.2f}",
                    f"{done.seconds:.2f}",
                    f"{published.seconds / done.seconds:.2f}",
                    f"{done.difference:.1e}",
                ]
            )
    expected = ", ".join(f"{(parts + 2) / 2:.0f} at 1/{parts}" for parts in work)
    notes = [
        f"one search of {NUM_BLOCKS} blocks, width {WIDTH}; prompt of {prompt_tokens(max_length)} "
        f"tokens, responses of {max_length:,}",
        f"x fewer tokens that follow from the procedures, prompt aside: {expected}",
        f"the ratio is that of the seconds at blocks of 1/{MIDDLE}",
    ]
    middle = work[MIDDLE]
    print_report(columns, rows, notes, middle[PUBLISHED].seconds / middle[OURS].seconds)


def main(args: Args) -> None:
    """Prints the table and the ratio.

    Raises:
        InputError: If the blocks don't divide a response.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    name = args.shape or ("1.5b" if device.type == "cuda" else "small")
    max_length = args.max_length or (512 if args.quick else 2048)
    if args.max_length is None and name == "1.5b" and not args.quick:
        max_length = SHAPES[name].max_length
    args.check()
    model = build_model(SHAPES[name], device, args.seed).eval()
    model.gradient_checkpointing_disable()  # it would forbid the cache
    if name == "1.5b":
        model = model.bfloat16()
    Bench(model, max(PARTS), args.seed).compare(MIDDLE)  # warms up
    bench = Bench(model, max_length, args.seed)
    work: dict[int, dict[str, Work]] = {}
    for _ in range(args.rounds or (1 if args.quick else 2)):
        for parts in PARTS:
            done = bench.compare(parts)
            for way, best in work.get(parts, {}).items():
                done[way] = min(done[way], best, key=lambda one: one.seconds)
            work[parts] = done
    report(work, max_length)


if __name__ == "__main__":
    run_command(SCORING, lambda: main(ARGUMENTS))
