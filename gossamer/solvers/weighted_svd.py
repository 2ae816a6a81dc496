"""Weighted SVD: low rank under a weight for every entry, by expectation-maximization.

Source: Srebro & Jaakkola 2003, "Weighted low-rank approximations". Fill in what the weights leave open from the last
fit, truncate, repeat: X ← SVD_r(Ω ∘ W + (1 − Ω) ∘ X) with Ω = F / max F. The weighted error never rises; the
problem has local minima (it is NP-hard), so the result is not claimed to be the best.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.metrics import Metric
from gossamer.metrics.diagonal_fisher import DiagonalFisher
from gossamer.solvers._base import Solver
from gossamer.structures import RankStructure, Structure

STEPS = 20
POINTS = 8


class WeightedSVD(Solver):
    """Prices a few ranks by fitting them, and the ranks between by interpolating the logarithm."""

    exact = False

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, RankStructure) and issubclass(metric, DiagonalFisher)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        sizes = structure.sizes((weight.shape[0], weight.shape[1]))
        picked = sorted({sizes[i * (len(sizes) - 1) // (POINTS - 1)] for i in range(POINTS)})
        errors = [metric.error(weight - torch.matmul(*self._fit(weight, size, metric))) for size in picked]
        # More rank cannot cost more: a larger fit that ended in a worse minimum could have padded the smaller one.
        falling = torch.tensor(errors, dtype=torch.float64).cummin(0).values
        return {"sizes": torch.tensor(picked), "errors": falling}

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        known, errors = prepared["sizes"].double(), prepared["errors"].double().clamp_min(1e-300).log()
        at = torch.tensor(sizes, dtype=torch.float64).clamp(known[0], known[-1])
        right = torch.searchsorted(known, at).clamp(1, max(len(known) - 1, 1)).clamp_max(len(known) - 1)
        left = (right - 1).clamp_min(0)
        share = (at - known[left]) / (known[right] - known[left]).clamp_min(1)
        return (errors[left] + share * (errors[right] - errors[left])).exp().tolist()

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, RankStructure)
        return structure.express(*self._fit(weight, size, metric))

    @staticmethod
    def _fit(weight: Tensor, size: int, metric: Metric) -> tuple[Tensor, Tensor]:
        assert isinstance(metric, DiagonalFisher)
        share = metric.weights / metric.weights.max().clamp_min(1e-300)
        fit = weight
        for _ in range(STEPS):
            u, s, vh = torch.linalg.svd(share * weight + (1 - share) * fit, full_matrices=False)
            left, right = u[:, :size] * s[:size], vh[:size]
            fit = left @ right
        return left, right
