"""Corrected rounding: a base rounded with feedback, and the best low-rank correction of what that leaves.

As CALDERA (Saha et al. 2024, arXiv 2405.18886) in turns: the correction is the truncation, in the metric, of what the
base leaves (EoRA: Liu et al. 2024, arXiv 2410.21271, with both sides of the metric here), and the base rounds what the
correction leaves. The pair of least error is kept.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.product import Product
from gossamer.linalg.feedback import Side
from gossamer.linalg.quotes import quoted, quotes
from gossamer.metrics import KroneckerMetric, Metric
from gossamer.solvers._base import Solver
from gossamer.solvers.sequential_rounding import SequentialRounding, quantized, sides
from gossamer.solvers.whitened_svd import WhitenedSVD
from gossamer.structures import Structure
from gossamer.structures._base import balanced
from gossamer.structures.corrected_64 import Corrected64
from gossamer.structures.low_rank import LowRank

TURNS = 2


class CorrectedRounding(Solver):
    """The price of a size is that of the base times the share that a correction of this rank left of the base's error
    at the smallest depth: the errors of all depths are alike but for their scale."""

    exact = False
    fed_back = True

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, Corrected64) and issubclass(metric, KroneckerMetric)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes` the structure offers for this weight, and their `errors`."""
        assert isinstance(structure, Corrected64) and isinstance(metric, KroneckerMetric)
        sizes = structure.sizes((weight.shape[0], weight.shape[1]))
        plain = SequentialRounding().prepare(weight, structure.base, metric)
        depths = sorted({structure.parts(size)[0] for size in sizes})
        bases = dict(zip(depths, quoted(plain, depths), strict=True))
        shares: dict[int, float] = {}
        if sizes:
            left = weight - SequentialRounding().matrix(weight, structure.base, depths[0], metric, plain)
            energy = WhitenedSVD().prepare(left, LowRank(), metric)["energy"]
            whole = float(energy.sum()) or 1.0
            shares = {rank: float(energy[rank:].sum()) / whole for _, rank in map(structure.parts, sizes)}
        return quotes(sizes, [bases[bits] * shares[rank] for bits, rank in map(structure.parts, sizes)])

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return quoted(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, Corrected64) and isinstance(metric, KroneckerMetric)
        bits, rank = structure.parts(size)
        both = sides(metric)
        correction, found = torch.zeros_like(weight), []
        for _ in range(TURNS):
            base, factors = self._turn(weight, correction, structure, bits, rank, metric, both)
            correction = Product(factors).dense().detach()
            error = metric.error(weight - base.dense().detach() - correction)
            found.append((error, base, factors))
        _, base, (left, right) = min(found, key=lambda each: each[0])
        return structure.express(base, left, right)

    @staticmethod
    def _turn(
        weight: Tensor,
        correction: Tensor,
        structure: Corrected64,
        bits: int,
        rank: int,
        metric: KroneckerMetric,
        both: tuple[Side | None, Side | None],
    ) -> tuple[Expression, list[Expression]]:
        """(the base of what the correction leaves, the factors of the correction of what the base leaves)."""
        base = quantized(weight - correction, structure.base, bits, *both)
        left, right = truncated(weight - base.dense().detach(), rank, metric)
        return base, [structure.factor(each) for each in balanced(left, right)]


def truncated(weight: Tensor, rank: int, metric: KroneckerMetric) -> tuple[Tensor, Tensor]:
    """The factors (m × r) and (r × n) of the best matrix of a rank."""
    solver = WhitenedSVD()
    return solver.factors(weight, rank, metric, solver.prepare(weight, LowRank(), metric))
