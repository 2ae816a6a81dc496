"""What solvers of sparse structures that fit what stays share: prices of all sizes from a few that are fitted."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor

from gossamer.metrics import KroneckerMetric, Metric
from gossamer.solvers._base import Solver
from gossamer.solvers._interpolated import fitted_prices, interpolated
from gossamer.structures import SparseStructure, Structure


class SparseSolver(Solver):
    """Not exact: which entries go is chosen before it is known what the others can make good."""

    exact = False
    fed_back = True

    def kept_as(self, structure: Structure) -> str:
        return f"{self.name}-{structure.name}"

    @abstractmethod
    def _errors(
        self, weight: Tensor, structure: SparseStructure, sizes: Sequence[int], metric: KroneckerMetric
    ) -> list[float]:
        """The metric's errors of these sizes, descending."""

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """What `fitted_prices` gives."""
        assert isinstance(structure, SparseStructure) and isinstance(metric, KroneckerMetric)
        return fitted_prices(
            structure.sizes(metric.shape),
            weight.numel() / max(1, structure.kept(metric.shape, 1)),
            metric.error(weight),
            lambda sizes: self._errors(weight, structure, sizes, metric),
        )

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return interpolated(prepared, sizes)
