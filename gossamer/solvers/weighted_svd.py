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
    """Prices a few ranks by fitting them; between them it scales the plain SVD's error by the gain at its neighbours.

    A fit is never worse than the fits of lower ranks: where it ends in a poorer minimum, one of those is padded.
    """

    exact = False

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, RankStructure) and issubclass(metric, DiagonalFisher)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        picked = self._picked(weight)
        errors = [metric.error(weight - torch.matmul(*self._fit(weight, size, metric))) for size in picked]
        u, sv, vh = torch.linalg.svd(weight, full_matrices=False)
        plain = [metric.error(weight)]
        rest = weight.clone()
        for i in range(len(sv)):
            rest -= sv[i] * u[:, i : i + 1] * vh[i]
            plain.append(metric.error(rest))
        falling = torch.tensor(errors, dtype=torch.float64).cummin(0).values
        return {"sizes": torch.tensor(picked), "errors": falling, "plain": torch.tensor(plain, dtype=torch.float64)}

    @staticmethod
    def _picked(weight: Tensor) -> list[int]:
        most = max(min(weight.shape) - 1, 1)
        return sorted({1 + i * (most - 1) // (POINTS - 1) for i in range(POINTS)})

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        if not sizes:
            return []
        known, plain = prepared["sizes"], prepared["plain"].double()
        tiny = 1e-12 * plain[0] + 1e-300
        gain = ((prepared["errors"].double() + tiny) / (plain[known] + tiny)).log()
        known = known.double()
        at = torch.tensor(sizes, dtype=torch.float64).clamp(known[0], known[-1])
        right = torch.searchsorted(known, at).clamp(1, max(len(known) - 1, 1)).clamp_max(len(known) - 1)
        left = (right - 1).clamp_min(0)
        share = (at - known[left]) / (known[right] - known[left]).clamp_min(1)
        there = (gain[left] + share * (gain[right] - gain[left])).exp() * plain[torch.tensor(sizes)]
        return there.cummin(0).values.tolist()

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, RankStructure)
        fits = [self._fit(weight, s, metric) for s in {*(p for p in self._picked(weight) if p < size), size}]
        left, right = min(fits, key=lambda f: metric.error(weight - f[0] @ f[1]))
        lack = size - left.shape[1]
        return structure.express(
            torch.nn.functional.pad(left, (0, lack)), torch.nn.functional.pad(right, (0, 0, 0, lack))
        )

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
