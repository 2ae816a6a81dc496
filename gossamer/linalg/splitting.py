"""A matrix as the sum of one of low rank and one of few entries."""

import torch
from torch import Tensor

from gossamer.linalg.pursuit import largest

Axes = tuple[Tensor, Tensor, Tensor]
"""The singular vectors and values of a matrix: (m × k), (k), (k × n)."""


def split(matrix: Tensor, axes: Axes, rank: int, kept: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """(left (m × r), right (r × n), sparse (m × n), `kept` entries in a row), whose left · right + sparse is near.

    In turn the largest entries of what the product leaves, and the product for what these leave: one step of
    alternating least squares from the last one, as GoDec's power step is (Zhou & Tao 2011, "GoDec: randomized low-rank
    & sparse matrix decomposition in noisy case"), so that no step makes the sum worse. The start is the best product,
    by the matrix's `axes`.
    """
    u, s, vh = axes
    left, right = u[:, :rank] * s[:rank], vh[:rank]
    sparse = largest(matrix - left @ right, kept)
    for _ in range(steps):
        rest = matrix - sparse
        left, _ = torch.linalg.qr(rest @ right.T)
        right = left.T @ rest
        sparse = largest(matrix - left @ right, kept)
    return left, right, sparse
