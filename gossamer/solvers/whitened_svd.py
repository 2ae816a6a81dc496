"""Whitened SVD: the best matrix of every rank in a Kronecker metric, from one eigendecomposition.

With G = L Lᵀ and A = R Rᵀ, ½ tr(G ΔW A ΔWᵀ) = ½ ‖Lᵀ ΔW R‖², so truncating the singular values of Lᵀ W R is optimal
(Eckart & Young 1936) and the price of rank r is half the discarded energy. Of the two roots only the one on the
weight's smaller side is taken: with k = min(m, n), one k × k Cholesky factor, one k × k eigendecomposition.
For m ≤ n the best matrix is P_r P_rᵀ G W, where the columns of P = L⁻ᵀ U solve (W A Wᵀ) p = λ G⁻¹ p with Pᵀ G P = I;
for m > n it is W A Q_r Q_rᵀ with the roles exchanged. Nothing on the larger side is ever inverted.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.cholesky import safe_cholesky
from gossamer.linalg.congruence import congruence
from gossamer.metrics import KroneckerMetric, Metric, times
from gossamer.solvers._base import Solver
from gossamer.structures import RankStructure, Structure


class WhitenedSVD(Solver):
    """Exact for every rank structure in every Kronecker metric."""

    exact = True

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, RankStructure) and issubclass(metric, KroneckerMetric)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`energy` (k), the squared singular values in descending order, and `basis` (k × k), the columns P or Q."""
        assert isinstance(metric, KroneckerMetric)
        wide = weight.shape[0] <= weight.shape[1]
        tall = weight if wide else weight.T
        small = metric.output if wide else metric.input
        large = metric.input if wide else metric.output
        root = None if small is None else safe_cholesky(small if small.dim() == 2 else small.diag())
        inner = congruence(tall, large)
        if root is not None:
            inner = root.T @ inner @ root
            inner = 0.5 * (inner + inner.T)
        energy, vectors = torch.linalg.eigh(inner)
        energy, vectors = energy.flip(0).clamp_min(0), vectors.flip(1)
        basis = vectors if root is None else torch.linalg.solve_triangular(root.T, vectors, upper=True)
        return {"energy": energy, "basis": basis}

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        energy = prepared["energy"].double()
        tail = energy.flip(0).cumsum(0).flip(0)
        tail = torch.cat([tail, tail.new_zeros(1)])
        return [0.5 * float(tail[size]) for size in sizes]

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, RankStructure)
        return structure.express(*self.factors(weight, size, metric, prepared))

    def matrix(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Tensor:
        """In float32, which is enough to try out what an error of this size costs."""
        left, right = self.factors(weight.float(), size, metric, prepared)
        return left @ right

    @staticmethod
    def factors(weight: Tensor, size: int, metric: Metric, prepared: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(left (m × r), right (r × n)) of the best matrix of rank r, in the weight's dtype."""
        assert isinstance(metric, KroneckerMetric)
        # A copy in one layout: last digits depend on how a matrix lies in memory, and one from a file lies otherwise.
        basis = prepared["basis"][:, :size].to(weight.dtype, copy=True, memory_format=torch.contiguous_format)
        wide = weight.shape[0] <= weight.shape[1]
        small = metric.output if wide else metric.input
        other = times(None if small is None else small.to(weight.dtype), basis).T @ (weight if wide else weight.T)
        return (basis, other) if wide else (other.T, basis.T)
