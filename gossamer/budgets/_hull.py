"""The options that no mixture of others beats, of one curve and of several together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossamer.vocabulary import Curve, Unit


def hull(curve: Curve, unit: Unit) -> NDArray[np.intp]:
    """Indices of the options on the lower convex hull of (cost, error), by ascending cost and falling error.

    Source: the monotone chain of Andrew 1979, "Another efficient algorithm for convex hulls in two dimensions".
    """
    costs, errors = curve.costs(unit), curve.errors
    order = np.lexsort((errors, costs))
    sinking = errors[order]
    falling = order[np.r_[True, sinking[1:] < np.minimum.accumulate(sinking)[:-1]]]
    kept: list[tuple[int, int, float]] = []
    # Number by number: cut all at once, a long concave stretch, as that of pivoted ranks, loses few corners a round.
    for i, cost, error in zip(falling.tolist(), costs[falling].tolist(), errors[falling].tolist(), strict=True):
        while len(kept) > 1 and _above(kept[-1], kept[-2], (i, cost, error)):
            kept.pop()
        kept.append((i, cost, error))
    return np.array([corner[0] for corner in kept])


def _above(corner: tuple[int, int, float], left: tuple[int, int, float], right: tuple[int, int, float]) -> bool:
    """Whether a corner lies on or above the line between its neighbours."""
    (_, x, y), (_, x_left, y_left), (_, x_right, y_right) = corner, left, right
    return (y - y_right) * (x - x_left) >= (y_left - y) * (x_right - x)


@dataclass(frozen=True)
class Steps:
    """All steps from one corner of a hull to the next, of several curves, those that save most loss a unit first.

    `starts` has each curve's cheapest option, `curve` says whose step it is, `to` the option that it leads to, `cost`
    how much dearer and `saved` how much better that is.
    """

    starts: tuple[int, ...]
    curve: NDArray[np.intp]
    to: NDArray[np.intp]
    cost: NDArray[np.int64]
    saved: NDArray[np.float64]


def steps(curves: Sequence[Curve], unit: Unit) -> Steps:
    """The steps along the hulls of the curves; where some are equally steep, those of earlier curves come first."""
    hulls = [hull(curve, unit) for curve in curves]
    each = [len(found) - 1 for found in hulls]
    cost = np.concatenate([np.diff(c.costs(unit)[found]) for c, found in zip(curves, hulls, strict=True)])
    saved = np.concatenate([-np.diff(c.errors[found]) for c, found in zip(curves, hulls, strict=True)])
    order = np.argsort(-saved / cost, kind="stable")
    return Steps(
        starts=tuple(int(found[0]) for found in hulls),
        curve=np.repeat(np.arange(len(curves)), each)[order],
        to=np.concatenate([found[1:] for found in hulls])[order],
        cost=cost[order],
        saved=saved[order],
    )


def total(curves: Sequence[Curve], picks: Sequence[int], unit: Unit) -> tuple[int, float]:
    """(cost, error) of one option of each curve, by index."""
    options = [curve.options[i] for curve, i in zip(curves, picks, strict=True)]
    return sum(o.cost.of(unit) for o in options), sum(o.error for o in options)


def frontier(curves: Sequence[Curve], unit: Unit) -> list[tuple[int, float]]:
    """(cost, least error) of all the curves together, by ascending cost: no plan lies below the line through these."""
    along = steps(curves, unit)
    cost, error = total(curves, along.starts, unit)
    costs = np.concatenate([[cost], cost + np.cumsum(along.cost)])
    errors = np.concatenate([[error], error - np.cumsum(along.saved)]).clip(min=0.0)
    return list(zip(costs.tolist(), errors.tolist(), strict=True))
