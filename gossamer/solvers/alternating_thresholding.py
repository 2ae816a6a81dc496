"""Alternating thresholding: singular values of what the entries leave, and entries of what the product leaves, in turn.

Source: OATS (Zhang & Papyan 2024, arXiv 2409.13652). The weight's columns are scaled by the root of what their errors
cost, where keeping what is largest is right for both parts (see `linalg/splitting.py`).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.splitting import split
from gossamer.metrics import DiagonalMetric, Metric
from gossamer.metrics.identity import Identity
from gossamer.solvers._base import Solver
from gossamer.solvers._sparse import fitted_prices, interpolated
from gossamer.structures import Structure
from gossamer.structures.low_rank_and_sparse import LowRankAndSparse

STEPS = 80
"""The paper's."""

FOR_PRICES = 8


class AlternatingThresholding(Solver):
    """For metrics that see no correlations: in others the entries that stay can be fitted (`sparse_least_squares`)."""

    exact = False

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, LowRankAndSparse) and issubclass(metric, DiagonalMetric | Identity)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """What `fitted_prices` gives, of fewer steps than are taken at last: upper bounds."""
        assert isinstance(structure, LowRankAndSparse)
        return fitted_prices(
            structure.sizes(metric.shape),
            metric.shape[1],
            metric.error(weight),
            lambda sizes: [_error(weight, structure, size, metric) for size in sizes],
        )

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return interpolated(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, LowRankAndSparse)
        left, right, sparse = _parts(weight, structure, size, metric, STEPS)
        return structure.express(left, right, sparse, _support(sparse, size))


def _parts(
    weight: Tensor, structure: LowRankAndSparse, size: int, metric: Metric, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    scales = metric.weights.sqrt() if isinstance(metric, DiagonalMetric) else weight.new_ones(weight.shape[1])
    unit = (weight * scales).abs().max().clamp_min(1e-300)  # float32 holds what is left
    rank = min(structure.rank(metric.shape, size), *weight.shape)
    left, right, sparse = (part.double() for part in split((weight * scales / unit).float(), rank, size, steps))
    return left * unit, right / scales, sparse * unit / scales


def _error(weight: Tensor, structure: LowRankAndSparse, size: int, metric: Metric) -> float:
    left, right, sparse = _parts(weight, structure, size, metric, FOR_PRICES)
    return metric.error(weight - left @ right - sparse)


def _support(sparse: Tensor, size: int) -> Tensor:
    """Where `size` entries of each row are, those that are not zero first."""
    places = sparse.abs().topk(size, dim=1).indices
    return torch.zeros_like(sparse, dtype=torch.bool).scatter_(1, places, True)
