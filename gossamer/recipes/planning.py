"""From curves to plans: what a budget buys. Arithmetic on what the working folder holds; the model is not needed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np

from gossamer import budgets, solvers
from gossamer.bottlenecks import Group
from gossamer.budgets._hull import frontier
from gossamer.checkpoints.store import check_identity, identity_digest, read_json
from gossamer.errors import WorkError
from gossamer.recipes import probing
from gossamer.recipes.menus import Joint, narrowing, rewriting
from gossamer.recipes.prices import PRICES_FORMAT, curves_of, read_prices
from gossamer.recipes.pricing import Offer
from gossamer.vocabulary import (
    NO_COST,
    Budget,
    Cost,
    Curve,
    Landscape,
    Option,
    Plan,
    Settings,
    Site,
    Unit,
    Weight,
)

T = TypeVar("T")

BASELINE = "uniform"

WORTH = 0.01
"""Of the predicted loss: what the forms of one solver must save together to be in a plan beside others. Prices of one
solver err alike and those of different ones do not. On SmolLM2-135M in 2 bits, low-rank corrections that saved 0.04 %
by their prices cost 0.013 nats a token (lab/LOG.md)."""


def limit(total: Cost, dense: Cost, budget: Budget) -> int:
    """How much of the budget's unit the sites may use; they use `dense` now, and the whole model `total`."""
    return budget.limit(dense, total.bytes - dense.bytes)


def priced_by(offer: Offer) -> dict[str, str]:
    """Whose prices those of each form are: a solver's, or a bottleneck's own."""
    names = offer.settings.structures
    found = {form.name: solvers.choose(type(form), offer.metric).name for form in rewriting(names)}
    return found | {kind.name: kind.name for kind in narrowing(names)}


class Bundles:
    """What an allocator decides together of an offer: for each unit worked out once, whatever the budgets in it."""

    def __init__(self, offer: Offer, allocator: str) -> None:
        self._offer, self._allocator = offer, allocator
        self._made: dict[Unit, list[budgets.Bundle]] = {}
        self._lines: dict[Unit, tuple[tuple[float, float], ...]] = {}
        self._hulls: dict[Unit, list[tuple[int, float]]] = {}
        self._fewer: dict[str, Bundles] = {}

    def of(self, unit: Unit) -> list[budgets.Bundle]:
        if unit not in self._made:
            offer = self._offer
            ties = {site.name: site.reads for site in offer.sites} if offer.settings.tie else {}
            joints = joints_for(offer.joints, offer.settings, self._allocator)
            self._made[unit] = bundled(offer.curves, joints, ties, unit)
        return self._made[unit]

    def frontier(self, unit: Unit) -> tuple[tuple[float, float], ...]:
        """(amount of a budget, least predicted loss) pairs; between two of them plans lie on or just above the line."""
        if unit not in self._lines:
            self._lines[unit] = _frontier(self._offer, self._hull(unit), unit)
        return self._lines[unit]

    def least(self, unit: Unit, most: int) -> float:
        """A predicted loss that no plan which uses at most `most` is below; infinite where none uses so little."""
        costs, losses = zip(*self._hull(unit), strict=True)
        return float(np.interp(most, costs, losses, left=math.inf))

    def worth(self, unit: Unit, most: int) -> "Bundles":
        """Without the forms that save less than `WORTH` of the loss, those that save least first."""
        by = {*priced_by(self._offer).values()}
        whole = self.least(unit, most)
        if len(by) == 1 or not 0 < whole < math.inf:
            return self
        losses = {name: self._without(name).least(unit, most) for name in sorted(by)}
        name = min(losses, key=lambda each: losses[each])
        return self if losses[name] > (1 + WORTH) * whole else self._without(name).worth(unit, most)

    def _hull(self, unit: Unit) -> list[tuple[int, float]]:
        if unit not in self._hulls:
            self._hulls[unit] = frontier([bundle.curve for bundle in self.of(unit)], unit)
        return self._hulls[unit]

    def _without(self, solver: str) -> "Bundles":
        """Of the offer without the forms that this solver prices."""
        if solver not in self._fewer:
            gone = {form for form, name in priced_by(self._offer).items() if name == solver}
            self._fewer[solver] = Bundles(self._offer.without(gone), self._allocator)
        return self._fewer[solver]


