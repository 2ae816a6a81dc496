"""The promise of an allocator."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from gossamer import discover
from gossamer.errors import BudgetError
from gossamer.vocabulary import Allocation, Curve, Unit


class Allocator(ABC):
    """Chooses an option for every site.

    `influence` says whether it looks at the curves' influence, `sensitivity` whether at the options' sensitivity,
    `least` whether it seeks the least predicted loss.
    """

    least: ClassVar[bool] = False
    influence: ClassVar[bool] = False
    sensitivity: ClassVar[bool] = False

    @abstractmethod
    def allocate(self, curves: Sequence[Curve], limit: int, unit: Unit) -> Allocation:
        """One option a site, together at most `limit` of `unit`; raises `BudgetError` where none fits."""


def allocator(name: str) -> type[Allocator]:
    """The allocator with this name."""
    import gossamer.budgets as room

    return discover.load(room, name, Allocator)  # type: ignore[type-abstract]


def affordable(curves: Sequence[Curve], limit: int, unit: Unit, fixed: int = 0) -> None:
    """Raise `BudgetError`, naming the smallest reachable size, where even the cheapest options exceed the limit.

    `fixed` is what the budget counts besides these curves; the sizes in the message include it.
    """
    floor = sum(int(curve.costs(unit).min()) for curve in curves)
    dense = sum(curve.dense.cost.of(unit) for curve in curves)
    if limit >= floor:
        return
    if unit == "bits":
        weights = sum(curve.dense.cost.params for curve in curves)
        raise BudgetError(
            f"The budget of {limit / weights:.4g} bits a weight is out of reach: the smallest possible is "
            f"{floor / weights:.4f}."
        )
    fewer = floor < dense or unit == "bytes"
    hint = "" if fewer else f"; nothing that they may become takes fewer {unit}, so give another budget, as --bits 4"
    raise BudgetError(
        f"The budget of {limit + fixed:,} {unit} is out of reach: the smallest possible is {floor + fixed:,}, "
        f"which is {(floor + fixed) / (dense + fixed):.4f} of the dense {dense + fixed:,}{hint}."
    )


def worthwhile(curves: Sequence[Curve], unit: Unit) -> list[Curve]:
    """The curves without the options that cost more of `unit` than the dense weight and lose no less.

    Structures promise less than the dense weight in some unit, not in every one.
    """
    return [_worthwhile(curve, unit) for curve in curves]


def _worthwhile(curve: Curve, unit: Unit) -> Curve:
    pays = (curve.costs(unit) <= curve.dense.cost.of(unit)) | (curve.errors < curve.dense.error)
    if pays.all():
        return curve
    return replace(curve, options=tuple(o for o, worth in zip(curve.options, pays, strict=True) if worth))
