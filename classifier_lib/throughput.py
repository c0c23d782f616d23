"""Speed of training: tokens per second by kind, and model FLOPs utilisation (MFU)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

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


class TokenCounts(NamedTuple):
    """Tokens of a batch, by kind.

    Attributes:
        all: Tokens that go through the model, padding included.
        computed: The same without padding.
        valid: Tokens of the samples; what several of them share is counted for each.
        loss: Tokens that carry loss.
        attended: Pairs of a computed token and one it attends to, itself included.
    """

    all: int
    computed: int
    valid: int
    loss: int
    attended: int


@dataclass(frozen=True)
class ModelSize:
    """What the FLOPs of a model follow from.

    Attributes:
        num_matmul_parameters: Parameters that every token is multiplied with: all but the
            embedding, the norms and the biases.
        attention_width: Layers x heads x head dimension.
    """

    num_matmul_parameters: int
    attention_width: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ModelSize":
        """Returns the size of a dense transformer that isn't sharded yet."""
        config = model.config
        head_dim = getattr(config, "head_dim", None)
        head_dim = head_dim or config.hidden_size // config.num_attention_heads
        return cls(
            sum(
                parameter.numel()
                # A language model's output matrix counts, also where it is the embedding, too.
                for name, parameter in model.named_parameters(remove_duplicate=False)
                if parameter.ndim >= 2 and "embed_tokens" not in name
            ),
            config.num_hidden_layers * config.num_attention_heads * head_dim,
        )

    def training_flops(self, counts: TokenCounts) -> float:
        """Returns the FLOPs of a forward and a backward pass; padding and recomputation left out.

        `6 N tokens + 12 width pairs`: a multiply-add is two FLOPs, the backward pass costs two
        forward passes, and a pair of tokens takes part in a score and in a weighted sum.
        """
        return 3 * self.forward_flops(counts.computed, counts.attended)

    def forward_flops(self, computed: int, attended: int) -> float:
        """Returns the FLOPs of a forward pass: `2 N tokens + 4 width pairs`."""
        return 2.0 * self.num_matmul_parameters * computed + 4.0 * self.attention_width * attended


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
