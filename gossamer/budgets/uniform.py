"""Uniform: every site keeps the same fraction of itself, as SVD-LLM and most published methods do."""

from collections.abc import Sequence

from gossamer.budgets._base import Allocator, affordable
from gossamer.vocabulary import Allocation, Curve, Option, Unit


class Uniform(Allocator):
    """The baseline. Each site takes its largest option within the common fraction."""

    def allocate(self, curves: Sequence[Curve], limit: int, unit: Unit) -> Allocation:
        affordable(curves, limit, unit)
        fraction = limit / sum(curve.dense.cost.of(unit) for curve in curves)
        choices = {curve.site: self._within(curve, fraction, unit) for curve in curves}
        return Allocation(choices=choices, bound=0.0)

    @staticmethod
    def _within(curve: Curve, fraction: float, unit: Unit) -> Option:
        dense = curve.dense.cost.of(unit)
        fitting = [o for o in curve.options if o.cost.of(unit) <= fraction * dense]
        if not fitting:
            return min(curve.options, key=lambda o: o.cost.of(unit))
        return max(fitting, key=lambda o: (o.cost.of(unit), -o.error))
