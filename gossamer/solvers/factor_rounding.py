"""Factor rounding: the best two factors of a rank, rounded one after the other, each in the metric it inherits.

With R held fast an error E of L costs ½ tr(G E (R A Rᵀ) Eᵀ), and with L held fast one of R costs ½ tr((Lᵀ G L) E A Eᵀ):
both are Kronecker metrics, so each factor is rounded with feedback on both sides (see `sequential_rounding`). Between
the two, R becomes the best for the L that was stored, (Lᵀ G L)⁻¹ Lᵀ G W, as in LPLR (Saha, Srivastava & Pilanci 2023,
arXiv 2310.11028), which has the identity for both sides and a random sketch for the first L.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.cholesky import safe_cholesky
from gossamer.linalg.congruence import congruence
from gossamer.linalg.feedback import ROWS, Side, side
from gossamer.metrics import KroneckerMetric, Metric, times
from gossamer.metrics._base import regularized
from gossamer.solvers._base import Solver
from gossamer.solvers._estimate import estimated
from gossamer.solvers.sequential_rounding import DAMPING, costs, plain, quantized, sides
from gossamer.solvers.whitened_svd import WhitenedSVD
from gossamer.structures import Structure
from gossamer.structures._base import balanced
from gossamer.structures.low_rank import LowRank
from gossamer.structures.quantized_low_rank import BITS, QuantizedLowRank

WHOLE = 0.999
"""Of the energy: beyond it a weight may have no rank, and its factors no meaning."""

Sides = tuple[Side | None, Side | None]


class FactorRounding(Solver):
    """The price of a rank is the energy it discards, which is exact, and a share of what it keeps for each factor's
    rounding: that which is lost at nearly full rank, by the estimate of `sequential_rounding`. What of L's errors lies
    in the span of L itself, r / m of them, is made good by R."""

    exact = False
    fed_back = True

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, QuantizedLowRank) and issubclass(metric, KroneckerMetric)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """What `WhitenedSVD` prepares, the `shares` of the energy that rounding L and R lose, and the `rows` of L."""
        assert isinstance(structure, QuantizedLowRank) and isinstance(metric, KroneckerMetric)
        prepared = WhitenedSVD().prepare(weight, LowRank(), metric)
        energy = prepared["energy"].cumsum(0)
        rank = min(int((energy < WHOLE * energy[-1]).sum()) + 1, len(energy))
        left, right = _factors(weight, rank, metric, prepared)
        lost = [
            _rounding(left, structure, *_left_sides(right, metric)),
            _rounding(right, structure, *_right_sides(left, metric)),
        ]
        shares = torch.tensor(lost, dtype=torch.float64) / (0.5 * prepared["energy"].sum()).clamp_min(1e-300)
        return {**prepared, "shares": shares.clamp_max(0.5), "rows": torch.tensor(float(weight.shape[0]))}

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        left, right = prepared["shares"].tolist()
        whole, rows = 0.5 * float(prepared["energy"].sum()), float(prepared["rows"])
        gone = WhitenedSVD().prices(prepared, sizes)
        return [e + (left * (1 - r / rows) + right) * (whole - e) for r, e in zip(sizes, gone, strict=True)]

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, QuantizedLowRank) and isinstance(metric, KroneckerMetric)
        left, right = _factors(weight, size, metric, prepared)
        first = quantized(left, structure.factors, BITS, *_left_sides(right, metric))
        stored = first.dense().detach()
        felt = times(metric.output, stored)
        best = torch.cholesky_solve(felt.T @ weight, safe_cholesky(stored.T @ felt))
        return structure.express(first, quantized(best, structure.factors, BITS, *_right_sides(stored, metric)))


def _factors(
    weight: Tensor, rank: int, metric: KroneckerMetric, prepared: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    return balanced(*WhitenedSVD().factors(weight, rank, metric, prepared))


def _left_sides(right: Tensor, metric: KroneckerMetric) -> Sides:
    """Those of errors in the left factor (m × r), for a right one (r × n)."""
    damping = DAMPING if metric.output is None else 0.0
    return side(regularized(congruence(right, metric.input), damping)), sides(metric)[1]


def _right_sides(left: Tensor, metric: KroneckerMetric) -> Sides:
    """Those of errors in the right factor (r × n), for a left one (m × r)."""
    return sides(metric)[0], side(congruence(left.T, metric.output), ROWS)


def _rounding(factor: Tensor, structure: QuantizedLowRank, inputs: Side | None, outputs: Side | None) -> float:
    """What rounding a factor is estimated to lose."""
    m, n = factor.shape
    columns = costs(inputs, n, factor)
    each = costs(outputs, m, factor)[:, None] * columns
    found = estimated(factor, each, [BITS], lambda part, _, bits: plain(part, structure.factors, bits, columns))
    return float(found["errors"][0])
