"""Trellis rounding: diagonals of a weight become strings of codes, and later ones make good the errors of each.

Source: QTIP (Tseng et al. 2024, arXiv 2406.11235), without its random rotations, in the metric of inputs or in the one
of both sides; see `linalg/trellis.py` for what differs.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.grid import spread
from gossamer.linalg.quotes import quoted, quotes
from gossamer.linalg.trellis import rounded_on_trellis, strung_across, trellis_scales
from gossamer.metrics import KroneckerMetric, Metric
from gossamer.solvers._base import Solver
from gossamer.solvers._estimate import sampled_runs
from gossamer.solvers.sequential_rounding import costs, sides
from gossamer.structures import Structure
from gossamer.structures.trellis_256 import Trellis256


class TrellisRounding(Solver):
    """Priced as by `sequential_rounding`, at the cost that feedback leaves to each entry, from a sample of rows whose
    diagonals are the strings.

    They come with their neighbours, as they are: a string gains by what it leaves to entries that cost little.
    """

    exact = False
    fed_back = True

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, Trellis256) and issubclass(metric, KroneckerMetric)

    def kept_as(self, structure: Structure) -> str:
        return f"{self.name}-{structure.name}"

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes` the structure offers for this weight, and their `errors`."""
        assert isinstance(structure, Trellis256) and isinstance(metric, KroneckerMetric)
        inputs, outputs = sides(metric, in_turn=True)
        m, n = weight.shape
        columns, rows = costs(inputs, n, weight), costs(outputs, m, weight)
        length = structure.length((m, n))

        costly = rows[:, None] * columns
        energy = (costly * weight.square()).sum(1)
        picked, shares = sampled_runs(energy)
        part = weight[picked]

        def error(bits: int) -> float:
            scales = spread(trellis_scales(part, columns, length, bits), length, n)
            found = strung_across(part, scales, costly[picked], bits)
            return 0.5 * float(shares @ (costly[picked] * (part - found).square()).sum(1))

        sizes = structure.sizes((m, n))
        return quotes(sizes, [error(size) for size in sizes])

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
