"""Sparse least squares: entries go by what losing each alone would cost, and those that stay are fitted together.

With everything else free to make good, losing W_ij alone costs ½ W_ij² / ((G⁻¹)_ii (A⁻¹)_jj): the saliency of the
optimal brain surgeon (Hassibi & Stork 1992) for the Kronecker product of a metric's two sides. What stays is found by
solving for all of it at once, where SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774) goes through columns in a
fixed order: on a support S the least ½ tr(G E A Eᵀ), E = W − V, is where G E A is zero on S. Conjugate gradients
(Hestenes & Stiefel 1952), preconditioned by the two diagonals, come close in a few products. Meng et al. 2024 (ALPS,
arXiv 2406.07831) solve the one-sided problem so.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.cholesky import safe_cholesky
from gossamer.metrics import InputMetric, KroneckerMetric, Metric, times
from gossamer.solvers._sparse import SparseSolver
from gossamer.structures import SparseStructure, Structure

STEPS = 60
"""Of conjugate gradients at most."""

ENOUGH, FOR_PRICES = 0.002, 0.03
"""Of the error: a second step in a row that lowers it by less is the last. One alone may be a pause: where all inputs
share a large mean the gains of conjugate gradients fall and rise again."""

ROUNDING = 1e-13
"""Of the first slope: below it float32 has nothing left to gain."""


class SparseLeastSquares(SparseSolver):
    """For metrics with two sides."""

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        both = issubclass(metric, KroneckerMetric) and not issubclass(metric, InputMetric)
        return both and issubclass(structure, SparseStructure)

    def _errors(
        self, weight: Tensor, structure: SparseStructure, sizes: Sequence[int], metric: KroneckerMetric
    ) -> list[float]:
        scores, values, errors = saliency(weight, metric), weight, []
        for size in sizes:
            support = structure.in_columns(scores, size, 0, weight.shape[1])
            values, error = fitted(weight, support, metric, FOR_PRICES, values)
            errors.append(error)
        return errors

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, SparseStructure) and isinstance(metric, KroneckerMetric)
        support = structure.in_columns(saliency(weight, metric), size, 0, weight.shape[1])
        return structure.express(fitted(weight, support, metric, ENOUGH, weight)[0], support)


def saliency(weight: Tensor, metric: KroneckerMetric) -> Tensor:
    """Twice what losing each entry of the weight (m × n) alone costs while all others may change."""
    return weight.square() / _freedom(metric.output)[:, None] / _freedom(metric.input)


def _freedom(side: Tensor | None) -> Tensor:
    """The diagonal of the inverse of a side."""
    assert side is not None
    return 1 / side if side.dim() == 1 else torch.cholesky_inverse(safe_cholesky(side)).diagonal()


def fitted(
    weight: Tensor, support: Tensor, metric: KroneckerMetric, enough: float, start: Tensor
) -> tuple[Tensor, float]:
    """(values (m × n, float64, zero where `support` is not), their error), close to the best there are on the support.

    The steps go from `start` on, in float32: what is left of the error after them is more than rounding.
    """
    scale = weight.abs().max().clamp_min(1e-300)
    output, rows, unit = _level(metric.output)
    input_, columns, other = _level(metric.input)

    def felt(change: Tensor) -> Tensor:
        return times(input_, times(output, change).T).T

    preconditioner = support / (rows[:, None] * columns)
    values = (start / scale).float() * support
    missing = (weight / scale).float() - values
    residual = felt(missing)
    error = 0.5 * (missing * residual).sum()
    residual *= support
    direction = preconditioner * residual
    slope = (residual * direction).sum()
    least, small = ROUNDING * slope, 0
    for _ in range(STEPS):
        image = felt(direction) * support
        curvature = (direction * image).sum()
        if not (slope > least and curvature > 0):
            break
        step = slope / curvature
        values += step * direction
        residual -= step * image
        gain = 0.5 * step * slope
        error -= gain
        small = small + 1 if gain <= enough * error else 0
        if small == 2:
            break
        before, slope = slope, (residual.square() * preconditioner).sum()
        direction = preconditioner * residual + slope / before * direction
    return values.double() * scale, float(error.clamp_min(0) * (scale * scale * unit * other))


def _level(side: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(a side in float32, its diagonal, the mean of that), the first two divided by the mean."""
    assert side is not None
    diagonal = side if side.dim() == 1 else side.diagonal()
    mean = diagonal.mean().clamp_min(1e-300)
    return (side / mean).float(), (diagonal / mean).float().clamp_min(1e-20), mean
