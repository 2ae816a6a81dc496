"""Sites that are decided together, each bundle of them as one curve that an allocator can choose from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from gossamer.budgets._hull import Steps, steps
from gossamer.vocabulary import NO_COST, Allocation, Cost, Curve, Option, Unit

Together = Mapping[str, Option]
"""An option for each of several sites."""


@dataclass(frozen=True)
class Bundle:
    """A curve, and what each of its options means for each site."""

    curve: Curve
    means: Callable[[Option], Together]

    @property
    def dense(self) -> Together:
        return self.means(self.curve.dense)


def alone(curve: Curve) -> Bundle:
    """A site that is decided by itself."""
    return Bundle(curve, lambda option: {curve.site: option})


def tied(curves: Sequence[Curve], groups: Mapping[str, str]) -> list[Bundle]:
    """One bundle for each group of sites (site → group name): options that every member takes at the same size.

    A member for which the size does not pay stays dense. Members of a group can then be multiplied as one.
    """
    members: dict[str, list[Curve]] = {}
    for curve in curves:
        members.setdefault(groups[curve.site], []).append(curve)
    return [_tie(name, group) if len(group) > 1 else alone(group[0]) for name, group in members.items()]


def joined(name: str, bundles: Sequence[Bundle], joint: Sequence[Together], unit: Unit) -> Bundle:
    """One bundle for sites that may be written one by one or `joint`ly.

    Of all ways to write them one by one those are offered that no mixture of others beats, which is all that the
    relaxation of a plan needs, and all sites dense.
    """
    curves = [bundle.curve for bundle in bundles]
    ways = _ways(steps(curves, unit))
    dense = {site: option for bundle in bundles for site, option in bundle.dense.items()}

    def means(option: Option) -> Together:
        if option.size > len(ways):
            return joint[option.size - len(ways) - 1]
        if option.size == 0:
            return dense
        picks = zip(bundles, ways[option.size - 1], strict=True)
        return {site: o for bundle, i in picks for site, o in bundle.means(bundle.curve.options[i]).items()}

    later = [_sum("together", i, each) for i, each in enumerate(joint, start=1 + len(ways))]
    options = (_sum("dense", 0, dense), *_summed(curves, ways), *later)
    return Bundle(Curve(site=name, options=options, influence=fmean(c.influence for c in curves)), means)


def spelled_out(allocation: Allocation, bundles: Sequence[Bundle]) -> Allocation:
    """The allocation of the bundles' curves, said for the single sites."""
    choices: dict[str, Option] = {}
    for bundle in bundles:
        chosen = allocation.choices[bundle.curve.site]
        choices |= bundle.means(chosen)
    return Allocation(choices=choices, bound=allocation.bound)


def _tie(name: str, group: Sequence[Curve]) -> Bundle:
    keys = sorted({(o.structure, o.size) for curve in group for o in curve.options if o.structure != "dense"})
    dense = {curve.site: curve.dense for curve in group}
    choices = [dense, *({curve.site: _pick(curve, *key) for curve in group} for key in keys)]
    options = [_sum("together" if i else "dense", i, each) for i, each in enumerate(choices)]
    influence = fmean(curve.influence for curve in group)
    return Bundle(Curve(site=name, options=tuple(options), influence=influence), lambda option: choices[option.size])


def _pick(curve: Curve, structure: str, size: int) -> Option:
    return next((o for o in curve.options if (o.structure, o.size) == (structure, size)), curve.dense)


def _sum(structure: str, size: int, parts: Together) -> Option:
    cost = sum((p.cost for p in parts.values()), NO_COST)
    error = sum(p.error for p in parts.values())
    rises = [p.sensitivity for p in parts.values() if p.structure != "dense"]
    rise = None if None in rises or not rises else sum(r for r in rises if r is not None)
    return Option(structure=structure, size=size, cost=cost, error=error, sensitivity=rise)


def _ways(along: Steps) -> NDArray[np.intp]:
    """From the cheapest of each to the best of each, one step at a time: ways × curves, the options by index."""
    at = np.tile(np.array(along.starts), (len(along.to) + 1, 1))
    for i, start in enumerate(along.starts):
        taken = np.concatenate([[0], np.cumsum(along.curve == i)])
        at[:, i] = np.concatenate([[start], along.to[along.curve == i]])[taken]
    return at


def _summed(curves: Sequence[Curve], ways: NDArray[np.intp]) -> Iterator[Option]:
    """`_sum` for many ways at once. Who looks at sensitivities decides single weights, so these have none."""
    columns = list(zip(curves, ways.T, strict=True))
    params, size, macs = (sum(c.costs(unit)[i] for c, i in columns).tolist() for unit in ("params", "bytes", "macs"))
    errors = sum(c.errors[i] for c, i in columns).tolist()
    for k, (p, b, m, error) in enumerate(zip(params, size, macs, errors, strict=True), start=1):
        yield Option(structure="together", size=k, cost=Cost(params=p, bytes=b, macs=m), error=error)
