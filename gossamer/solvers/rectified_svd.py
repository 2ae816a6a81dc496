"""Rectified SVD: the best affine map of every rank for a layer's outputs, with a ReLU on its coordinates.

ŷ = U max(0, Uᵀ W x) + (I − U Uᵀ) W μ with U the leading eigenvectors of the outputs' covariance. An eigenvector's sign
is free; each is taken so that its coordinate is positive on the mean, where the ReLU cuts less. The layer's own bias is
added behind the ReLU, where the paper has Uᵀ b before it and the rest behind: for layers without one it is the same.
Source: the compressed MLP layers of Yu et al. 2024 (arXiv 2405.18146), who train them afterwards.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.affine import Affine
from gossamer.expressions.dense import Dense
from gossamer.expressions.rectified import Rectified
from gossamer.metrics import Metric
from gossamer.metrics.covariance import Covariance
from gossamer.solvers._base import Solver
from gossamer.solvers.whitened_svd import WhitenedSVD
from gossamer.structures import Structure
from gossamer.structures._base import balanced
from gossamer.structures.low_rank import LowRank
from gossamer.structures.rectified_low_rank import RectifiedLowRank


class RectifiedSVD(Solver):
    """Prices as if the outputs were normally distributed: what the rank leaves out, and what the ReLU cuts off.

    A coordinate N(μ, σ²) with μ ≥ 0 loses E min(0, z)² = (μ² + σ²) Φ(−μ/σ) − μ σ φ(μ/σ), at most half of σ².
    """

    exact = False
    whitened = WhitenedSVD()

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, RectifiedLowRank) and issubclass(metric, Covariance)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """What `whitened_svd` keeps, and `cut` (k): what the ReLU takes from each coordinate."""
        assert isinstance(metric, Covariance)
        prepared = self.whitened.prepare(weight, LowRank(), metric.centred)
        left, right, _ = self._maps(weight, len(prepared["energy"]), metric, prepared)
        mean = left.norm(dim=0) * (right @ metric.mean)
        deviation = prepared["energy"].double().sqrt()
        at = mean / deviation.clamp_min(1e-300)
        density = (-0.5 * at.square()).exp() / (2 * torch.pi) ** 0.5
        share = (1 + at.square()) * torch.special.ndtr(-at) - at * density
        return {**prepared, "cut": deviation.square() * share.nan_to_num(0.0).clamp(0, 0.5)}

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        left_out = self.whitened.prices(prepared, sizes)
        return [price + 0.5 * float(prepared["cut"][:size].sum()) for price, size in zip(left_out, sizes, strict=True)]

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        left, right, bias = self._maps(weight, size, metric, prepared)
        return Rectified(Affine(Dense(left), bias), Affine(Dense(right), right.new_zeros(size)))

    def _maps(
        self, weight: Tensor, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """B (m × r), A (r × n) and b (m) of the best affine map, every coordinate of A positive on the mean."""
        assert isinstance(metric, Covariance)
        left, right = balanced(*self.whitened.factors(weight, size, metric.centred, prepared))
        bias = (weight - left @ right) @ metric.mean
        sign = torch.where(right @ metric.mean < 0, -1.0, 1.0).to(right)
        return left * sign, sign[:, None] * right, bias
