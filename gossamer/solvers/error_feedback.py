"""Error feedback: column by column entries are removed, and what is left makes good for them.

Source: SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774), the optimal brain surgeon (Hassibi & Stork 1992) in a
fixed order of columns. With A⁻¹ = Uᵀ U, U upper triangular, an error e in column j that the columns behind it make good
as well as they can costs ½ e² / U_jj² and changes them by −e U_j,: / U_jj. So entries are compared by
W_ij² / U_jj², with what earlier columns have made of them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.cholesky import safe_cholesky
from gossamer.metrics import DiagonalMetric, InputMetric, KroneckerMetric, Metric
from gossamer.metrics.identity import Identity
from gossamer.solvers._sparse import SparseSolver
from gossamer.structures import SparseStructure, Structure

BLOCK = 128
"""Columns that are gone through before the columns behind them hear of it: only a matter of speed."""

DAMPING = 0.01
"""Of the mean diagonal of A, added while errors are fed back; the paper's."""


class ErrorFeedback(SparseSolver):
    """The order is fixed and the choice greedy."""

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        correlated = issubclass(metric, InputMetric) and not issubclass(metric, DiagonalMetric | Identity)
        return correlated and issubclass(structure, SparseStructure)

    def _errors(
        self, weight: Tensor, structure: SparseStructure, sizes: Sequence[int], metric: KroneckerMetric
    ) -> list[float]:
        errors, upper = [], _upper(metric)
        for size in sizes:
            fitted, support = sweep(weight, structure, size, upper)
            errors.append(metric.error(weight - torch.where(support, fitted, 0)))
        return errors

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, SparseStructure) and isinstance(metric, KroneckerMetric)
        return structure.express(*sweep(weight, structure, size, _upper(metric)))


def _upper(metric: KroneckerMetric) -> Tensor:
    """U of the damped input side."""
    assert metric.input is not None
    damped = metric.input.clone()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    return safe_cholesky(torch.cholesky_inverse(safe_cholesky(damped))).T


def sweep(weight: Tensor, structure: SparseStructure, size: int, upper: Tensor) -> tuple[Tensor, Tensor]:
    """(values, support), both m × n; where the support is not, values say nothing. `upper` is U (n × n)."""
    fitted, support = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
    n = weight.shape[1]
    stiffness = upper.diagonal().square()
    for start in range(0, n, BLOCK):
        end = min(start + BLOCK, n)
        errors = torch.zeros_like(weight[:, start:end])
        for j in range(start, end):
            if (j - start) % structure.together == 0:
                here = slice(j, min(j + structure.together, end))
                scores = fitted[:, here].square() / stiffness[here]
                support[:, here] = structure.in_columns(scores, size, j, n)
            error = torch.where(support[:, j], 0, fitted[:, j])
            fitted[:, j] -= error
            errors[:, j - start] = error / upper[j, j]
            fitted[:, j + 1 : end] -= torch.outer(errors[:, j - start], upper[j, j + 1 : end])
        fitted[:, end:] -= errors @ upper[start:end, end:]
    return fitted, support
