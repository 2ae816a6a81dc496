"""A plan corrected by measurement: what its errors cost on text that nothing was fitted to, and the plan from that.

Solvers that feed errors back, or fit what stays, make errors small on the very text that was measured, so their prices
are not checked on it (see `checking`). Once a plan is solved its own errors, at its own depths, are the trials: their
second-order cost on fresh tokens scales each layer's prices, a second plan is made from these, and the one of the two
that stays closer to the dense model on held-out text is kept. The prediction itself fails where little is left of a
weight, and then the second plan may be the worse one (lab/LOG.md): hence the race.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gossamer import budgets, solvers
from gossamer.data import Windows
from gossamer.evaluation import fidelity
from gossamer.recipes.building import Built, asked, build
from gossamer.recipes.checking import Trial, factors
from gossamer.recipes.menus import rewriting
from gossamer.recipes.planning import make_plan
from gossamer.recipes.prices import weight_of
from gossamer.recipes.pricing import Priced
from gossamer.vocabulary import Curve, Plan, Progress, silent


def corrected(
    priced: Priced, first: Built, dense: Any, windows: Windows, *, progress: Progress = silent
) -> tuple[Built, tuple[str, ...]]:
    """`first`, or what corrected prices lead to where that is closer to `dense` on `windows`; and what there is to say.

    Nothing is corrected where all prices were checked before, where the allocator does not look at them, and where no
    text is left that neither calibrated nor judges.
    """
    plan, small = first
    second = _second(priced, plan, small, progress)
    if second is None:
        return first, ()
    (other,) = build(priced, [second], like=[first], progress=progress)
    race = fidelity.race(dense, [small, other], windows, progress=progress)
    changed = sum(asked(plan, site) != asked(second, site) for site in priced.sites)
    first_loss, second_loss = race.divergences
    told = (
        f"Prices corrected on {priced.fresh.ids.numel():,} fresh tokens change {changed} of {len(priced.sites)} weights"
        f" and promise {second.predicted:.3g} instead of {plan.predicted:.3g}; on held-out text {second_loss:.4g} "
        f"instead of {first_loss:.4g}, so they were {'taken' if race.best else 'not taken'}."
    )
    return ((second, other) if race.best else first), (told,)


def _second(priced: Priced, plan: Plan, small: Any, progress: Progress) -> Plan | None:
    """The plan for the same budget from corrected prices; None where there is nothing to correct or it is the same."""
    if not (priced.metric.checked and budgets.allocator(plan.allocator).least and len(priced.fresh.ids)):
        return None
    trials = _trials(priced, plan, small)
    if not trials:
        return None
    by = factors(
        priced.opened,
        trials,
        priced.fresh,
        seed=priced.settings.seed,
        tokens=priced.fresh.ids.numel(),
        progress=progress,
    )
    curves = tuple(_scaled(curve, by.get(curve.site, {}), _fed_back(priced)) for curve in priced.curves)
    made = make_plan(replace(priced.offer, curves=curves), plan.budget, plan.allocator)
    return made if any(asked(made, site) != asked(plan, site) for site in priced.sites) else None


def _fed_back(priced: Priced) -> set[str]:
    """The structures whose solvers fit their errors to the text."""
    forms = rewriting(priced.settings.structures)
    return {form.name for form in forms if solvers.choose(type(form), priced.metric).fed_back}


def _trials(priced: Priced, plan: Plan, small: Any) -> dict[str, list[Trial]]:
    """The errors of the plan's layers, in 16 bits, with what was promised of them."""
    fitted, trials = _fed_back(priced), {}
    for site in priced.sites:
        option = plan.choices[site.name]
        if site.role == "layer" and option.structure in fitted:
            written = small.get_submodule(site.name).expression.dense().detach().double()
            error = (weight_of(priced.opened, site) - written).bfloat16()
            trials[site.name] = [Trial(option.structure, error, option.error)]
    return trials


def _scaled(curve: Curve, by: Mapping[str, float], fitted: set[str]) -> Curve:
    """With the prices of what is fitted times the factor of the form that was tried, which stands for the others."""
    factor = next(iter(by.values()), 1.0)
    options = (replace(o, error=o.error * factor) if o.structure in fitted else o for o in curve.options)
    return replace(curve, options=tuple(options))
