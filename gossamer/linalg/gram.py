"""Sums of outer products, computed once for each pair."""

from torch import Tensor

PANEL = 256
"""Columns per panel: small enough to skip most of the upper triangle, large enough for full matrix-product speed
(two AVX-512 cores: 280 GFLOP/s counted as the full product, against 165 for the full product itself)."""


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add rowsᵀ rows to `total` (n × n, float32) in place, on and below the diagonal panels only.

    `rows` is (tokens × n). Call `mirror` once after the last addition.
    """
    rows = rows.to(total.dtype)
    for start in range(0, total.shape[0], PANEL):
        total[start:, start : start + PANEL].addmm_(rows[:, start:].T, rows[:, start : start + PANEL])


def mirror(total: Tensor) -> Tensor:
    """The full symmetric matrix of which `add_gram` kept the lower part."""
    lower = total.tril()
    return lower + lower.tril(-1).T
