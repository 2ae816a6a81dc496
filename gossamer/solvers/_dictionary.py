"""What the dictionary solvers share: a start that prices every size, and the last step."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.dictionary import best_dictionary, start_error
from gossamer.linalg.principal import principal_rows
from gossamer.linalg.quotes import quoted, quotes
from gossamer.metrics import InputMetric, Metric
from gossamer.solvers._base import Solver
from gossamer.structures import DictionaryStructure, Structure
from gossamer.structures._dictionary import kept


class DictionarySolver(Solver):
    """Codes are found in the whitened space, the dictionary for them in the weight's own.

    The prices are upper bounds, those of a start that needs no iteration: the k principal directions of the whitened
    rows as atoms, and the s largest coordinates of every row as its codes. What `solve` returns is never worse.
    """

    exact = False

    @abstractmethod
    def codes(self, rows: Tensor, count: int) -> Tensor:
        """Codes (m × count) for whitened rows in principal coordinates, no worse than `start` for these."""

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes` the structure offers for this weight, and their `errors`."""
        assert isinstance(metric, InputMetric)
        rows = principal_rows(weight, metric.input)
        sizes = structure.sizes((weight.shape[0], weight.shape[1]))
        return quotes(sizes, [start_error(rows, size, kept(size)) for size in sizes])

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return quoted(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, DictionaryStructure) and isinstance(metric, InputMetric)
        codes = self.codes(principal_rows(weight, metric.input), size)
        return structure.express(codes, best_dictionary(codes, weight))
