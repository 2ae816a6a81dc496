"""The promise of a solver, and how one is chosen: by what it accepts, never by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from gossamer import discover
from gossamer.errors import PlanError
from gossamer.expressions import Expression
from gossamer.metrics import Metric
from gossamer.structures import Structure


class Solver(ABC):
    """Fits expressions to weights.

    `exact` says that what `solve` returns is the best of its structure and size in the metric. `fed_back` says that
    every entry's error is made good by others as the statistics see it: the text they were measured on then feels
    less of it than any other text, and is no check of its price.
    """

    exact: ClassVar[bool]
    fed_back: ClassVar[bool] = False

    @abstractmethod
    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        """Whether this solver can fit the structure and honours the metric."""

    @abstractmethod
    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """The work that every size shares, as tensors to keep on disk. `weight` is (m × n) in float64."""

    @abstractmethod
    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        """The metric's error for each size, from what `prepare` kept: of an exact solver the very one, of any other
        an estimate or an upper bound.
        """

    @abstractmethod
    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        """The expression of this size, in float64."""

    def matrix(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Tensor:
        """What `solve`'s expression multiplies by (m × n), where there is a shorter way to it than writing it down."""
        return self.solve(weight, structure, size, metric, prepared).dense().detach()

    def kept_as(self, structure: Structure) -> str:
        """The name that prepared work is kept under; structures of one name share it."""
        return self.name

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]


def solvable(structure: type[Structure], metric: type[Metric]) -> bool:
    """Whether there is a solver for a structure in a metric."""
    return bool(_fitting(structure, metric))


def choose(structure: type[Structure], metric: type[Metric]) -> Solver:
    """The solver for a structure in a metric, an exact one before any other; `PlanError` where there is none."""
    fitting = _fitting(structure, metric)
    if not fitting:
        fit = [name for name, kind in _metrics().items() if _fitting(structure, kind)]
        hint = f"metric: {', '.join(fit)}" if fit else "structure"
        raise PlanError(f"No solver fits {_name(structure)} in the metric {_name(metric)}; choose another {hint}.")
    return max(fitting, key=lambda s: s.exact)


def _name(kind: type) -> str:
    """As it is typed: the name of the file."""
    return kind.__module__.rpartition(".")[2]


def _metrics() -> dict[str, type[Metric]]:
    import gossamer.metrics as room

    return discover.catalogue(room, Metric)  # type: ignore[type-abstract]


def _fitting(structure: type[Structure], metric: type[Metric]) -> list[Solver]:
    import gossamer.solvers as room

    return [s() for s in discover.catalogue(room, Solver).values() if s().accepts(structure, metric)]  # type: ignore[type-abstract]
