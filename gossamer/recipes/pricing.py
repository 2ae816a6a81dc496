"""From a model's name to its curves: open → measure → weigh → price. Everything here outlives the budget."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gossamer import budgets, data, expressions, metrics, solvers
from gossamer.checkpoints.opening import Opened, open_model
from gossamer.checkpoints.store import Workspace, identity_digest, read_json, read_tensors, write_json
from gossamer.data import Windows
from gossamer.errors import PlanError, WorkError
from gossamer.evaluation.memory import give_back
from gossamer.evaluation.recalled import Recalled
from gossamer.metrics import Metric, TableMetric
from gossamer.recipes import _doubts
from gossamer.recipes._noting import Clock, located
from gossamer.recipes.checking import factors
from gossamer.recipes.measuring import (
    FORMAT,
    default_work,
    find_sites,
    measure,
    recalled,
    refuse_before_writing,
    scarce,
    shortened,
    windows_for,
)
from gossamer.recipes.menus import (
    Joint,
    Narrowings,
    absent,
    all_fit,
    fallen_back,
    find_groups,
    itemsize_of,
    narrowing,
    rewriting,
    some,
    structure,
    together,
    total_cost,
)
from gossamer.recipes.prices import PRICES_FORMAT, curves_of, factors_path, price_rows, scaled, sound_prices, weigh
from gossamer.statistics import SumsFolder
from gossamer.statistics._influence import block_influence
from gossamer.structures import ShorterStructure
from gossamer.vocabulary import Cost, Curve, Option, Progress, Settings, Site, silent


@dataclass(frozen=True)
class Offer:
    """All that a plan is made from: the model as named and its digest, what it costs as a whole, and its curves."""

    model: str
    digest: str
    settings: Settings
    total: Cost
    sites: tuple[Site, ...]
    curves: tuple[Curve, ...]
    joints: tuple[Joint, ...]

    @property
    def metric(self) -> type[Metric]:
        return metrics.metric(self.settings.metric)

    def without(self, forms: Collection[str]) -> "Offer":
        """What is left where no weight becomes any of these forms."""
        kept = (tuple(o for o in curve.options if o.structure not in forms) for curve in self.curves)
        return replace(
            self,
            settings=replace(self.settings, structures=tuple(s for s in self.settings.structures if s not in forms)),
            curves=tuple(replace(curve, options=options) for curve, options in zip(self.curves, kept, strict=True)),
            joints=tuple(joint for joint in self.joints if joint.kind.name not in forms),
        )


@dataclass(frozen=True)
class Priced:
    """A model with its curves, and all that is needed to solve any option on them."""

    opened: Opened
    settings: Settings
    total: Cost
    sites: tuple[Site, ...]
    curves: tuple[Curve, ...]
    joints: tuple[Joint, ...]
    sums: SumsFolder
    factors: Path
    held_out: Windows
    fresh: Windows
    recalled: Recalled
    tokens: int
    calibration: Windows
    seconds: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def metric(self) -> type[Metric]:
        return self.offer.metric

    @property
    def offer(self) -> Offer:
        return Offer(
            self.opened.name, self.opened.digest, self.settings, self.total, self.sites, self.curves, self.joints
        )

    def weigh(self, site: Site) -> Metric:
        """The metric of one site, from the statistics on disk."""
        return weigh(self.metric, site, self.sums, self.tokens)


def price_model(
    name: str,
    settings: Settings,
    *,
    work: Path | str | None = None,
    also: Sequence[str] = (),
    check: Any = None,
    progress: Progress = silent,
) -> Priced:
    """Open, measure, weigh and price; what the working folder already holds is read instead of done again.

    `also` names statistics to gather in the same pass, for later. `check(opened, sites, groups)` is called before
    anything slow, so that a caller can refuse what cannot come out well.
    Raises any `GossamerError`.
    """
    workspace = Workspace(Path(work or default_work()))
    clock = Clock()
    metric = metrics.metric(settings.metric)
    chooser = budgets.allocator(settings.allocator)
    forms = rewriting(settings.structures)
    if not settings.structures or any(form.name == "dense" for form in forms):
        raise PlanError(
            "No structure but dense was named for the weights to become; give --structures one more, as low_rank."
        )
    for form in forms:
        solvers.choose(type(form), metric)
    shorter = next((form.name for form in forms if isinstance(form, ShorterStructure)), None)
    if chooser.sensitivity and shorter is not None:
        raise PlanError(
            f"{settings.allocator} tries weights out with a share of their parameters, and {shorter} keeps all of "
            "them; choose another --allocator."
        )
    for kind in narrowing(settings.structures):
        if not issubclass(metric, kind.metric):
            raise PlanError(f"{kind.name} cannot be weighed by {settings.metric}; choose another metric.")
    if settings.embeddings:
        TableMetric.check(metric)
    text = None if settings.text is None else data.read(settings.text)
    opened = open_model(name, workspace.root, settings.dtype)
    measured = find_sites(opened, settings.embeddings)
    found = tuple(site for site in measured if site.decided)
    groups = find_groups(opened, found, settings)
    all_fit(found, settings.structures)
    if check:
        check(opened, found, groups)
    needs = tuple(dict.fromkeys((*metric.needs, *also)))
    refuse_before_writing(opened, measured, settings, needs, workspace)
    clock.lap("open")
    calibration, held_out, fresh = windows_for(opened, settings, text, workspace, progress)
    clock.lap("text")
    give_back()
    sums, identity = measure(opened, measured, calibration, settings, needs, workspace, progress)
    places = tuple(place for _, group in groups for place in group.places if place not in found)
    aside = sums
    if places:
        aside, _ = measure(opened, places, calibration, settings, metric.needs, workspace, progress, elsewhere=True)
    give_back()
    clock.lap("measure")
    influences = _influences(opened, found, calibration, settings, workspace, progress)
    curves, joints, prepared, notes = _priced(
        opened, found, groups, sums, aside, calibration, identity, settings, workspace, progress
    )
    give_back()
    curves = tuple(replace(curve, influence=influences.get(curve.site, 1.0)) for curve in curves)
    total = total_cost(opened.model)
    few = scarce(found, calibration) if "input_second_moment" in metric.needs else ()
    clock.lap("price")
    return Priced(
        opened=opened,
        settings=settings,
        total=total,
        sites=found,
        curves=curves,
        joints=joints,
        sums=sums,
        factors=prepared,
        held_out=held_out,
        fresh=fresh,
        recalled=recalled(opened, workspace),
        tokens=calibration.ids.numel(),
        calibration=calibration,
        seconds=clock.laps,
        notes=(
            *absent(groups, settings.structures),
            *fallen_back(found, settings.structures),
            *shortened(settings.window, calibration),
            *few,
            *notes,
        ),
    )


def _influences(
    opened: Opened,
    found: Sequence[Site],
    calibration: Windows,
    settings: Settings,
    workspace: Workspace,
    progress: Progress,
) -> Mapping[str, float]:
    """The influence of every site's block, where the allocator looks at it; measured once for a model and a text."""
    if not budgets.allocator(settings.allocator).influence:
        return {}
    identity = {
        "format": FORMAT,
        "model": opened.digest,
        "text": {**calibration.identity(), "source": None},
        "at": [site.name for site in found],
    }
    path = workspace.folder("influence", identity) / "influence.json"
    if not path.exists():
        write_json(path, block_influence(opened.model, found, calibration.ids, progress=progress))
    found_there = read_json(path)
    if not isinstance(found_there, dict) or found_there.keys() != {site.name for site in found}:
        raise WorkError(f"{path} is damaged: it is not about this model's layers; delete it and run again.")
    return found_there


