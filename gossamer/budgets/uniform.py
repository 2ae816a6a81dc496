"""Uniform: every site keeps the same fraction of itself, as SVD-LLM and most published methods do."""

from collections.abc import Sequence

from gossamer.budgets._base import Allocator, affordable, worthwhile
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
                choices = {c.site: pinned.get(c.site) or _within(c, fraction, unit) for c in curves}
                return Allocation(choices=_filled(choices, rest, limit, unit), bound=0.0)
            pinned |= {curve.site: cheapest[curve.site] for curve in stuck}


def _within(curve: Curve, fraction: float, unit: Unit) -> Option:
    """The largest option within a fraction of the dense weight."""
    fitting = [o for o in curve.options if o.cost.of(unit) <= fraction * curve.dense.cost.of(unit)]
    return max(fitting, key=lambda o: (o.cost.of(unit), -o.error))


def _filled(choices: dict[str, Option], curves: Sequence[Curve], limit: int, unit: Unit) -> dict[str, Option]:
    room = limit - sum(o.cost.of(unit) for o in choices.values())
    for curve in sorted(curves, key=lambda c: choices[c.site].cost.of(unit) / max(c.dense.cost.of(unit), 1)):
        mine = choices[curve.site]
        above = [o for o in curve.options if o.structure == mine.structure and o.cost.of(unit) > mine.cost.of(unit)]
        step = min(above, key=lambda o: o.cost.of(unit), default=mine)
        if step.cost.of(unit) - mine.cost.of(unit) <= room:
            room -= step.cost.of(unit) - mine.cost.of(unit)
            choices[curve.site] = step
    return choices
