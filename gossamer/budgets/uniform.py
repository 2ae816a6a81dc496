"""Uniform: every site keeps the same fraction of itself, as SVD-LLM and most published methods do."""

from collections.abc import Sequence

from gossamer.budgets._base import Allocator, affordable, worthwhile
from gossamer.budgets._shares import filled, within
from gossamer.vocabulary import Allocation, Curve, Option, Unit


class Uniform(Allocator):
    """The baseline. Each site takes its largest option within the common fraction.

    What the steps between sizes leave over raises sites by one size each, those furthest below the fraction first.
    """

    def allocate(self, curves: Sequence[Curve], limit: int, unit: Unit) -> Allocation:
        affordable(curves, limit, unit)
        curves = worthwhile(curves, unit)
        cheapest = {curve.site: min(curve.options, key=lambda o: o.cost.of(unit)) for curve in curves}
        pinned: dict[str, Option] = {}
        while True:
            # A site that cannot become so small takes its cheapest option, and the others share what that leaves.
            rest = [curve for curve in curves if curve.site not in pinned]
            room = limit - sum(o.cost.of(unit) for o in pinned.values())
            fraction = room / max(sum(curve.dense.cost.of(unit) for curve in rest), 1)
            stuck = [c for c in rest if cheapest[c.site].cost.of(unit) > fraction * c.dense.cost.of(unit)]
            if not stuck:
                choices = {c.site: pinned.get(c.site) or within(c, fraction, unit) for c in curves}
                return Allocation(choices=filled(choices, rest, limit, unit), bound=0.0)
            pinned |= {curve.site: cheapest[curve.site] for curve in stuck}
