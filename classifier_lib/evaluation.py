"""Token-level evaluation of a value model on held-out roll-outs, overall and by position.

python -m classifier_lib.evaluation --model outputs/my_run/final --data held_out.parquet \
    --data_num_response 56

Runs under torchrun as well; the numbers are those of one process.
"""

if __name__ == "__main__":  # ahead of imports that take seconds
    from run_lib.interrupts import leave_on_interrupt

    leave_on_interrupt()

    from classifier_lib.args import EVALUATION, EvaluationArgs
    from run_lib.commands import check_command_line

    check_command_line(EvaluationArgs, EVALUATION, __doc__)

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error
from torchmetrics.utilities import dim_zero_cat

from classifier_lib.args import EVALUATION, EvaluationArgs
from classifier_lib.batches import Batch, BatchPlan
from classifier_lib.data import GroupedRollouts, format_bad_rows
from classifier_lib.learner import Learner, evaluation_batches
from classifier_lib.loading import load_value_model
from classifier_lib.losses import LOSSES, TrainingLoss, pair_margins
from classifier_lib.modeling import success_probabilities
from run_lib.commands import InputError, naming, parse_command_line, run_command
from run_lib.files import write_json
from run_lib.hub import quiet_transformers
from run_lib.processes import distributed

NUM_DECILES = 10
NUM_ROLLOUT_BUCKETS = 16
CALIBRATION_BINS = 15


SCORES = ("accuracy", "auroc", "brier", "calibration_error")
FIT_SCORES = ("explained_variance", "r2", "precision", "recall", "specificity", "f1")
"""Scores of P(correct) as an estimate of the reward, and above 0.5 as a prediction of it."""
TITLES = {
    "calibration_error": "ECE",
    "explained_variance": "expl.var.",
    "r2": "R2",
    "specificity": "specific.",
    "f1": "F1",
}


