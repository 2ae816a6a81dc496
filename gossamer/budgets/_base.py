"""The promise of an allocator."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from gossamer.errors import BudgetError
from gossamer.vocabulary import Allocation, Curve, Unit


class Allocator(ABC):
    """Chooses an option for every site."""

    @abstractmethod
    def allocate(self, curves: Sequence[Curve], limit: int, unit: Unit) -> Allocation:
        """One option a site, together at most `limit` of `unit`; raises `BudgetError` where none fits."""


def affordable(curves: Sequence[Curve], limit: int, unit: Unit, fixed: int = 0) -> None:
    """Raise `BudgetError`, naming the smallest reachable size, where even the cheapest options exceed the limit.

    `fixed` is what the budget counts besides these curves; the sizes in the message include it.
    """
    floor = sum(min(o.cost.of(unit) for o in curve.options) for curve in curves)
    dense = sum(curve.dense.cost.of(unit) for curve in curves)
    if limit < floor:
        raise BudgetError(
            f"The budget of {limit + fixed:,} {unit} is out of reach: the smallest possible is {floor + fixed:,}, "
            f"which is {(floor + fixed) / (dense + fixed):.4f} of the dense {dense + fixed:,}."
        )
