"""A matrix as a train of cores: digits of its sides, taken in pairs, and the truncated singular values between them.

Source: Oseledets 2011, "Tensor-train decomposition", algorithm 1, on a matrix whose row and column indices are split
into digits and paired (a matrix product operator), as in CompactifAI (Tomut et al. 2024, arXiv 2401.14109). Which
digits a side splits into is an arrangement: other digits give other matrices of the same bond dimension.
"""

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor


def digits(n: int, q: int) -> tuple[int, ...]:
    """The q factors of n with the least sum, ascending: 576 → 24·24, 1536 → 32·48, a prime p → 1·p."""
    if q == 1:
        return (n,)
    splits = [sorted((d, *digits(n // d, q - 1))) for d in range(1, isqrt(n) + 1) if n % d == 0]
    return tuple(min(splits, key=sum))


def paired(matrix: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """The matrix (I₁…I_q × J₁…J_q) as a tensor (I₁, J₁, …, I_q, J_q): each row digit beside its column digit.

    The first digit counts the largest blocks. Without the pairing the cores would hold row digits only, then column
    digits only, and the bond in the middle would be the plain rank.
    """
    q = len(rows)
    return matrix.reshape(*rows, *columns).permute([axis for k in range(q) for axis in (k, q + k)])


def tt_svd(matrix: Tensor, rows: Sequence[int], columns: Sequence[int], bond: int) -> tuple[list[Tensor], list[Tensor]]:
    """The cores (χₖ₋₁, Iₖ, Jₖ, χₖ) of a train near the matrix (float64), and the energy that each cut discarded.

    χ₀ = χ_q = 1, and every bond between is the least of `bond` and the two sides of the unfolding that is cut there.
    All cores but the last have orthonormal columns as (χₖ₋₁IₖJₖ × χₖ), so the squared error is the sum of the
    discarded energies. With two cores it is the least possible, with q at most q − 1 times that (Oseledets, th. 2.2).
    """
    rest = paired(matrix, rows, columns).reshape(1, -1)
    cores, discarded = [], []
    for out, read in zip(rows[:-1], columns[:-1], strict=True):
        left = rest.shape[0]
        u, s, vh = torch.linalg.svd(rest.reshape(left * out * read, -1), full_matrices=False)
        cores.append(u[:, :bond].reshape(left, out, read, -1))
        discarded.append(s[bond:].square().sum())
        rest = s[:bond, None] * vh[:bond]
    cores.append(rest.reshape(-1, rows[-1], columns[-1], 1))
    return cores, discarded
