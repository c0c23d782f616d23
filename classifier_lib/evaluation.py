"""Token-level evaluation of a value model on held-out roll-outs, overall and by position.

python -m classifier_lib.evaluation --model outputs/my_run/final --data held_out.parquet \
    --data_num_response 56

Runs under torchrun as well; the numbers are those of one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
import tyro
from torch import nn
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

from classifier_lib.atomic_files import write_json
from classifier_lib.data import Batch, GroupedRollouts, collate_padded
from classifier_lib.losses import LOSSES, TrainingLoss
from classifier_lib.modeling import SUCCESS_CLASS, Qwen2ForClassifier
from classifier_lib.training import (
    Processes,
    distributed,
    exit_with_error,
    open_rollouts,
)

NUM_DECILES = 10
EVALUATION_FILE = "evaluation.json"


class TokenMetrics(Metric):
    """Exact token-level metrics of P(correct), overall and by position in the sequence.

    The target is the reward (1 for class 1 only). Every scored token is kept (10 bytes), since
    an exact AUROC needs all of them; processes are merged by torchmetrics in `compute`.

    Positions count from the start of the sequence, prompt included, because the data does not tell
    prompt from prefix: a prompt is a few per cent of a long response.

    Args:
        bucket_tokens: Width of the absolute position buckets, in tokens.
    """

    full_state_update = False
    probs: list[torch.Tensor]
    rewards: list[torch.Tensor]
    deciles: list[torch.Tensor]
    positions: list[torch.Tensor]
    loss_sum: torch.Tensor
    loss_terms: torch.Tensor
    num_right: torch.Tensor

    def __init__(self, bucket_tokens: int):
        super().__init__()
        self.bucket_tokens = bucket_tokens
        for name in ("probs", "rewards", "deciles", "positions"):
            self.add_state(name, [], dist_reduce_fx="cat")
        for name in ("loss_sum", "loss_terms", "num_right"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        logits: torch.Tensor,
        probs: torch.Tensor,
        loss: torch.Tensor,
        num_terms: torch.Tensor,
        batch: Batch,
    ) -> None:
        """Adds a batch.

        Args:
            logits: [B, T, L].
            probs: [B, T], `success_probs` of the model.
            loss: Scalar, mean loss of the batch.
            num_terms: Scalar, terms in that mean.
            batch: The batch that was scored.
        """
        mask = batch.loss_mask.to(probs.device)
        labels = batch.labels.to(probs.device)[:, None].expand_as(mask)
        rewards = labels == SUCCESS_CLASS
        lengths = batch.attention_mask.to(probs.device).sum(dim=1, keepdim=True)
        positions = torch.arange(mask.shape[1], device=probs.device).expand_as(mask)
        deciles = (positions * NUM_DECILES // lengths).clamp(max=NUM_DECILES - 1)
        right = logits.argmax(-1) == labels if logits.shape[-1] == 3 else (probs > 0.5) == rewards
        self.probs.append(probs[mask])
        self.rewards.append(rewards[mask].to(torch.uint8))
        self.deciles.append(deciles[mask].to(torch.uint8))
        self.positions.append(positions[mask].to(torch.int32))
        self.loss_sum += loss.double() * num_terms
        self.loss_terms += num_terms
        self.num_right += right[mask].sum()

    def add_nothing(self) -> None:
        """Gives the lists their types, so that a process without samples can join the gather."""
        self.probs.append(torch.zeros(0, device=self.device))
        self.rewards.append(torch.zeros(0, dtype=torch.uint8, device=self.device))
        self.deciles.append(torch.zeros(0, dtype=torch.uint8, device=self.device))
        self.positions.append(torch.zeros(0, dtype=torch.int32, device=self.device))

    def compute(self) -> dict[str, Any]:
        """Returns the metrics as `evaluate` describes them."""
        probs = dim_zero_cat(self.probs)
        rewards = dim_zero_cat(self.rewards).long()
        deciles = dim_zero_cat(self.deciles).long()
        buckets = dim_zero_cat(self.positions).long() // self.bucket_tokens
        num_tokens = probs.numel()
        num_buckets = int(buckets.max()) + 1 if num_tokens else 0
        return {
            "num_tokens": num_tokens,
            "loss": float(self.loss_sum / self.loss_terms) if self.loss_terms else None,
            "accuracy": float(self.num_right / num_tokens) if num_tokens else None,
            "auroc": _auroc(probs, rewards),
            "brier": float((probs - rewards).double().square().mean()) if num_tokens else None,
            "by_decile": [
                {
                    "from": decile / NUM_DECILES,
                    "to": (decile + 1) / NUM_DECILES,
                    "num_tokens": int((deciles == decile).sum()),
                    "auroc": _auroc(probs[deciles == decile], rewards[deciles == decile]),
                }
                for decile in range(NUM_DECILES)
            ],
            "by_position": [
                {
                    "from": bucket * self.bucket_tokens,
                    "to": (bucket + 1) * self.bucket_tokens,
                    "num_tokens": int((buckets == bucket).sum()),
                    "auroc": _auroc(probs[buckets == bucket], rewards[buckets == bucket]),
                }
                for bucket in range(num_buckets)
            ],
        }


def _auroc(probs: torch.Tensor, rewards: torch.Tensor) -> float | None:
    """Returns the AUROC, None where only one class (or nothing) is there."""
    num_right = int(rewards.sum())
    if num_right in (0, rewards.numel()):
        return None
    return float(binary_auroc(probs, rewards))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: GroupedRollouts,
    loss: TrainingLoss,
    batch_size: int,
    max_length: int,
    bucket_tokens: int,
    processes: Processes,
    with_mask: bool,
) -> dict[str, Any]:
    """Evaluates a value model on every roll-out token of a data set.

    Args:
        model: `Qwen2ForClassifier`, without DDP around it; its training mode is restored.
        data: Held-out roll-outs.
        loss: The loss that `model` computes.
        batch_size: Samples a forward on each process (even for a loss of pairs).
        max_length: Longest sequence in tokens, see `collate_padded`.
        bucket_tokens: Width of the absolute position buckets, in tokens.
        processes: The processes that share the work; all of them must call this.
        with_mask: See `Batch.model_inputs`.

    Returns:
        `num_tokens, loss, accuracy, auroc, brier`, and the lists `by_decile` (deciles of the
        sequence) and `by_position` (`bucket_tokens` each) of `{from, to, num_tokens, auroc}`; an
        AUROC of one class only is None. Accuracy is over the terminal classes with three logits,
        over the reward else; it and Brier are means over tokens. The same on every process.
    """
    metrics = TokenMetrics(bucket_tokens).to(processes.device)
    metrics.add_nothing()
    was_training = model.training
    model.eval()
    device = processes.device
    for start in range(processes.rank * batch_size, len(data), processes.world_size * batch_size):
        indices = range(start, min(start + batch_size, len(data)))
        batch = collate_padded([data[i] for i in indices], max_length)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = model(**batch.model_inputs(device, with_mask))
        terms = loss.count_terms(batch.labels, batch.loss_mask).to(device)
        metrics.update(output.logits, output.success_probs, output.loss, terms, batch)
    model.train(was_training)
    return metrics.compute()


def format_evaluation(metrics: dict[str, Any]) -> str:
    """Returns the metrics of `evaluate` as a small table."""

    def show(value: float | None) -> str:
        return "     -" if value is None else f"{value:6.4f}"

    names = ("loss", "accuracy", "auroc", "brier")
    lines = ["  ".join(f"{name} {show(metrics[name])}" for name in names)]
    lines.append(f"{'position':>18}  {'tokens':>12}   auroc")
    for bucket in metrics["by_decile"]:
        span = f"{bucket['from']:.0%} - {bucket['to']:.0%}"
        lines.append(f"{span:>18}  {bucket['num_tokens']:>12,}  {show(bucket['auroc'])}")
    for bucket in metrics["by_position"]:
        span = f"{bucket['from']} - {bucket['to']}"
        lines.append(f"{span:>18}  {bucket['num_tokens']:>12,}  {show(bucket['auroc'])}")
    return "\n".join(lines)


def scalar_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers of `evaluate` that a tracker can plot, by name."""
    scalars = {name: metrics[name] for name in ("loss", "accuracy", "auroc", "brier")}
    for bucket in metrics["by_decile"]:
        scalars[f"auroc_decile_{round(bucket['from'] * NUM_DECILES)}"] = bucket["auroc"]
    return {f"eval/{name}": value for name, value in scalars.items() if value is not None}


