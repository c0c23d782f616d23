"""What a layout of samples has to compute, sample by sample."""

from classifier_lib.data import Rollout
from classifier_lib.layouts import MIN_SHARED


def cut_sample(rollout: Rollout, max_length: int) -> tuple[list[int], list[int]]:
    """Roll-in and roll-out as they go into the model."""
    sequence = [*rollout.roll_in.tolist(), *rollout.roll_out.tolist()][:max_length]
    return sequence[: len(rollout.roll_in)], sequence[len(rollout.roll_in) :]


def num_laid_out(rollouts: list[Rollout], max_length: int, packing: str) -> int:
    """Tokens that have to be computed: with shared prefixes the nodes of trees of the roll-ins."""
    samples = [cut_sample(rollout, max_length) for rollout in rollouts]
    roll_ins = sum(len(roll_in) for roll_in, _ in samples)
    if packing == "shared_prefix":
        nodes = {
            (tuple(x[:MIN_SHARED]), tuple(x[: i + 1])) for x, _ in samples for i in range(len(x))
        }
        roll_ins = len(nodes)
    return roll_ins + sum(len(roll_out) for _, roll_out in samples)
