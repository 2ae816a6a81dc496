"""Knapsack: the least total predicted loss within the budget, with a proven bound.

Choosing one option a site under one limit is the multiple-choice knapsack problem (Sinha & Zoltners 1979). Its linear
relaxation is solved on the lower convex hulls of the curves; the slope where the budget runs out prices the budget.
An option whose loss at that price exceeds its site's best by more than the gap between the relaxation and a
rounded-down solution cannot be part of any better one, so a small core remains, which HiGHS solves nearly to
optimality.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from gossamer.budgets._base import Allocator, affordable, worthwhile
from gossamer.budgets._hull import steps, total
from gossamer.budgets._quiet import quiet
from gossamer.vocabulary import Allocation, Curve, Unit

NODES = 100
"""Of the search for the core's optimum, at most. Not seconds: a plan must not depend on how busy the machine is."""
CORE = 3_000
"""Options of the core, or four a site if that is more: where more are left, rounding was nearly optimal already."""
GAP = 0.01
"""The search ends this near to the optimum, of the distance between the rounded-down solution and the bound."""


class Knapsack(Allocator):
    """`bound` of its allocation is the relaxation's loss, which no allocation within the limit beats."""

    least = True

    def allocate(self, curves: Sequence[Curve], limit: int, unit: Unit) -> Allocation:
        affordable(curves, limit, unit)
        curves = worthwhile(curves, unit)
        dense = {curve.site: curve.dense for curve in curves}
        if sum(o.cost.of(unit) for o in dense.values()) <= limit and not any(o.error for o in dense.values()):
            return Allocation(choices=dense, bound=0.0)
        picks, price, bound = _relaxed(curves, limit, unit)
        rounded = total(curves, picks, unit)[1]
        best = _core(curves, limit, unit, price, rounded - bound) or picks
        if total(curves, best, unit)[1] > rounded:
            best = picks
        choices = {curve.site: curve.options[i] for curve, i in zip(curves, best, strict=True)}
        return Allocation(choices=choices, bound=bound)


def _relaxed(curves: Sequence[Curve], limit: int, unit: Unit) -> tuple[list[int], float, float]:
    """(a feasible choice of option indices, the budget's price, the relaxation's loss)."""
    along = steps(curves, unit)
    at = list(along.starts)
    spent = total(curves, at, unit)[0]
    fits = int(np.searchsorted(spent + np.cumsum(along.cost), limit, side="right"))
    for s, to in zip(along.curve[:fits].tolist(), along.to[:fits].tolist(), strict=True):
        at[s] = to
    if fits == len(along.to):
        return at, 0.0, total(curves, at, unit)[1]
    spent, loss = total(curves, at, unit)
    price = float(along.saved[fits] / along.cost[fits])
    bound = loss - price * (limit - spent)
    blocked: set[int] = set()
    for s, to, extra in zip(*(a[fits:].tolist() for a in (along.curve, along.to, along.cost)), strict=True):
        if s in blocked:
            continue
        if spent + extra > limit:
            blocked.add(s)
            if len(blocked) == len(curves):
                break
        else:
            spent, at[s] = spent + extra, to
    return at, price, bound


def _core(curves: Sequence[Curve], limit: int, unit: Unit, price: float, gap: float) -> list[int] | None:
    """The best choice among the options that the gap does not rule out; None where HiGHS finds none."""
    if gap <= 0:
        return None
    site, option, cost, error = [], [], [], []
    room = limit
    priced = [curve.errors + price * curve.costs(unit) for curve in curves]
    excess = [values - values.min() for values in priced]
    reach = _reach(np.concatenate(excess), gap + 1e-12, max(CORE, 4 * len(curves)))
    for s, curve in enumerate(curves):
        best = int(priced[s].argmin())
        room -= int(curve.costs(unit)[best])
        for i in np.flatnonzero(excess[s] <= reach).tolist():
            site.append(s)
            option.append(i)
            # Counted from the site's best, so that the solver sees numbers of the size of the decision.
            cost.append(int(curve.costs(unit)[i] - curve.costs(unit)[best]))
            error.append(float(curve.errors[i] - curve.errors[best]) / gap)
    n = len(site)
    scale = float(max(map(abs, cost))) or 1.0
    for margin in (0.0, 2e-6):  # HiGHS keeps to a limit up to its tolerance; a little less room makes that exact
        with quiet():
            result = milp(
                c=np.asarray(error),
                constraints=[
                    LinearConstraint(coo_matrix((np.ones(n), (site, range(n))), shape=(len(curves), n)), 1, 1),
                    LinearConstraint(np.asarray(cost)[None] / scale, -np.inf, room / scale - margin),
                ],
                integrality=np.ones(n),
                bounds=Bounds(0, 1),
                options={"node_limit": NODES, "mip_rel_gap": GAP},
            )
        found = None if result.x is None else _checked(result.x, site, option, cost, room)
        if found is not None:
            return found
    return None


def _reach(excess: NDArray[np.float64], gap: float, most: int) -> float:
    """How far from its site's best an option of the core may be: the gap, or what `most` options keep to."""
    return gap if len(excess) <= most else min(gap, float(np.partition(excess, most)[most]))


def _checked(
    x: NDArray[np.float64], site: Sequence[int], option: Sequence[int], cost: Sequence[int], room: int
) -> list[int] | None:
    """The choice in x, unless the solver's tolerances let it exceed the limit."""
    chosen = {site[j]: int(j) for j in np.flatnonzero(x > 0.5).tolist()}
    if sum(cost[j] for j in chosen.values()) > room:
        return None
    return [option[chosen[s]] for s in sorted(chosen)]