def make_plan(offer: Offer, budget: Budget, allocator: str, bundles: Bundles | None = None) -> Plan:
    """The allocator's plan for a budget, from curves alone; with `bundles` of both what earlier plans left is used.

    One that seeks the least predicted loss has only forms to choose from that save some of it.
    """
    most = limit(offer.total, sum((c.dense.cost for c in offer.curves), NO_COST), budget)
    chooser = budgets.allocator(allocator)()
    bundles = bundles or Bundles(offer, allocator)
    worth = bundles.worth(budget.unit, most) if chooser.least else bundles
    together = worth.of(budget.unit)
    allocation = budgets.spelled_out(chooser.allocate([b.curve for b in together], most, budget.unit), together)
    choices = {curve.site: allocation.choices[curve.site] for curve in offer.curves}
    bound = allocation.bound if worth is bundles else bundles.least(budget.unit, most)
    return planned(offer, budget, allocator, choices, bound)


def joints_for(joints: Sequence[Joint], settings: Settings, allocator: str) -> Sequence[Joint]:
    """Uniform shares and sensitivities are for weights one by one, unless narrowing is all that there is."""
    single = allocator == BASELINE or budgets.allocator(allocator).sensitivity
    return () if single and rewriting(settings.structures) else joints


def bundled(
    curves: Sequence[Curve], joints: Sequence[Joint], ties: Mapping[str, str], unit: Unit
) -> list[budgets.Bundle]:
    """What is decided together: sites tied to one rank, and on top of that sites around a bottleneck."""
    found = budgets.tied(curves, ties) if ties else [budgets.alone(curve) for curve in curves]
    for joint in joints:
        members = {site.name for site in joint.group.members}
        inside = [bundle for bundle in found if members & bundle.dense.keys()]
        if set().union(*(bundle.dense for bundle in inside)) == members:  # else a tie reaches beyond the bottleneck
            found = [bundle for bundle in found if not members & bundle.dense.keys()]
            found.append(budgets.joined(joint.group.name, inside, joint.options, unit))
    return found


def planned(offer: Offer, budget: Budget, allocator: str, choices: Mapping[str, Option], bound: float) -> Plan:
    """These choices as a plan."""
    return Plan(
        model=offer.model,
        digest=offer.digest,
        settings=offer.settings,
        budget=budget,
        allocator=allocator,
        unit=offer.metric.unit,
        predicted=sum(o.error for o in choices.values()),
        bound=bound,
        choices=choices,
    )


def asked(note: Path) -> tuple[str, Settings]:
    """The model, as named, and the settings of an offer that `pricing.remember` noted; raises as `remembered`."""
    try:
        found = _current(note)
        return found["model"], _settings(found)
    except (KeyError, TypeError) as error:
        raise _damaged(note, error) from error


def _current(note: Path) -> Any:
    check_identity(note.parent)
    remedy = "delete it and run 'gossamer plan' again"
    found = read_json(note, remedy)
    if found["format"] != PRICES_FORMAT or "checksum" not in found:
        raise WorkError(f"{note} was written by another version of gossamer; {remedy}.")
    if found.pop("checksum") != identity_digest(found):
        raise WorkError(f"{note} is damaged: its checksum does not match; {remedy}.")
    return found


def _settings(found: Any) -> Settings:
    return Settings(**{**found["settings"], "structures": tuple(found["settings"]["structures"])})


def _damaged(note: Path, error: Exception) -> WorkError:
    return WorkError(f"{note} is damaged ({error!r}); delete it and run 'gossamer plan' again.")


