"""The promise of an allocator, and how sites that run fused are made to share one rank."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from gossamer.errors import BudgetError
from gossamer.vocabulary import NO_COST, Allocation, Curve, Option, Unit


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


def tied(curves: Sequence[Curve], groups: Mapping[str, str]) -> list[Curve]:
    """One curve for each group of sites (site → group name): options that every member takes at the same size.

    A member for which the size does not pay stays dense. Members of a group can then be multiplied as one.
    """
    members: dict[str, list[Curve]] = {}
    for curve in curves:
        members.setdefault(groups[curve.site], []).append(curve)
    return [_joined(name, group) if len(group) > 1 else group[0] for name, group in members.items()]


def _joined(name: str, group: Sequence[Curve]) -> Curve:
    keys = sorted({(o.structure, o.size) for curve in group for o in curve.options if o.structure != "dense"})
    options = [_sum("dense", 0, [curve.dense for curve in group])]
    options += [_sum(structure, size, [_pick(curve, structure, size) for curve in group]) for structure, size in keys]
    return Curve(site=name, options=tuple(options))


def _pick(curve: Curve, structure: str, size: int) -> Option:
    return next((o for o in curve.options if (o.structure, o.size) == (structure, size)), curve.dense)


def _sum(structure: str, size: int, parts: Sequence[Option]) -> Option:
    cost = sum((p.cost for p in parts), NO_COST)
    return Option(structure=structure, size=size, cost=cost, error=sum(p.error for p in parts))


def untied(allocation: Allocation, curves: Sequence[Curve], groups: Mapping[str, str]) -> Allocation:
    """The allocation of `tied` curves, spelled out for the single sites."""
    choices = {}
    for curve in curves:
        chosen = allocation.choices.get(groups[curve.site]) or allocation.choices[curve.site]
        choices[curve.site] = _pick(curve, chosen.structure, chosen.size)
    return Allocation(choices=choices, bound=allocation.bound)
