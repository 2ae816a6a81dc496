"""Tensor-train SVD: the best train of two cores of every bond dimension, from one singular value decomposition.

With two cores the weight, rearranged to (I₁J₁ × I₂J₂), is a plain product of two factors, so truncating its singular
values is optimal (Eckart & Young 1936; Van Loan & Pitsianis 1993, "Approximation with Kronecker products") and the
price of bond dimension χ is half the discarded energy. The rearrangement keeps ‖ΔW‖ and nothing else: weights on the
rows or the columns, which every other metric has, do not survive it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.tensor_train import TensorTrain
from gossamer.linalg.tensor_train import paired, tt_svd
from gossamer.metrics import Metric
from gossamer.metrics.identity import Identity
from gossamer.solvers._base import Solver
from gossamer.structures import Structure
from gossamer.structures.tensor_train import TensorTrainStructure


class TensorTrainSVD(Solver):
    """Exact for trains of two cores where every weight counts the same."""

    exact = True

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, TensorTrainStructure) and issubclass(metric, Identity)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`energy` (k), the squared singular values in descending order, and `basis` (I₁J₁ × k), the left vectors.

        k is the smaller side of the rearranged weight.
        """
        assert isinstance(structure, TensorTrainStructure)
        (first, last), _ = tt_svd(weight, *structure.split(metric.shape), bond=weight.numel())
        return {"energy": last.square().sum((1, 2, 3)), "basis": first.flatten(0, 2).float()}

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        energy = prepared["energy"].double()
        return [0.5 * float(energy[size:].sum()) for size in sizes]

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, TensorTrainStructure)
        rows, columns = structure.split(metric.shape)
        # What float32 lost on disk is the basis' orthonormality; with it back, the other core is a projection.
        first = torch.linalg.qr(prepared["basis"][:, :size].double()).Q
        last = first.T @ paired(weight, rows, columns).reshape(len(first), -1)
        # The same length for both parts of each bond index: half-precision formats then hold both.
        balance = last.norm(dim=1).clamp_min(1e-300).sqrt()
        first, last = first * balance, last / balance[:, None]
        return TensorTrain([first.view(1, rows[0], columns[0], -1), last.view(-1, rows[1], columns[1], 1)])