def remembered(note: Path) -> Offer:
    """The offer that `pricing.remember` noted, with its curves; raises `WorkError` where a file does not fit."""
    try:
        found = _current(note)
        settings = _settings(found)
        sites = tuple(Site(**{**row, "shape": tuple(row["shape"])}) for row in found["sites"])
        named, kinds = {site.name: site for site in sites}, {k.name: k for k in narrowing(settings.structures)}
        joints = tuple(
            Joint(
                kinds[row["kind"]],
                Group(writers=tuple(named[w] for w in row["writers"]), reader=named[row["reader"]]),
                tuple({name: _option(o) for name, o in options.items()} for options in row["options"]),
            )
            for row in found["joints"]
        )
        curves = curves_of(sites, read_prices(note.parent / "curves.json"), settings, found["itemsize"])
        curves = tuple(replace(curve, influence=found["influences"].get(curve.site, 1.0)) for curve in curves)
        model, digest, total = found["model"], found["digest"], Cost(**found["total"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(note, error) from error
    if budgets.allocator(settings.allocator).sensitivity:
        curves = probing.remembered(curves, note.parent)
    return Offer(model, digest, settings, total, sites, curves, joints)


def _option(row: Mapping[str, Any]) -> Option:
    return Option(**{**row, "cost": Cost(**row["cost"])})


POINTS = 100
"""Of a frontier; nobody sees more."""
SIZES = 24
"""Of one weight's trade-off."""


def landscape(offer: Offer, plans: Sequence[Plan], bundles: Bundles | None = None) -> Landscape:
    """What the pages show of an offer and of plans made from it; the first plan is the chosen one."""
    bundles = bundles or Bundles(offer, offer.settings.allocator)
    curves = {curve.site: curve for curve in offer.curves}
    dense = sum((curve.dense.cost for curve in offer.curves), NO_COST)
    shorter = any(form.shortens for form in rewriting(offer.settings.structures))
    kept_in: Unit = "bytes" if shorter else "params"
    return Landscape(
        model=offer.model,
        digest=offer.digest,
        unit=offer.metric.unit,
        dense=dense,
        total=offer.total,
        frontiers={unit: bundles.frontier(unit) for unit in get_args(Unit)},
        kept_in=kept_in,
        weights=tuple(_weight(site, offer, curves[site.name], kept_in) for site in offer.sites),
        budget=plans[0].budget,
        choices=plans[0].choices,
        predicted={plan.allocator: plan.predicted for plan in plans},
    )


def _frontier(offer: Offer, found: Sequence[tuple[int, float]], unit: Unit) -> tuple[tuple[float, float], ...]:
    dense = sum((curve.dense.cost for curve in offer.curves), NO_COST)
    fixed = offer.total.of(unit) - dense.of(unit)
    shown = _spread(found, POINTS)
    if unit == "bytes":
        return tuple((float(cost + fixed), _rounded(loss)) for cost, loss in shown)
    if unit == "bits":
        return tuple((_rounded(cost / dense.params), _rounded(loss)) for cost, loss in shown)
    return tuple((_rounded(cost / dense.of(unit)), _rounded(loss)) for cost, loss in shown)


def _weight(site: Site, offer: Offer, curve: Curve, kept_in: Unit) -> Weight:
    options: dict[str, list[Option]] = {}
    for option in curve.options:
        if option.structure != "dense":
            options.setdefault(option.structure, []).append(option)
    ways = {
        name: [
            (o.size, _share(o, curve, kept_in), _rounded(o.error))
            for o in _spread(sorted(each, key=lambda o: o.size), SIZES)
        ]
        for name, each in options.items()
    }
    for joint in offer.joints:
        if any(member.name == site.name for member in joint.group.members):
            ways[joint.kind.name] = [
                (
                    one[site.name].size,
                    _share(one[site.name], curve, kept_in),
                    _rounded(sum(o.error for o in one.values())),
                )
                for one in joint.options
            ]
    return Weight(
        name=site.name,
        shape=site.shape,
        cost=curve.dense.cost,
        ways={name: tuple(_spread(sorted(points), SIZES)) for name, points in ways.items()},
    )


def _share(option: Option, curve: Curve, kept_in: Unit) -> float:
    return _rounded(option.cost.of(kept_in) / curve.dense.cost.of(kept_in))


def _rounded(number: float) -> float:
    """As many digits as a picture can show."""
    return float(f"{number:.5g}")


def _spread(points: Sequence[T], count: int) -> list[T]:
    """At most `count` of the points, the first and the last among them."""
    if len(points) <= count:
        return list(points)
    return [points[i * (len(points) - 1) // (count - 1)] for i in range(count)]
