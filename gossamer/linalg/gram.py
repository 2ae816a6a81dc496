"""Sums of outer products, computed once for each pair."""

import math

import torch
from torch import Tensor

PANEL = 256
"""Columns per panel: small enough to skip most of the upper triangle, large enough for full matrix-product speed
(two AVX-512 cores: 280 GFLOP/s counted as the full product, against 165 for the full product itself)."""


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add rowsᵀ rows to `total` (n × n, float32) in place, on and below the diagonal panels only.

    `rows` is (tokens × n). What stands above them is not kept right; `pack` leaves it out.
    """
    rows = rows.to(total.dtype)
    for start in range(0, total.shape[0], PANEL):
        total[start:, start : start + PANEL].addmm_(rows[:, start:].T, rows[:, start : start + PANEL])


def pack(total: Tensor) -> Tensor:
    """The n(n + 1)/2 numbers on and below the diagonal, row by row: all that `add_gram` keeps right."""
    return torch.cat([row[: i + 1] for i, row in enumerate(total)])


def unpack(packed: Tensor) -> Tensor:
    """The full symmetric matrix of which `pack` kept the lower triangle."""
    n = (math.isqrt(8 * len(packed) + 1) - 1) // 2
    full = packed.new_zeros(n, n)
    for i, part in enumerate(packed.split(list(range(1, n + 1)))):
        full[i, : i + 1] = part
    return full + full.tril(-1).T