def _priced(
    opened: Opened,
    found: Sequence[Site],
    groups: Narrowings,
    sums: SumsFolder,
    aside: SumsFolder,
    calibration: Windows,
    measured: Mapping[str, Any],
    settings: Settings,
    workspace: Workspace,
    progress: Progress,
) -> tuple[tuple[Curve, ...], tuple[Joint, ...], Path, tuple[str, ...]]:
    """(the curves, the groups that may narrow, the folder of what solvers keep, notes about single sites)."""
    metric = metrics.metric(settings.metric)
    wanted = {"statistics": identity_digest(measured), "metric": settings.metric}
    identity = {"format": PRICES_FORMAT, **wanted, "structures": sorted(settings.structures)}
    folder = workspace.folder("curves", identity)
    listing, doubtful = folder / "curves.json", folder / "doubts.json"

    def weighed(site: Site) -> Metric:
        return weigh(metric, site, sums if site in found else aside, calibration.ids.numel())

    if not (listing.exists() and doubtful.exists()):
        rows, trials, doubts = price_rows(opened, found, groups, weighed, settings, folder, progress)
        _doubts.keep(doubtful, doubts)
        if metric.checked:
            rows = scaled(rows, factors(opened, trials, calibration, seed=settings.seed, progress=progress))
        write_json(listing, {"digest": identity_digest(rows), "prices": rows})
    prices = sound_prices(found, groups, settings, listing)
    itemsize = itemsize_of(opened)
    curves = curves_of(found, prices, settings, itemsize)
    joints = tuple(
        Joint(kind, group, together(kind, group, row[kind.name], itemsize))
        for kind, group in groups
        if (row := prices[group.name]) is not None
    )
    silent_sites = [site.name for site in found if prices[site.name] is None]
    notes: tuple[str, ...] = ()
    if silent_sites:
        notes = (
            f"Stay dense because the text never reached them, or they never reached the output {some(silent_sites)}",
        )
    return curves, joints, folder, (*notes, *_doubts.told(_doubts.kept(doubtful)))


def remember(priced: Priced) -> None:
    """Note beside the prices what they belong to, so that a plan can be made from them without opening the model.

    To be called when all that a plan needs lies there: a note is a promise.
    """
    offer = priced.offer
    note = {
        "format": PRICES_FORMAT,
        "model": offer.model,
        "digest": offer.digest,
        "settings": asdict(offer.settings),
        "total": asdict(offer.total),
        "itemsize": itemsize_of(priced.opened),
        "sites": [asdict(site) for site in offer.sites],
        "joints": [
            {
                "kind": joint.kind.name,
                "writers": [site.name for site in joint.group.writers],
                "reader": joint.group.reader.name,
                "options": [{name: asdict(o) for name, o in options.items()} for options in joint.options],
            }
            for joint in offer.joints
        ],
        "influences": {curve.site: curve.influence for curve in offer.curves if curve.influence != 1.0},
    }
    path = priced.factors / f"asked-{identity_digest({k: note[k] for k in ('model', 'settings')})}.json"
    if not path.exists():
        write_json(path, note | {"checksum": identity_digest(note)})


def expression(
    priced: Priced, site: Site, option: Option, weight: torch.Tensor, ruler: Metric
) -> expressions.Expression:
    """The site's weight (float64), which `ruler` weighs, as the option writes it."""
    form = structure(option.structure)
    solver = solvers.choose(type(form), type(ruler))
    prepared = read_tensors(factors_path(priced.factors, site, solver.kept_as(form)))[0]
    return solver.solve(weight, form, option.size, ruler, prepared)


def identity_of(priced: Priced) -> dict[str, Any]:
    """What a result rests on, for its history."""
    settings = {**asdict(priced.settings), "text": located(priced.settings.text)}
    return {"settings": settings, "digest": priced.opened.digest, "calibration": priced.calibration.identity()}
