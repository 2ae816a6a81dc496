"""Prices on disk: a row for every layer, with the errors of all sizes of whatever it may become."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gossamer import sites, solvers
from gossamer.bottlenecks import Bottleneck, Group, Local
from gossamer.checkpoints.opening import Opened
from gossamer.checkpoints.store import identity_digest, read_json, read_tensors, write_tensors
from gossamer.errors import WorkError
from gossamer.metrics import Metric, TableMetric
from gossamer.recipes._at_once import at_once
from gossamer.recipes._doubts import Doubts, doubt
from gossamer.recipes.checking import Trial, reference
from gossamer.recipes.menus import Narrowings, forms_for, menu
from gossamer.statistics import SumsFolder
from gossamer.vocabulary import Curve, Option, Progress, Settings, Site

PRICES_FORMAT = 12
"""Of prices and of what solvers prepare, in the working folder; a change here prices anew what was measured."""

Row = dict[str, list[float]]
"""The errors of all sizes, by what the weight becomes."""
Rows = dict[str, Row | None]
"""By layer; None for one that no calibration token reached."""


def weigh(metric: type[Metric], site: Site, sums: SumsFolder, tokens: int) -> Metric:
    """The metric of one site, from sums on disk; that of a table adds up its uses."""
    made = metric(site.applied, sums.moments(site, metric.needs), tokens)
    if site.role != "embedding":
        return made
    if not site.tied:
        return TableMetric([made])
    head = replace(site, name=site.tied, reads=site.tied, role="head")
    return TableMetric([made, metric(head.applied, sums.moments(head, metric.needs), tokens)])


def weight_of(opened: Opened, site: Site) -> torch.Tensor:
    """The site's weight (m × n) in float64."""
    return sites.host(site.kind).weight(opened.model.get_submodule(site.name)).detach().double()


