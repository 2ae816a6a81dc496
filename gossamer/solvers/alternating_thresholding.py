"""Alternating thresholding: singular values of what the entries leave, and entries of what the product leaves, in turn.

Source: OATS (Zhang & Papyan 2024, arXiv 2409.13652). The weight's columns are scaled by the root of what their errors
cost, where keeping what is largest is right for both parts. In each of its turns the paper's code truncates singular
values; here a turn is one step of least squares from the last product (see `linalg/splitting.py`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.splitting import Axes, split
from gossamer.metrics import DiagonalMetric, Metric
from gossamer.metrics.identity import Identity
from gossamer.solvers._base import Solver
from gossamer.solvers._interpolated import fitted_prices, interpolated
from gossamer.structures import Structure
from gossamer.structures.low_rank_and_sparse import LowRankAndSparse

STEPS = 80
"""As many as the paper has turns."""

FOR_PRICES = 8
"""Which prices are upper bounds by: no step makes the sum worse."""


class AlternatingThresholding(Solver):
    """For metrics that see no correlations: in others the entries that stay can be fitted (`sparse_least_squares`)."""

    exact = False

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, LowRankAndSparse) and issubclass(metric, DiagonalMetric | Identity)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """What `fitted_prices` gives, of fewer steps than are taken at last: upper bounds."""
        assert isinstance(structure, LowRankAndSparse)
        scaled = _Scaled(weight, metric)

        def error(size: int) -> float:
            left, right, sparse = scaled.parts(structure, size, FOR_PRICES)
            return metric.error(weight - left @ right - sparse)

        return fitted_prices(
            structure.sizes(metric.shape),
            metric.shape[1],
            metric.error(weight),
            lambda sizes: [error(size) for size in sizes],
        )

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return interpolated(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, LowRankAndSparse)
        left, right, sparse = _Scaled(weight, metric).parts(structure, size, STEPS)
        return structure.express(left, right, sparse, size)


class _Scaled:
    """A weight as its metric sees it, in float32 and with its singular vectors, for all sizes."""

    def __init__(self, weight: Tensor, metric: Metric) -> None:
        self.scales = metric.weights.sqrt() if isinstance(metric, DiagonalMetric) else weight.new_ones(weight.shape[1])
        self.unit = (weight * self.scales).abs().max().clamp_min(1e-300)  # float32 holds what is left
        self.matrix = (weight * self.scales / self.unit).float()
        self.axes: Axes = tuple(torch.linalg.svd(self.matrix, full_matrices=False))

    def parts(self, structure: LowRankAndSparse, size: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """(left (m × r), right (r × n), sparse (m × n)) for the weight itself, in float64."""
        rank = structure.rank((self.matrix.shape[0], self.matrix.shape[1]), size)
        left, right, sparse = (part.double() for part in split(self.matrix, self.axes, rank, size, steps))
        return left * self.unit, right / self.scales, sparse * self.unit / self.scales
