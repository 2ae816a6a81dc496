"""Which columns of a wide matrix span it, and how the others follow from them."""

import torch
from torch import Tensor


def skeleton(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Column order and coefficients with rows = rows[:, order[:r]] · [I, coefficients] in that order.

    `rows` is (r × n) of full row rank, r ≤ n; the pivots are those of Gaussian elimination with partial pivoting on
    its transpose, which keeps every multiplier at most one. Returns `order` (n, int64) and `coefficients`
    (r × (n − r)). Source: interpolative decomposition; used on low-rank weights by Zhao et al. 2025, "Pivoting
    Factorization" (arXiv 2501.19090).
    """
    r, n = rows.shape
    packed, pivots, _ = torch.linalg.lu_factor_ex(rows.T)
    order = list(range(n))
    for i, p in enumerate((pivots - 1).tolist()):
        order[i], order[p] = order[p], order[i]
    # rowsᵀ = P [L₁; L₂] U, so the columns beyond the pivots are L₂ L₁⁻¹ times the pivot columns.
    coefficients = torch.linalg.solve_triangular(packed[:r], packed[r:], upper=False, left=False, unitriangular=True)
    return torch.tensor(order, device=rows.device), coefficients.T.contiguous()
