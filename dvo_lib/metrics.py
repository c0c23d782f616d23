"""Metrics of a policy on paths: implicit rewards, credits, distance from the reference."""

import math

import torch

from dvo_lib.losses import StepTargets
from run_lib.processes import Processes

_SUMS = (
    *("loss", "terms", "paths", "steps", "credits", "squared_credits", "kl"),
    *("correct", "correct_rewards", "incorrect", "incorrect_rewards", "pairs", "right_pairs"),
)


class PathMetrics:
    """Sums over paths since the last report, kept on the device of the model.

    The implicit reward of a path is `beta * sum_t log(pi / pi_ref)`. With credits that telescope to
    `r - V(s_0)`, it is what the policy takes for the reward of the path above the prompt's value.

    The distance to the reference is estimated by half the mean square of a step's log-ratio, the
    second-order term that KL(pi | pi_ref) and KL(pi_ref | pi) have in common. It is never negative
    and has little variance, but the paths come from the reference's trees, balanced by correctness,
    and are not weighted by either policy: it tells how far the policy has moved on them, in nats a
    step, and is no unbiased KL.

    Args:
        beta: See `DvoLoss`.
        processes: The processes that share the paths.
    """

    def __init__(self, beta: float, processes: Processes):
        self._beta = beta
        self._processes = processes
        self._reset()

    def _reset(self) -> None:
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=self._processes.device)

    @torch.no_grad()
    def add(
        self,
        logprobs: torch.Tensor,
        targets: StepTargets,
        paths_per_tree: torch.Tensor,
        loss: torch.Tensor,
        num_terms: torch.Tensor,
    ) -> None:
        """Adds a micro batch; all tensors are on the device of the model.

        Args:
            logprobs: [N], log-probability of each trained token.
            targets: Their targets.
            paths_per_tree: [trees], paths of each tree.
            loss: Sum of the terms of the loss.
            num_terms: Their number.
        """
        log_ratios = targets.log_ratios(logprobs.detach()).double()
        credits = targets.credits.double()
        rewards = self._beta * targets.path_sums(log_ratios)
        correct = targets.correct
        trees = torch.arange(len(paths_per_tree), device=rewards.device)
        trees = trees.repeat_interleave(paths_per_tree)
        # Entry [i, j]: path i is correct, path j of the same tree isn't.
        pairs = correct[:, None] & ~correct[None, :] & (trees[:, None] == trees[None, :])
        right = pairs & (rewards[:, None] > rewards[None, :])
        values = {
            "loss": loss.detach(),
            "terms": num_terms,
            "paths": torch.tensor(len(rewards)),
            "steps": torch.tensor(len(credits)),
            "credits": credits.sum(),
            "squared_credits": credits.square().sum(),
            "kl": 0.5 * log_ratios.square().sum(),
            "correct": correct.sum(),
            "correct_rewards": rewards.where(correct, 0.0).sum(),
            "incorrect": (~correct).sum(),
            "incorrect_rewards": rewards.where(~correct, 0.0).sum(),
            "pairs": pairs.sum(),
            "right_pairs": right.sum(),
        }
        self._sums += torch.stack([values[name].to(self._sums) for name in _SUMS])

    def report(self) -> dict[str, float]:
        """Returns the metrics since the last report, and starts again; every process calls this.

        Those that are not defined on the paths, as the accuracy without a pair, are left out.
        """
        sums = dict(zip(_SUMS, self._processes.sum(self._sums).tolist(), strict=True))
        self._reset()

        def means(**parts: tuple[str, str]) -> dict[str, float]:
            return {
                name.replace("__", "/"): sums[total] / sums[count]
                for name, (total, count) in parts.items()
                if sums[count]
            }

        metrics = means(
            loss=("loss", "terms"),
            implicit_reward__correct=("correct_rewards", "correct"),
            implicit_reward__incorrect=("incorrect_rewards", "incorrect"),
            implicit_reward__accuracy=("right_pairs", "pairs"),
            credits__mean=("credits", "steps"),
            kl=("kl", "steps"),
        )
        if sums["steps"]:
            variance = sums["squared_credits"] / sums["steps"] - metrics["credits/mean"] ** 2
            metrics["credits/std"] = math.sqrt(max(variance, 0.0))
        return metrics
