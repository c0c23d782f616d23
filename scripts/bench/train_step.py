"""One optimizer step on the same samples, laid out in three ways; loss tokens a second of each.

    python -m scripts.bench.train_step --quick       # CPU: within a minute
    python -m scripts.bench.train_step               # CPU: some minutes; on a GPU: the real shape

- *padded*, the published way: micro batches of 8 samples, one a row, padded on the right to a
  multiple of max_length / 16 (1,024 at full length). Right padding needs no attention mask, so it
  gets the fastest causal attention that the machine has.
- *packed*: no padding. *shared_prefix*: the prefix that the four samples cut from one roll-in share
  is computed once. Both in micro batches of as many tokens as 8 whole samples can have.

Timed is `training.train_step`, optimizer included, with the planning and collating that precede it
in the training loop. The ways take turns; the fastest of the rounds counts. On a CPU the seconds
are CPU time of one thread, so other work on the machine matters little. The learning rate is 0:
every step starts from the same weights. The run fails unless the ways agree in the loss (to 1e-3),
the norm of the gradient (to 1e-2) and the number of loss tokens. Dropout is 0.

The samples are drawn by the data recipe (`training_rows.draw_row`), each group of four from another
problem: by the published counts a sample has 14.3k of at most 16.4k tokens, 5.8k of them with loss.
So packing should compute 1.15 times fewer tokens than padding, and shared prefixes 1.6 times fewer
than packing. Everything is scaled with max_length.

`--shape 1.5b`, the default on a GPU, is DeepSeek-R1-Distill-Qwen-1.5B with random weights, bf16
autocast and gradient checkpointing, at 16,384 tokens; causal attention then takes 0.54 times the
FLOPs of the linear layers. `--shape small`, the default on a CPU, has 0.13: hidden 192 with the
same proportions, 2 layers, 2.3M parameters, 512 tokens. Sharing prefixes saves a little less in
attention (pairs of tokens, 1.65 times fewer than padded, counted at full length) than in linear
layers (tokens, 1.85 times fewer): by FLOPs the small shape can gain 1.83 and the real one 1.78.

Columns: micro batches of the step; tokens that go through the model, padding included, and how many
times fewer than padded; seconds a step; loss tokens a second, and how many times as many as padded;
loss; norm of the gradient. On a GPU also peak memory in GB (1e9 bytes) and, if its FLOP/s are
known, MFU, in which padding and recomputation don't count. The ratio is loss tokens a second of the
faster of our two ways to the published one.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from run_lib.commands import check_command_line
    from scripts.bench.args import TRAIN_STEP, TrainStepArgs

    ARGUMENTS = check_command_line(TrainStepArgs, TRAIN_STEP, __doc__)

import dataclasses
import math
import time
from dataclasses import dataclass

import torch
from transformers import Qwen2Config

from classifier_lib.attention import FLEX_BLOCK, choose_attention
from classifier_lib.batches import BatchPlan, PackingName
from classifier_lib.data import GroupedRollouts, GroupSampler
from classifier_lib.flops import ModelSize
from classifier_lib.learner import Learner
from classifier_lib.losses import LOSSES
from classifier_lib.modeling import Qwen2ForClassifier
from classifier_lib.training.step import StepResult, build_optimizer, train_step
from classifier_lib.training.throughput import peak_flops
from run_lib.commands import run_command
from run_lib.processes import Processes
from scripts.bench import print_report
from scripts.bench.args import NUM_CUTS, TRAIN_STEP
from scripts.bench.args import TrainStepArgs as Args
from scripts.bench.training_rows import draw_rows

WAYS: tuple[PackingName, ...] = ("padded", "packed", "shared_prefix")
"""The published way first."""
LOSS = LOSSES["cross_entropy"]
LOSS_TOLERANCE, GRAD_NORM_TOLERANCE = 1e-3, 1e-2


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of its training.

    Attributes:
        vocab_size: Tokens of the vocabulary.
        hidden_size: Width of the residual stream.
        intermediate_size: Width of the MLPs.
        num_layers: Number of layers.
        num_heads: Query heads of a layer.
        num_key_value_heads: Key and value heads of a layer.
        max_length: Longest sample, in tokens.
        checkpointing: Whether the backward pass recomputes the activations of layers.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    max_length: int
    checkpointing: bool


SHAPES = {
    "small": Shape(4096, 192, 1120, 2, 3, 1, 512, False),
    "1.5b": Shape(151_936, 1536, 8960, 28, 12, 2, 16_384, True),
}


@dataclass
class Timing:
    """Steps of one way.

    Attributes:
        num_micro_batches: Micro batches of the step.
        result: Result of the step.
        seconds: Time of each timed step.
        memory: Largest memory of one of them on a GPU, in bytes, weights and states of the
            optimizer included; 0 on a CPU.
    """

    num_micro_batches: int
    result: StepResult
    seconds: list[float]
    memory: int = 0

    @property
    def loss_tokens_per_second(self) -> float:
        """Rate of the fastest step: other work on the machine only ever adds time."""
        return self.result.counts.loss / min(self.seconds)

    def add(self, other: "Timing") -> None:
        """Adds the times of further steps of the same way."""
        self.seconds += other.seconds
        self.memory = max(self.memory, other.memory)


def build_model(shape: Shape, device: torch.device, seed: int) -> Qwen2ForClassifier:
    """Returns a random model, in training mode but without dropout."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=131_072,
        # Large enough for logits that depend on the context, so that the losses can be compared.
        initializer_range=shape.hidden_size**-0.5,
        attention_dropout=0.0,
        use_cache=False,
    )
    config.num_labels = LOSS.num_labels
    with device:
        model = Qwen2ForClassifier(config)
    if shape.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


