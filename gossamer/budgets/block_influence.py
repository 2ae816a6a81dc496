"""Block influence: blocks that hardly change what passes through them keep less of their weights.

A block's influence is s = 1 − E cos(x, y) over its inputs x and outputs y (Men et al. 2024, "ShortGPT", arXiv
2403.03853). The shares φ that go maximise Σ s (1 − φ) + ε H(φ) at a given mean, which makes φ ∝ exp(−s / ε) (MoDeGPT:
Lin et al. 2024, arXiv 2408.09632), here with a cap, since that can exceed one; c in φ = min(cap, c exp(−s / ε)) is
found by bisection, so that the budget is met in its own unit.
"""

import math
from collections.abc import Sequence

from gossamer.budgets._base import Allocator, affordable, worthwhile
from gossamer.budgets._shares import filled, within
from gossamer.vocabulary import Allocation, Curve, Option, Unit

TEMPERATURE = 0.15
"""ε. The paper's is not known to us; this is the default of the public re-implementation cbacary/MoDeGPT."""
CAP = 0.8
STEPS = 60


class BlockInfluence(Allocator):
    """The same share for all weights of a block."""

    influence = True

    def allocate(self, curves: Sequence[Curve], limit: int, unit: Unit) -> Allocation:
        affordable(curves, limit, unit)
        curves = worthwhile(curves, unit)
        cap = CAP if _cost(_choices(curves, math.inf, CAP, unit), unit) <= limit else 1.0
        low, high = 0.0, math.exp(max(curve.influence for curve in curves) / TEMPERATURE)
        for _ in range(STEPS):
            middle = (low + high) / 2
            fits = _cost(_choices(curves, middle, cap, unit), unit) <= limit
            low, high = (low, middle) if fits else (middle, high)
        return Allocation(choices=filled(_choices(curves, high, cap, unit), curves, limit, unit), bound=0.0)


def _choices(curves: Sequence[Curve], scale: float, cap: float, unit: Unit) -> dict[str, Option]:
    gone = {c.site: min(cap, scale * math.exp(-c.influence / TEMPERATURE)) for c in curves}
    return {curve.site: within(curve, 1 - gone[curve.site], unit) for curve in curves}


def _cost(choices: dict[str, Option], unit: Unit) -> int:
    return sum(option.cost.of(unit) for option in choices.values())
