"""Speed of training: tokens per second by kind, and model FLOPs utilisation (MFU)."""

from collections.abc import Sequence

import numpy as np
import torch

from classifier_lib.flops import ModelSize, TokenCounts

# Dense bf16 tensor-core FLOP/s of the data sheets, without sparsity; the first match counts.
PEAK_FLOPS = (
    ("B200", 2.25e15),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200 NVL", 835e12),
    ("H200", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
)


def peak_flops(device: torch.device) -> float | None:
    """Returns the bf16 FLOP/s of a GPU's data sheet; None for a CPU or a GPU that isn't listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS if part in name), None)


class Throughput:
    """Rates over the steps since the last report.

    Args:
        size: The model.
        num_devices: Devices that train.
        device: One of them.
    """

    def __init__(self, size: ModelSize, num_devices: int, device: torch.device):
        self._size = size
        peak = peak_flops(device)
        self._peak = peak * num_devices if peak else None
        self._reset()

    def _reset(self) -> None:
        self._seconds = 0.0
        self._num_steps = 0
        self._lengths: list[int] = []
        self._counts = np.zeros(len(TokenCounts._fields), dtype=np.int64)

    def add(self, seconds: float, counts: TokenCounts, lengths: Sequence[int]) -> None:
        """Adds a step.

        Args:
            seconds: Time it took.
            counts: Its tokens, over all processes.
            lengths: Tokens of each sample of its global batch.
        """
        self._seconds += seconds
        self._num_steps += 1
        self._counts += counts
        self._lengths += lengths

    def report(self) -> dict[str, float]:
        """Returns rates and means over the steps since the last report, and starts again.

        Tokens per second (all, valid, loss), and MFU on a known GPU; seconds and loss tokens of a
        step; average and largest length of a sample.
        """
        counts = TokenCounts(*self._counts.tolist())
        rates = {
            f"tokens_per_second/{kind}": getattr(counts, kind) / self._seconds
            for kind in ("all", "valid", "loss")
        }
        rates["step_time"] = self._seconds / self._num_steps
        rates["loss_tokens"] = counts.loss / self._num_steps
        rates["avg_length"] = sum(self._lengths) / len(self._lengths)
        rates["max_length"] = max(self._lengths)
        if self._peak:
            rates["mfu"] = self._size.training_flops(counts) / self._seconds / self._peak
        self._reset()
        return rates