class TokenMetrics(Metric):
    """Exact token-level metrics of P(correct), overall and by position.

    The target is the reward (1 for class 1 only). Every scored token is kept (19 bytes), since
    an exact AUROC needs all of them; processes are merged by torchmetrics in `compute`.

    Positions count from the start of the sequence, prompt included, because the data does not tell
    prompt from prefix (a prompt is a few per cent of a long response); places from the start of the
    roll-out.

    Args:
        loss: The loss that the model is trained with. With pairs the logits only rank responses:
            accuracy is then the share of pairs in the right order, and there is neither a Brier
            score, nor a calibration error, nor one of `FIT_SCORES`.
        bucket_tokens: Width of the absolute position buckets, in tokens.
        max_length: Longest sequence, in tokens; `NUM_ROLLOUT_BUCKETS` equal parts of it are the
            buckets of places.
    """

    full_state_update = False
    probs: list[torch.Tensor]
    rewards: list[torch.Tensor]
    right: list[torch.Tensor]
    losses: list[torch.Tensor]
    deciles: list[torch.Tensor]
    positions: list[torch.Tensor]
    places: list[torch.Tensor]
    loss_sum: torch.Tensor
    loss_terms: torch.Tensor
    right_pairs: torch.Tensor

    def __init__(self, loss: TrainingLoss, bucket_tokens: int, max_length: int):
        super().__init__()
        self.loss = loss
        self.bucket_tokens = bucket_tokens
        self.place_tokens = -(-max_length // NUM_ROLLOUT_BUCKETS)
        for name in _TOKEN_STATES:
            self.add_state(name, [], dist_reduce_fx="cat")
        for name in ("loss_sum", "loss_terms", "right_pairs"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, batch: Batch) -> None:
        """Adds the logits [N, L] of the loss tokens of a batch."""
        targets = batch.targets.to(logits.device)
        probs = success_probabilities(logits)
        rewards = targets.at_tokens(targets.rewards) > 0
        labels = targets.at_tokens(targets.labels)
        sample_lengths = batch.lengths.to(logits.device)
        lengths = targets.at_tokens(sample_lengths)
        positions = batch.position_ids.flatten()[batch.loss_index].to(logits.device)
        places = positions - targets.at_tokens(sample_lengths - targets.counts)
        deciles = (positions * NUM_DECILES // lengths).clamp(max=NUM_DECILES - 1)
        right = logits.argmax(-1) == labels if logits.shape[-1] == 3 else (probs > 0.5) == rewards
        losses = torch.zeros_like(probs)
        if self.loss.token_losses:
            losses = self.loss.token_losses(logits, targets)
        for name, values in zip(
            _TOKEN_STATES, (probs, rewards, right, losses, deciles, positions, places), strict=True
        ):
            getattr(self, name).append(values.to(_TOKEN_STATES[name]))
        self.loss_sum += self.loss.function(logits, targets).double()
        self.loss_terms += self.loss.count_terms(targets)
        if self.loss.pairs:
            self.right_pairs += (pair_margins(logits, targets) > 0).sum()

    def add_nothing(self) -> None:
        """Gives the lists their types, so that a process without samples can join the gather."""
        for name, dtype in _TOKEN_STATES.items():
            getattr(self, name).append(torch.zeros(0, dtype=dtype, device=self.device))

    def compute(self) -> dict[str, Any]:
        """Returns the metrics as `evaluate` describes them."""
        probs = dim_zero_cat(self.probs)
        rewards = dim_zero_cat(self.rewards).long()
        right = dim_zero_cat(self.right)
        losses = dim_zero_cat(self.losses)
        deciles = dim_zero_cat(self.deciles).long()
        buckets = dim_zero_cat(self.positions).long() // self.bucket_tokens
        num_buckets = int(buckets.max()) + 1 if len(buckets) else 0
        place_buckets = dim_zero_cat(self.places).long() // self.place_tokens

        def at(kept: torch.Tensor | slice) -> dict[str, float | int | None]:
            """Returns the metrics of some tokens, without those that pairs don't have."""
            metrics = _token_metrics(probs[kept], rewards[kept], right[kept])
            if self.loss.pairs:
                metrics |= dict.fromkeys(("accuracy", "brier", "calibration_error", *FIT_SCORES))
            return metrics

        def at_positions(kept: torch.Tensor) -> dict[str, float | int | None]:
            """Returns the metrics and the loss of the tokens of a bucket."""
            loss = None if self.loss.pairs else _finite(losses[kept].double().mean())
            return {"loss": loss, **at(kept)}

        overall = {"loss": _finite(self.loss_sum / self.loss_terms)}
        overall |= at(slice(None))
        if self.loss.pairs and self.loss_terms:
            overall["accuracy"] = float(self.right_pairs / self.loss_terms)
        return {
            **overall,
            "by_decile": [
                {"from": i / NUM_DECILES, "to": (i + 1) / NUM_DECILES, **at_positions(deciles == i)}
                for i in range(NUM_DECILES)
            ],
            "by_position": [
                {"from": i * self.bucket_tokens, "to": (i + 1) * self.bucket_tokens}
                | at_positions(buckets == i)
                for i in range(num_buckets)
            ],
            "by_rollout_position": [
                {"from": i * self.place_tokens, "to": (i + 1) * self.place_tokens}
                | at_positions(place_buckets == i)
                for i in range(NUM_ROLLOUT_BUCKETS)
            ],
        }


_TOKEN_STATES = {
    "probs": torch.float32,
    "rewards": torch.uint8,
    "right": torch.uint8,
    "losses": torch.float32,
    "deciles": torch.uint8,
    "positions": torch.int32,
    "places": torch.int32,
}


def _finite(value: torch.Tensor) -> float | None:
    """Returns a scalar; None if it isn't a finite number, as JSON knows no other."""
    return float(value) if value.isfinite() else None


def _token_metrics(
    probs: torch.Tensor, rewards: torch.Tensor, right: torch.Tensor
) -> dict[str, float | int | None]:
    """Returns the metrics of some tokens; None for those that are not defined on them."""
    if not len(probs):
        return {"num_tokens": 0} | dict.fromkeys((*SCORES, *FIT_SCORES))
    scores: dict[str, float | int | None] = dict.fromkeys((*SCORES, *FIT_SCORES))
    scores |= {"num_tokens": len(probs), "accuracy": _finite(right.double().mean())}
    if not probs.isfinite().all():  # a model that has diverged
        return scores
    if 0 < int(rewards.sum()) < len(rewards):
        scores["auroc"] = _finite(binary_auroc(probs, rewards))
    scores["brier"] = _finite(mean_squared_error(probs.double(), rewards.double()))
    error = binary_calibration_error(probs, rewards, n_bins=CALIBRATION_BINS)
    return scores | {"calibration_error": _finite(error)} | _fit_scores(probs, rewards)


def _fit_scores(probs: torch.Tensor, rewards: torch.Tensor) -> dict[str, float | int | None]:
    """Returns `FIT_SCORES` of some tokens, at least one; None for those that are 0 / 0."""
    targets = rewards.double()
    errors = targets - probs.double()
    total = (targets - targets.mean()).square().sum()
    predicted, actual = probs > 0.5, rewards > 0
    right = int((predicted & actual).sum())
    num_predicted, num_actual = int(predicted.sum()), int(actual.sum())
    num_wrong = len(rewards) - num_actual
    rejected = num_wrong - (num_predicted - right)
    explained = 1 - (errors - errors.mean()).square().sum() / total
    return {
        "explained_variance": _finite(explained) if total else None,
        "r2": _finite(1 - errors.square().sum() / total) if total else None,
        "precision": right / num_predicted if num_predicted else None,
        "recall": right / num_actual if num_actual else None,
        "specificity": rejected / num_wrong if num_wrong else None,
        "f1": 2 * right / (num_predicted + num_actual) if num_predicted + num_actual else None,
    }


@torch.no_grad()
def evaluate(
    learner: Learner,
    data: GroupedRollouts,
    plan: BatchPlan,
    bucket_tokens: int,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Evaluates a value model on every roll-out token of a data set.

    All processes of the learner must call this; they share the work.

    Args:
        learner: The model, perhaps sharded, and its loss; its training mode is restored.
        data: Held-out roll-outs.
        plan: Layout of the samples, see `BatchPlan.in_order`.
        bucket_tokens: Width of the absolute position buckets, in tokens.
        stop_requested: Tells whether this process was asked to stop, which ends the evaluation on
            all of them.

    Returns:
        `loss, num_tokens`, `SCORES` and `FIT_SCORES`, and the lists `by_decile` (deciles of the
        sequence), `by_position` (`bucket_tokens` each) and `by_rollout_position` (counted from the
        start of the roll-out, `NUM_ROLLOUT_BUCKETS` parts of the maximum length) of `{from, to}`
        and the same numbers, where the loss is the mean over tokens (None for pairs). A number that
        is not defined (an AUROC of one class only) is None. Accuracy is over the terminal classes
        with three logits, over the reward else, and over the pairs for a loss of pairs. The same on
        every process.

    Raises:
        ToldToStop: On every process, if any was asked to stop; the training mode is restored.
    """
    model, processes = learner.model, learner.processes
    metrics = TokenMetrics(learner.loss, bucket_tokens, plan.max_length).to(processes.device)
    metrics.add_nothing()
    for batch, counts in evaluation_batches(model, processes, plan, data, stop_requested):
        logits = learner.logits(batch)
        if counts:
            metrics.update(logits, batch)
    return metrics.compute()


def format_evaluation(metrics: dict[str, Any]) -> str:
    """Returns the metrics of `evaluate` as two small tables: by position, and in the roll-out.

    Buckets of the second one that have no token are left out.
    """
    deciles = [(f"{x['from']:.0%} - {x['to']:.0%}", x) for x in metrics["by_decile"]]
    positions = [(f"{x['from']} - {x['to']}", x) for x in metrics["by_position"]]
    places = [
        (f"{x['from']} - {x['to']}", x) for x in metrics["by_rollout_position"] if x["num_tokens"]
    ]
    return "\n".join(
        [
            *_table("position", ("loss", *SCORES), [*deciles, *positions, ("all", metrics)]),
            "",
            *_table("in the roll-out", FIT_SCORES, [*places, ("all", metrics)]),
        ]
    )


def _table(
    title: str, scores: Sequence[str], rows: Sequence[tuple[str, dict[str, Any]]]
) -> list[str]:
    """Returns the lines of a table of some scores."""

    def show(value: float | None) -> str:
        return f"{'-':>10}" if value is None else f"{value:10.4f}"

    titles = "".join(f"{TITLES.get(score, score):>10}" for score in scores)
    lines = [f"{title:>15}  {'tokens':>13}{titles}"]
    for name, values in rows:
        shown = "".join(show(values[score]) for score in scores)
        lines.append(f"{name:>15}  {values['num_tokens']:>13,}{shown}")
    return lines


def scalar_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers of `evaluate` that a tracker can plot, by name."""
    scalars = {name: metrics[name] for name in ("loss", *SCORES, *FIT_SCORES)}
    for bucket in metrics["by_decile"]:
        scalars[f"auroc_decile_{round(bucket['from'] * NUM_DECILES)}"] = bucket["auroc"]
    for bucket in metrics["by_position"]:
        scalars[f"auroc_from_{bucket['from']}"] = bucket["auroc"]
    for bucket in metrics["by_rollout_position"]:
        for name in FIT_SCORES:
            scalars[f"{name}_rollout_from_{bucket['from']}"] = bucket[name]
    return {f"eval/{name}": value for name, value in scalars.items() if value is not None}


def run(args: EvaluationArgs) -> None:
    """Evaluates the model on the data, writes the metrics and prints their table.

    Raises:
        InputError: If a flag or an input can't be used.
    """
    args.check()
    loss = LOSSES[args.loss]
    quiet_transformers()
    with distributed() as processes:
        dtype = getattr(torch, args.dtype)
        with naming("--model"):
            model = load_value_model(args.model, args.attention_impl, dtype, processes.device)
        if model.config.num_labels != loss.num_labels:
            raise InputError(
                f"--model {args.model} has {model.config.num_labels} labels; --loss {args.loss} "
                f"needs {loss.num_labels}"
            )
        with naming("--data"):
            data = GroupedRollouts(
                args.data,
                args.data_num_response,
                model.config.vocab_size,
                skip_bad_rows=args.skip_bad_rows,
                soft_targets=loss.needs_soft,
                processes=processes,
            )
        metrics = evaluate(
            Learner(model, loss, model.config._attn_implementation, processes),
            data,
            BatchPlan("padded", args.max_length, args.batch_size),
            args.bucket_tokens,
        )
        if processes.rank == 0:
            if data.bad_rows:
                print(f"{args.data}: {format_bad_rows(data.bad_rows)}")
            args.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.output, metrics)
            print(format_evaluation(metrics))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; `argv` is the command line by default."""
    args = parse_command_line(EvaluationArgs, EVALUATION, __doc__, argv)
    run_command(EVALUATION, lambda: run(args))


if __name__ == "__main__":
    main()
