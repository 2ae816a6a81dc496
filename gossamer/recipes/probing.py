"""Try options out one at a time, for allocators that look at sensitivity; kept beside the curves after every layer."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gossamer import budgets
from gossamer.budgets._shares import within
from gossamer.checkpoints.store import identity_digest, read_json, write_json
from gossamer.errors import WorkError
from gossamer.evaluation.sensitivity import Probe
from gossamer.recipes.prices import weight_of
from gossamer.recipes.pricing import Priced, expression
from gossamer.sites import frozen_twin, passes_dtype
from gossamer.vocabulary import Curve, Option, Progress, Site, silent

RATIOS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Kept parameters of a weight at which it is tried out, those of ASVD (arXiv 2312.05821)."""
TOKENS = 256
"""Calibration tokens that judge a trial. The authors' code has 32 windows of text; at six runs a layer, these few are
what two cores get through in minutes. By them a rise of some thousandths of a nat is not told from none."""


def probed(priced: Priced, *, progress: Progress = silent) -> Priced:
    """The same with the sensitivity of every option worth trying out, where the allocator looks at it.

    What the working folder already holds is read. Raises `NumericsError` and `WorkError`.
    """
    if not budgets.allocator(priced.settings.allocator).sensitivity:
        return priced
    started = time.monotonic()
    asked = {curve.site: candidates(curve) for curve in priced.curves}
    path = priced.factors / "sensitivities.json"
    rises = _kept(path, asked) if path.exists() else {}
    lacking = [site for site in priced.sites if site.name not in rises]
    if lacking:
        probe = _probe(priced)
        for site in progress("probe", lacking, len(lacking)):
            rises[site.name] = _rises(probe, priced, site, asked[site.name])
            write_json(path, {"digest": identity_digest(rises), "rises": rises})
    curves = tuple(_told(curve, asked[curve.site], rises[curve.site]) for curve in priced.curves)
    return replace(priced, curves=curves, seconds={**priced.seconds, "probe": time.monotonic() - started})


def remembered(curves: Sequence[Curve], folder: Path) -> tuple[Curve, ...]:
    """The curves with the sensitivities that lie beside their prices; raises `WorkError` where these are not whole."""
    asked = {curve.site: candidates(curve) for curve in curves}
    path = folder / "sensitivities.json"
    rises = _kept(path, asked)
    if rises.keys() != asked.keys():
        raise WorkError(f"{path} is not finished; run 'gossamer plan' again.")
    return tuple(_told(curve, asked[curve.site], rises[curve.site]) for curve in curves)


def candidates(curve: Curve) -> list[Option]:
    """For every structure and ratio the largest option within it, each once."""
    names = dict.fromkeys(o.structure for o in curve.options if o.structure != "dense")
    forms = [replace(curve, options=tuple(o for o in curve.options if o.structure in ("dense", n))) for n in names]
    return list(dict.fromkeys(within(form, ratio, "params") for form in forms for ratio in RATIOS))


def _probe(priced: Priced) -> Probe:
    twin = frozen_twin(priced.opened.model, passes_dtype(priced.opened.model))
    ids = priced.calibration.ids
    return Probe(twin, priced.sites, ids[: max(1, TOKENS // ids.shape[1]), :TOKENS])


def _rises(probe: Probe, priced: Priced, site: Site, options: Sequence[Option]) -> list[float]:
    weight, ruler = weight_of(priced.opened, site), priced.weigh(site)
    return [probe.rise(site, expression(priced, site, option, weight, ruler)) for option in options]


def _told(curve: Curve, options: Sequence[Option], rises: Sequence[float]) -> Curve:
    known = dict(zip(options, rises, strict=True))
    return replace(curve, options=tuple(replace(o, sensitivity=known.get(o)) for o in curve.options))


def _kept(path: Path, asked: Mapping[str, Sequence[Option]]) -> dict[str, Any]:
    """The rises as an earlier run left them; raises `WorkError` where they are not about these options."""
    kept = read_json(path)
    rises = kept.get("rises") if isinstance(kept, dict) else None
    if not isinstance(rises, dict) or kept.get("digest") != identity_digest(rises):
        raise WorkError(f"{path} is damaged: its checksum does not match; delete it and run again.")
    if any(len(row) != len(asked.get(site, ())) for site, row in rises.items()):
        raise WorkError(f"{path} is damaged: it is not about this model's layers; delete it and run again.")
    return rises
