"""Centred SVD: the best affine map of every rank for a layer's outputs.

For any W' the bias that minimizes E‖W x − W' x − b‖² is b = (W − W') μ, and what it leaves is the error of W' on
centred inputs, so W' is the whitened SVD's in the covariance. The same matrix as U Uᵀ W with U the leading
eigenvectors of the outputs' covariance, and b = (I − U Uᵀ) W μ.
Source: atomic feature mimicking (Yu & Wu 2023; Yu et al. 2024, arXiv 2405.18146).
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.affine import Affine
from gossamer.metrics import Metric
from gossamer.metrics.covariance import Covariance
from gossamer.solvers._base import Solver
from gossamer.solvers.whitened_svd import WhitenedSVD
from gossamer.structures import Structure
from gossamer.structures.affine_low_rank import AffineLowRank


class CentredSVD(Solver):
    """Exact; the mean output stays as it was."""

    exact = True
    whitened = WhitenedSVD()

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, AffineLowRank) and issubclass(metric, Covariance)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        assert isinstance(structure, AffineLowRank) and isinstance(metric, Covariance)
        return self.whitened.prepare(weight, structure.linear, metric.centred)

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return self.whitened.prices(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, AffineLowRank) and isinstance(metric, Covariance)
        linear = self.whitened.solve(weight, structure.linear, size, metric.centred, prepared)
        return Affine(linear, (weight - linear.dense().detach()) @ metric.mean)
