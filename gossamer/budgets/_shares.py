"""Options by the share of its weight that a site may keep."""

from collections.abc import Sequence

from gossamer.vocabulary import Curve, Option, Unit


def within(curve: Curve, fraction: float, unit: Unit) -> Option:
    """The largest option within a fraction of the dense weight, or the cheapest where none is that small."""
    cheapest = min(curve.options, key=lambda o: o.cost.of(unit))
    fitting = [cheapest] + [o for o in curve.options if o.cost.of(unit) <= fraction * curve.dense.cost.of(unit)]
    return max(fitting, key=lambda o: (o.cost.of(unit), -o.error))


def filled(choices: dict[str, Option], curves: Sequence[Curve], limit: int, unit: Unit) -> dict[str, Option]:
    """The choices, with what they leave of the limit spent on raising sites by one size, the least kept first."""
    room = limit - sum(o.cost.of(unit) for o in choices.values())
    for curve in sorted(curves, key=lambda c: choices[c.site].cost.of(unit) / max(c.dense.cost.of(unit), 1)):
        mine = choices[curve.site]
        above = [o for o in curve.options if o.structure == mine.structure and o.cost.of(unit) > mine.cost.of(unit)]
        step = min(above, key=lambda o: o.cost.of(unit), default=mine)
        if step.cost.of(unit) - mine.cost.of(unit) <= room:
            room -= step.cost.of(unit) - mine.cost.of(unit)
            choices[curve.site] = step
    return choices
