"""Trellis rounding: diagonals of a weight become strings of codes, and later ones make good the errors of each.

Source: QTIP (Tseng et al. 2024, arXiv 2406.11235), without its random rotations, in the metric of inputs or in the one
of both sides; see `linalg/trellis.py` for what differs.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.grid import spread
from gossamer.linalg.quotes import quoted
from gossamer.linalg.trellis import rounded_on_trellis, strung_across, trellis_scales
from gossamer.metrics import KroneckerMetric, Metric
from gossamer.solvers._base import Solver
from gossamer.solvers._estimate import estimated
from gossamer.solvers.sequential_rounding import costs, sides
from gossamer.structures import Structure
from gossamer.structures.trellis_256 import Trellis256


class TrellisRounding(Solver):
    """Priced as by `sequential_rounding`: a sample of rows, its diagonals the strings and without feedback, at the cost
    that feedback leaves to each entry."""

    exact = False
    fed_back = True

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, Trellis256) and issubclass(metric, KroneckerMetric)

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes` the structure offers for this weight, and their `errors`."""
        assert isinstance(structure, Trellis256) and isinstance(metric, KroneckerMetric)
        inputs, outputs = sides(metric, in_turn=True)
        m, n = weight.shape
        columns, rows = costs(inputs, n, weight), costs(outputs, m, weight)
        length = structure.length((m, n))

        every = rows[:, None] * columns

        def rounded(part: Tensor, picked: Tensor, bits: int) -> Tensor:
            scales = trellis_scales(part, columns, length, bits)
            return strung_across(part, spread(scales, length, n), every[picked], bits)

        return estimated(weight, every, structure.sizes((m, n)), rounded)

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return quoted(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, Trellis256) and isinstance(metric, KroneckerMetric)
        inputs, outputs = sides(metric, in_turn=True)
        m, n = weight.shape
        length, columns = structure.length((m, n)), costs(inputs, n, weight)
        scales = trellis_scales(weight, columns, length, size)
        codes = rounded_on_trellis(weight, spread(scales, length, n), size, inputs, outputs)
        return structure.express(codes, scales, size)
