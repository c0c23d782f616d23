import torch
from stand_in import stand_in_for

__version__ = "0.0.0"
__getattr__ = stand_in_for("sgl_kernel")

LOW = 0xFFFFFFFF


def rotate(x: torch.Tensor, bits: int) -> torch.Tensor:
    return ((x << bits) | (x >> (32 - bits))) & LOW


@torch.library.custom_op("sgl_kernel::murmur_hash32_cpu", mutates_args=())
def murmur_hash32_cpu(
    seed: torch.Tensor, positions: torch.Tensor, col_indices: torch.Tensor
) -> torch.Tensor:
    """MurmurHash3 (x86, 32 bits) of seed, position and column: the noise behind a seeded sample.

    Args:
        seed: [rows], 64 bits.
        positions: [rows].
        col_indices: [columns].

    Returns:
        [rows, columns], in [0, 2**32).
    """
    seed, positions = seed.to(torch.int64)[:, None], positions.to(torch.int64)[:, None]
    words = (seed & LOW, (seed >> 32) & LOW, positions, col_indices.to(torch.int64)[None])
    state = torch.zeros_like(seed)
    for word in words:
        mixed = rotate(word * 0xCC9E2D51 & LOW, 15) * 0x1B873593 & LOW
        state = (rotate(state ^ mixed, 13) * 5 + 0xE6546B64) & LOW
    state = state ^ 4 * len(words)
    state = (state ^ state >> 16) * 0x85EBCA6B & LOW
    state = (state ^ state >> 13) * 0xC2B2AE35 & LOW
    return state ^ state >> 16
