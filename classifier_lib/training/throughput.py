"""Speed of training: tokens per second by kind, and model FLOPs utilisation (MFU)."""

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
        self._counts = np.zeros(len(TokenCounts._fields), dtype=np.int64)

    def add(self, seconds: float, counts: TokenCounts) -> None:
        """Adds a step that took so long, counted over all processes."""
        self._seconds += seconds
        self._counts += counts

    def report(self) -> dict[str, float]:
        """Returns tokens per second (all, valid, loss), and MFU on a known GPU; starts again."""
        counts = TokenCounts(*self._counts.tolist())
        rates = {
            f"tokens_per_second/{kind}": getattr(counts, kind) / self._seconds
            for kind in ("all", "valid", "loss")
        }
        if self._peak:
            rates["mfu"] = self._size.training_flops(counts) / self._seconds / self._peak
        self._reset()
        return rates
