"""Table rounding: a table of token embeddings goes to a grid column by column, as in GPTQ.

What the errors of a row (a token) cost is a form on them that all rows share, up to a factor: its curvature as the
outputs' where the table is looked up, as the inputs' where it is the head, or both. So every row is rounded with the
feedback of that form (Frantar et al. 2022, arXiv 2210.17323), whatever its factor.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.feedback import side
from gossamer.linalg.quotes import quoted
from gossamer.metrics import Metric, TableMetric
from gossamer.solvers._base import Solver
from gossamer.solvers._estimate import estimated
from gossamer.solvers.sequential_rounding import plain, quantized
from gossamer.solvers.table_svd import nearest_product
from gossamer.structures import QuantizedStructure, Structure


class TableRounding(Solver):
    """Priced as by `sequential_rounding`; of a tied table in the product nearest to the sum of its uses."""

    exact = False
    fed_back = True

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, QuantizedStructure) and issubclass(metric, TableMetric)

    def kept_as(self, structure: Structure) -> str:
        return f"{self.name}-{structure.name}"

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes` the structure offers for this table, and their `errors`."""
        assert isinstance(structure, QuantizedStructure) and isinstance(metric, TableMetric)
        rows, form = nearest_product(metric)
        columns = side(form).cost
        return estimated(
            weight,
            rows[:, None] * columns,
            structure.sizes((weight.shape[0], weight.shape[1])),
            lambda part, _, bits: plain(part, structure, bits, columns),
        )

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return quoted(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, QuantizedStructure) and isinstance(metric, TableMetric)
        return quantized(weight, structure, size, side(nearest_product(metric)[1]), None)