class Bench:
    """The model and the samples of a step, to be trained on in any of the ways.

    Args:
        shape: The model, with the maximum length to use.
        total_batch_size: Samples of the step, whole groups.
        micro_batch_size: See `Args`.
        device: Device to train on.
        seed: Seed of the weights, the samples and their order.

    Attributes:
        model: The model.
        size: Its size.
    """

    def __init__(
        self,
        shape: Shape,
        total_batch_size: int,
        micro_batch_size: int,
        device: torch.device,
        seed: int,
    ):
        self._shape = shape
        self.micro_batch_size = micro_batch_size
        self._processes = Processes(0, 1, device)
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter
        rows = draw_rows(total_batch_size // NUM_CUTS, shape.max_length, 1, shape.vocab_size, seed)
        self._data = GroupedRollouts(rows, NUM_CUTS, shape.vocab_size)
        sampler = GroupSampler(self._data.num_rows, NUM_CUTS, NUM_CUTS, seed)
        self._indices = sampler.next_batch(total_batch_size).tolist()
        self.model = build_model(shape, device, seed)
        self.size = ModelSize.of(self.model)
        self._optimizer = build_optimizer(self.model, max_lr=0.0, weight_decay=0.1)

    def step(self, way: PackingName, attention: str = "auto") -> Timing:
        """Takes and times one step.

        Args:
            way: Layout of the samples.
            attention: See `choose_attention`.
        """
        device = self._processes.device
        implementation = choose_attention(attention, way, device)
        multiple = FLEX_BLOCK if implementation == "flex_attention" else None
        if way == "padded":
            multiple = self._shape.max_length // 16
        plan = BatchPlan(
            way,
            self._shape.max_length,
            self.micro_batch_size,
            group_size=NUM_CUTS,
            multiple=multiple,
        )
        self.model.set_attn_implementation(implementation)
        learner = Learner(self.model, LOSS, implementation, self._processes)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._synchronize()
        start = self._clock()
        (mine,) = plan.micro_batches(self._data, self._indices, world_size=1)
        batches = [plan.load(self._data, samples) for samples in mine]
        result = train_step(learner, self._optimizer, batches, seed=0, step=0)
        assert result is not None  # nobody asks to stop
        self._synchronize()
        seconds = self._clock() - start
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        return Timing(len(mine), result, [seconds], memory)

    def time(self, rounds: int) -> dict[PackingName, Timing]:
        """Times steps of all ways in turns, after one of each that doesn't count.

        The first of all has not yet the memory of the optimizer's states.
        """
        for way in WAYS:
            self.step(way)
        timings = {way: self.step(way) for way in WAYS}
        for _ in range(rounds - 1):
            for way, timing in timings.items():
                timing.add(self.step(way))
        return timings

    def mfu(self, timing: Timing) -> float | None:
        """Returns model FLOPs utilisation; None for a CPU, or a GPU that isn't listed."""
        peak = peak_flops(self._processes.device)
        flops = self.size.training_flops(timing.result.counts)
        return flops / min(timing.seconds) / peak if peak else None

    def _synchronize(self) -> None:
        """Waits until a GPU has done its work."""
        if self._processes.device.type == "cuda":
            torch.cuda.synchronize(self._processes.device)


def is_same_step(first: StepResult, other: StepResult) -> bool:
    """Returns whether two steps agree in the loss, the gradient and the loss tokens."""
    return (
        math.isclose(other.loss, first.loss, rel_tol=LOSS_TOLERANCE)
        and math.isclose(other.grad_norm, first.grad_norm, rel_tol=GRAD_NORM_TOLERANCE)
        and other.counts.loss == first.counts.loss
    )


def check_agreement(timings: dict[PackingName, Timing]) -> None:
    """Checks that all ways did the same step.

    Raises:
        RuntimeError: If they didn't.
    """
    first = timings[WAYS[0]].result
    for way in WAYS[1:]:
        other = timings[way].result
        if not is_same_step(first, other):
            raise RuntimeError(f"{WAYS[0]} and {way} did different steps: {first}, {other}")


def report(timings: dict[PackingName, Timing], bench: Bench, num_samples: int) -> None:
    """Prints the table, the lengths of the samples, and the ratio."""
    published = timings[WAYS[0]]
    on_gpu, has_mfu = bench.model.device.type == "cuda", bench.mfu(published) is not None
    columns = ["way", "micro batches", "tokens", "x fewer", "s/step", "loss tokens/s", "x more"]
    columns += ["loss", "grad norm"] + ["peak GB"] * on_gpu + ["MFU"] * has_mfu
    rows = []
    for way, timing in timings.items():
        counts, seconds = timing.result.counts, min(timing.seconds)
        row = [
            way,
            f"{timing.num_micro_batches}",
            f"{counts.all:,}",
            f"{published.result.counts.all / counts.all:.2f}",
            f"{seconds:.2f}",
            f"{timing.loss_tokens_per_second:,.0f}",
            f"{timing.loss_tokens_per_second / published.loss_tokens_per_second:.2f}",
            f"{timing.result.loss:.5f}",
            f"{timing.result.grad_norm:.4f}",
        ]
        if on_gpu:
            row.append(f"{timing.memory / 1e9:.1f}")
        if has_mfu:
            row.append(f"{bench.mfu(timing):.1%}")
        rows.append(row)
    padded, packed, shared = (timings[way].result.counts for way in WAYS)
    notes = [
        f"{num_samples} samples of {packed.valid / num_samples:,.0f} tokens on average, "
        f"{packed.loss / num_samples:,.0f} with loss",
        f"tokens: padded / packed {padded.all / packed.all:.2f} (recipe: 1.15), "
        f"packed / shared_prefix {packed.all / shared.all:.2f} (recipe: 1.6)",
    ]
    best = max(timings[way].loss_tokens_per_second for way in WAYS[1:])
    print_report(columns, rows, notes, best / published.loss_tokens_per_second)


def main(args: Args) -> None:
    """Prints the table and the ratio.

    Raises:
        InputError: If the samples aren't whole groups.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    shape = SHAPES[args.shape or ("1.5b" if device.type == "cuda" else "small")]
    shape = dataclasses.replace(shape, max_length=args.max_length or shape.max_length)
    num_samples = args.total_batch_size or (16 if args.quick else 64)
    args.check()
    bench = Bench(shape, num_samples, args.micro_batch_size, device, args.seed)
    timings = bench.time(args.rounds or (4 if args.quick else 5))
    report(timings, bench, num_samples)
    check_agreement(timings)


if __name__ == "__main__":
    run_command(TRAIN_STEP, lambda: main(ARGUMENTS))
