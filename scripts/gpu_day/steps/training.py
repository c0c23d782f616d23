"""Training steps in each layout, by each attention, as `scripts.bench.train_step` times them."""

from collections.abc import Callable
from typing import NamedTuple

from classifier_lib.batches import PackingName
from classifier_lib.training.step import StepResult
from scripts.bench.train_step import Bench, Timing, is_same_step
from scripts.gpu_day.processes import StepFailed
from scripts.gpu_day.scale import OUT_OF_MEMORY, current_scale, unless_out_of_memory


class Row(NamedTuple):
    """One layout by one attention.

    Attributes:
        layout: Layout of the samples.
        attention: Attention; with packed rows sdpa goes segment by segment.
        micro_batches: Micro batches of the step.
        tokens: Tokens that go through the model, padding included.
        first_seconds: Seconds of the first step, which compiles.
        seconds: Seconds of the second step.
        loss_tokens_per_second: Rate of the tokens with loss.
        mfu: Model FLOPs utilisation: padding and recomputation don't count; None if the FLOP/s of
            the device are not known.
        peak_gb: Largest memory; None on a CPU.
        loss: Mean loss.
        gradient_norm: Norm of the gradient.
        note: `out of memory`, or nothing.
    """

    layout: str
    attention: str
    micro_batches: int | None = None
    tokens: int | None = None
    first_seconds: float | None = None
    seconds: float | None = None
    loss_tokens_per_second: float | None = None
    mfu: float | None = None
    peak_gb: float | None = None
    loss: float | None = None
    gradient_norm: float | None = None
    note: str = ""


def measure(report: Callable[[Row], None]) -> None:
    """Reports a row a way.

    Raises:
        StepFailed: If the ways did different steps, at the end.
    """
    scale = current_scale()
    bench = Bench(scale.shape, scale.samples, scale.micro_batch_size, scale.device, seed=0)
    expected: tuple[str, StepResult] | None = None
    different = []
    for way, attention in scale.ways:
        timings = unless_out_of_memory(two_steps, bench, way, attention)
        if timings is None:
            bench.model.zero_grad()
            report(Row(way, attention, note=OUT_OF_MEMORY))
            continue
        first, second = timings
        result = second.result
        on_gpu = scale.device.type == "cuda"
        report(
            Row(
                way,
                attention,
                second.num_micro_batches,
                result.counts.all,
                first.seconds[0],
                second.seconds[0],
                second.loss_tokens_per_second,
                bench.mfu(second),
                second.memory / 1e9 if on_gpu else None,
                result.loss,
                result.grad_norm,
            )
        )
        name = f"{way}, {attention}"
        expected = expected or (name, result)
        if not is_same_step(expected[1], result):
            different.append(name)
    if different and expected:
        raise StepFailed(f"other loss or gradient than {expected[0]}: {'; '.join(different)}")


def two_steps(bench: Bench, way: PackingName, attention: str) -> tuple[Timing, Timing]:
    """Returns the first step, which compiles and makes the optimizer's states, and the second."""
    return bench.step(way, attention), bench.step(way, attention)