class Weights(Mapping[str, torch.Tensor]):
    """Weights of sites by name, each made when it is looked at: a group may have as many as the whole model."""

    def __init__(self, opened: Opened, members: Sequence[Site]) -> None:
        self._opened = opened
        self._sites = {site.name: site for site in members}

    def __getitem__(self, name: str) -> torch.Tensor:
        return weight_of(self._opened, self._sites[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)


def factors_path(folder: Path, site: Site, kept_as: str) -> Path:
    """The file of what a solver prepared for a site."""
    return folder / kept_as / f"{site.name}.safetensors"


def price_rows(
    opened: Opened,
    found: Sequence[Site],
    groups: Narrowings,
    ruler_of: Callable[[Site], Metric],
    settings: Settings,
    folder: Path,
    progress: Progress,
) -> tuple[Rows, dict[str, list[Trial]], Doubts]:
    """The prices of every layer, what to check them by, and doubts; what solvers prepare is kept in `folder`."""
    wide = {group.name: (kind, group) for kind, group in groups}

    def priced(site: Site) -> tuple[Row, list[Trial], tuple[bool, float]] | None:
        ruler = ruler_of(site)
        if ruler.blind():
            return None
        row, tried = _prices(opened, site, ruler, settings, folder)
        if site.name in wide:
            kind, group = wide[site.name]
            rulers = (kind.weigh(group, place, ruler_of) for place in group.places)
            narrow, trial = _narrow_prices(opened, kind, group, rulers, folder)
            row |= narrow
            tried += trial
        return row, tried, doubt(site, ruler)

    rows: Rows = {}
    trials: dict[str, list[Trial]] = {}
    doubts: Doubts = {}
    for site, made in zip(found, progress("price", at_once(priced, found), len(found)), strict=True):
        if made is None:
            rows[site.name] = None
            continue
        rows[site.name], tried, doubts[site.name] = made
        if tried:
            trials[site.name] = tried
    return rows, trials, doubts


def _prices(opened: Opened, site: Site, ruler: Metric, settings: Settings, folder: Path) -> tuple[Row, list[Trial]]:
    """The errors of all sizes of all structures, and where the metric is checked an error of each to check it by."""
    weight = weight_of(opened, site)
    rows, prepared, trials = {}, {}, []
    for form in forms_for(site, settings.structures):
        solver = solvers.choose(type(form), type(ruler))
        key = solver.kept_as(form)
        if key not in prepared:
            path = factors_path(folder, site, key)
            prepared[key] = _once(path, lambda s=solver, f=form: s.prepare(weight, f, ruler))  # type: ignore[misc]
        sizes = form.sizes(site.shape)
        rows[form.name] = solver.prices(prepared[key], sizes)
        at = reference([form.cost(site.shape, size, 2).bytes for size in sizes], 2 * weight.numel())
        if ruler.checked and not solver.fed_back and at is not None:
            matrix = solver.matrix(weight, form, sizes[at], ruler, prepared[key])
            trials.append(Trial(form.name, (weight - matrix).bfloat16(), rows[form.name][at]))
    return rows, trials


def _narrow_prices(
    opened: Opened, kind: Bottleneck, group: Group, rulers: Iterable[Metric], folder: Path
) -> tuple[Row, list[Trial]]:
    weights, sizes = Weights(opened, group.members), kind.sizes(group)
    errors: list[list[float]] = []
    trials: list[Trial] = []
    costs = [sum(cost.params for cost in kind.cost(group, size, 1).values()) for size in sizes]
    at = reference(costs, sum(math.prod(site.shape) for site in group.members))
    for place, ruler in zip(group.places, rulers, strict=True):
        path = factors_path(folder, place, kind.name)
        prepared = _once(path, lambda r=ruler: kind.prepare(group, weights, r))  # type: ignore[misc]
        errors.append(kind.prices(prepared, sizes))
        if ruler.checked and at is not None and isinstance(kind, Local):
            matrix = kind.matrix(group, weights, sizes[at], ruler, prepared)
            if matrix is not None:
                trials.append(Trial(kind.name, (weights[place.name] - matrix).bfloat16(), errors[0][at]))
    return {kind.name: [sum(each) for each in zip(*errors, strict=True)]}, trials


def _once(path: Path, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What an earlier run kept at `path`, or else what `make` gives, kept."""
    if path.exists():
        return read_tensors(path)[0]
    made = make()
    write_tensors(path, made, {})
    return made


def scaled(rows: Rows, by: Mapping[str, Mapping[str, float]]) -> Rows:
    """The rows with the errors of each structure in each layer times a factor, one where none is given."""

    def factor(site: str, name: str) -> float:
        return by.get(site, {}).get(name, 1.0)

    return {
        site: row and {name: [error * factor(site, name) for error in errors] for name, errors in row.items()}
        for site, row in rows.items()
    }


def sound_prices(
    found: Sequence[Site],
    groups: Narrowings,
    settings: Settings,
    path: Path,
) -> Rows:
    """The prices in a file; raises `WorkError` where they are not the ones these sites and structures need."""
    rows = read_prices(path)
    for site in found:
        row = rows.get(site.name, ())
        lengths = {form.name: len(form.sizes(site.shape)) for form in forms_for(site, settings.structures)}
        lengths |= {kind.name: len(kind.sizes(group)) for kind, group in groups if group.name == site.name}
        if row is not None and (not isinstance(row, dict) or {k: len(v) for k, v in row.items()} != lengths):
            raise WorkError(f"{path} is damaged: it lacks prices for {site.name}; delete it and run again.")
    return rows


def read_prices(path: Path) -> Rows:
    """Every layer's prices; raises `WorkError` where the file is not as it was written."""
    remedy = "delete it and run 'gossamer plan' again"
    kept = read_json(path, remedy)
    rows = kept.get("prices") if isinstance(kept, dict) else None
    if not isinstance(rows, dict) or kept.get("digest") != identity_digest(rows):
        raise WorkError(f"{path} is damaged: its checksum does not match; {remedy}.")
    return dict(rows)


def curves_of(
    found: Sequence[Site], prices: Mapping[str, Row | None], settings: Settings, itemsize: int
) -> tuple[Curve, ...]:
    """The sites' curves from the prices on disk and the bytes of a number."""
    return tuple(_curve(site, prices[site.name], settings, itemsize) for site in found)


def _curve(site: Site, prices: Row | None, settings: Settings, itemsize: int) -> Curve:
    errors = {("dense", min(site.shape)): 0.0}
    for form in forms_for(site, settings.structures) if prices is not None else ():
        assert prices is not None
        errors |= {(form.name, size): e for size, e in zip(form.sizes(site.shape), prices[form.name], strict=True)}
    options = tuple(
        Option(structure=form.name, size=size, cost=cost, error=errors[form.name, size])
        for form, size, cost in menu(site, settings.structures, itemsize)
        if (form.name, size) in errors
    )
    return Curve(site=site.name, options=options)