@dataclass(frozen=True)
class EvaluationArgs:
    """Evaluate a value model on held-out roll-outs."""

    model: str
    """Folder or Hub id of the value model."""
    data: str
    """Parquet file or folder, save_to_disk folder or Hub id, with the columns of OpenR1-VM."""
    data_num_response: int = 56
    """Responses in every row."""
    batch_size: int = 8
    """Samples in a forward of each process (even)."""
    max_length: int = 17408
    """Longest sequence in tokens, prompt included; longer ones are cut on the right."""
    bucket_tokens: int = 1024
    """Width of the absolute position buckets, in tokens."""
    attention_impl: str = "sdpa"
    """Attention implementation of transformers; flash_attention_2 falls back to sdpa."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the parameters."""
    output: Path = Path(EVALUATION_FILE)
    """Where the metrics are written, as JSON."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the evaluation command."""
    args = tyro.cli(EvaluationArgs, args=argv, use_underscores=True)
    if min(args.batch_size, args.max_length, args.bucket_tokens) < 1:
        exit_with_error(
            "evaluation", "--batch_size, --max_length, --bucket_tokens must be positive"
        )
    transformers.utils.logging.disable_progress_bar()
    with distributed() as processes:
        try:
            model, info = Qwen2ForClassifier.from_pretrained(
                args.model,
                attn_implementation=args.attention_impl,
                dtype=getattr(torch, args.dtype),
                use_cache=False,
                output_loading_info=True,
            )
            if info["missing_keys"]:  # transformers would go on with random weights
                missing = ", ".join(sorted(info["missing_keys"]))
                raise ValueError(f"{args.model} is no value model: no weights for {missing}")
            vocab_size = model.config.vocab_size
            data = open_rollouts(args.data, args.data_num_response, vocab_size, processes)
        except (OSError, ValueError) as error:
            exit_with_error("evaluation", str(error))
        metrics = evaluate(
            model.to(processes.device),
            data,
            LOSSES["cross_entropy"],  # the loss of a loaded model, whatever it was trained with
            args.batch_size,
            args.max_length,
            args.bucket_tokens,
            processes,
            with_mask=model.config._attn_implementation == "flash_attention_2",
        )
        if processes.rank == 0:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.output, metrics)
            print(format_evaluation(metrics))


if __name__ == "__main__":
    main()
