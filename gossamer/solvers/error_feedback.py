"""Error feedback: column by column entries are removed, and what is left makes good for them.

Source: SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774), the optimal brain surgeon (Hassibi & Stork 1992) in a
fixed order of columns. With A⁻¹ = Uᵀ U, U upper triangular, an error e in column j that the columns behind it make good
as well as they can costs ½ eᵀ G e / U_jj² and changes them by −e U_j,: / U_jj, whatever G. So entries are compared by
W_ij² / U_jj², with what earlier columns have made of them.

Beyond the paper, in a metric with an output side G: entries that stay in a column move too. With P those that go, the e
of least eᵀ G e with e_P = W_P is H_:P (H_PP)⁻¹ W_P for H = G⁻¹, and one alone costs W_ij² / H_ii, which is what entries
are then compared by.
"""

from collections.abc import Mapping, Sequence
from math import exp

import numpy as np
import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.cholesky import safe_cholesky
from gossamer.metrics import DiagonalMetric, KroneckerMetric, Metric
from gossamer.metrics.identity import Identity
from gossamer.solvers._base import Solver
from gossamer.structures import SparseStructure, Structure

BLOCK = 128
"""Columns that are gone through before the columns behind them hear of it: only a matter of speed."""

DAMPING = 0.01
"""Of the mean diagonal of A, added while errors are fed back; the paper's."""

POINTS = 5
"""Sizes that are solved for their prices where more than `FEW` are on offer; between them the prices' logarithms are
interpolated."""

FEW = 24


class ErrorFeedback(Solver):
    """Not exact: the order is fixed and the choice greedy."""

    exact = False
    fed_back = True

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        correlated = issubclass(metric, KroneckerMetric) and not issubclass(metric, DiagonalMetric | Identity)
        return correlated and issubclass(structure, SparseStructure)

    def kept_as(self, structure: Structure) -> str:
        return f"{self.name}-{structure.name}"

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes`, a few of those on offer, and their `errors`."""
        assert isinstance(structure, SparseStructure) and isinstance(metric, KroneckerMetric)
        offered = structure.sizes(metric.shape)
        picked = offered
        if len(offered) > FEW:
            picked = [offered[i * (len(offered) - 1) // (POINTS - 1)] for i in range(POINTS)]
        sides, errors = _sides(metric), []
        for size in picked:
            fitted, support = sweep(weight, structure, size, *sides)
            errors.append(metric.error(weight - torch.where(support, fitted, 0)))
        # Greedy as it is, a size may come out worse than a smaller one, which is then quoted as much.
        falling = torch.tensor(errors[::-1], dtype=torch.float64).cummax(0).values.flip(0)
        return {
            "sizes": torch.tensor(picked, dtype=torch.float64),
            "errors": falling.clamp_max(metric.error(weight)),
        }

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        if not sizes:
            return []
        logs = prepared["errors"].clamp_min(1e-300).log()
        return [exp(log) for log in np.interp(sizes, prepared["sizes"].numpy(), logs.numpy())]

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, SparseStructure) and isinstance(metric, KroneckerMetric)
        return structure.express(*sweep(weight, structure, size, *_sides(metric)))


def _sides(metric: KroneckerMetric) -> tuple[Tensor, Tensor | None]:
    """(U of the damped input side, H of the output side where there is one)."""
    assert metric.input is not None
    damped = metric.input.clone()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    upper = safe_cholesky(torch.cholesky_inverse(safe_cholesky(damped))).T
    if metric.output is None or metric.output.dim() == 1:
        return upper, None if metric.output is None else 1 / metric.output
    return upper, torch.cholesky_inverse(safe_cholesky(metric.output))


def sweep(
    weight: Tensor, structure: SparseStructure, size: int, upper: Tensor, inverse: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(values, support), both m × n; where the support is not, values say nothing.

    `upper` is U (n × n), `inverse` H (m × m), or its diagonal (m) where outputs do not hear of each other, or None
    where they count alike.
    """
    fitted, support = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
    n = weight.shape[1]
    stiffness = upper.diagonal().square()[None]
    if inverse is not None:
        stiffness = (inverse if inverse.dim() == 1 else inverse.diagonal())[:, None] * stiffness
    for start in range(0, n, BLOCK):
        end = min(start + BLOCK, n)
        errors = torch.zeros_like(weight[:, start:end])
        for j in range(start, end):
            if (j - start) % structure.together == 0:
                here = slice(j, min(j + structure.together, end))
                scores = fitted[:, here].square() / stiffness[:, here]
                support[:, here] = structure.in_columns(scores, size, j, n)
            error = _removal(fitted[:, j], support[:, j], inverse)
            fitted[:, j] -= error
            errors[:, j - start] = error / upper[j, j]
            fitted[:, j + 1 : end] -= torch.outer(errors[:, j - start], upper[j, j + 1 : end])
        fitted[:, end:] -= errors @ upper[start:end, end:]
    return fitted, support


def _removal(column: Tensor, kept: Tensor, inverse: Tensor | None) -> Tensor:
    """What is taken off a column (m) so that only `kept` is left of it."""
    gone = torch.where(kept, 0, column)
    if inverse is None or inverse.dim() == 1 or kept.all() or not gone.any():
        return gone
    lost = (~kept).nonzero()[:, 0]
    spread: Tensor = inverse[:, lost] @ torch.cholesky_solve(gone[lost, None], safe_cholesky(inverse[lost][:, lost]))
    return torch.where(kept, spread[:, 0], column)
