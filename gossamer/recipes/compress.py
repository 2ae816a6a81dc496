"""The main street: open → measure → weigh → price → allocate → solve → install → judge → save."""

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gossamer import budgets, data, solvers
from gossamer.budgets._base import affordable
from gossamer.checkpoints import plugin, saving
from gossamer.checkpoints.opening import Opened
from gossamer.checkpoints.store import read_tensors
from gossamer.data import Windows
from gossamer.errors import BudgetError, PlanError, TextError
from gossamer.evaluation import fidelity
from gossamer.evaluation.machine import machine
from gossamer.evaluation.memory import give_back, peak_bytes
from gossamer.evaluation.sample import samples
from gossamer.evaluation.speed import TOKENS, tokens_a_second
from gossamer.recipes._noting import Clock, located
from gossamer.recipes.building import build
from gossamer.recipes.correcting import corrected
from gossamer.recipes.measuring import windows_of
from gossamer.recipes.menus import Joint, Narrowings, rewriting, total_cost, unpriced
from gossamer.recipes.planning import (
    BASELINE,
    WORTH,
    bundled,
    joints_for,
    landscape,
    limit,
    make_plan,
    planned,
    priced_by,
)
from gossamer.recipes.prices import factors_path, weight_of
from gossamer.recipes.pricing import Offer, Priced, identity_of, price_model, remember
from gossamer.recipes.probing import probed
from gossamer.reports import report_page
from gossamer.vocabulary import (
    NO_COST,
    Budget,
    Curve,
    Option,
    Plan,
    PlanFile,
    Progress,
    Report,
    Settings,
    Site,
    Speed,
    silent,
)


@dataclass(frozen=True)
class Compressed:
    """What came out: the model, its tokenizer, the plan it was made by, and the report."""

    model: Any
    tokenizer: Any
    plan: Plan
    report: Report


def compress(
    model: str,
    budget: Budget,
    out: Path | str | None = None,
    settings: Settings | None = None,
    *,
    test: str | None = None,
    work: Path | str | None = None,
    progress: Progress = silent,
) -> Compressed:
    """Compress the model named `model` to `budget`, and save it in the new folder `out` where one is given.

    The plan competes with the uniform one on held-out text (or on the text `test`): the one that stays closer to the
    dense model, by the divergence that the metric predicts, is kept.
    Raises a `GossamerError` that says what to do; nothing is left half-written.
    """
    settings = settings or Settings()
    priced = _price(model, budget, settings, out, test, work, progress)
    plan = make_plan(priced.offer, budget, settings.allocator)
    rival = None
    if settings.allocator != BASELINE:
        with contextlib.suppress(BudgetError):  # narrowing can reach budgets that weights one by one cannot
            rival = make_plan(priced.offer, budget, BASELINE)
    return carry_out(priced, plan, out, rival=rival, test=test, progress=progress)


def plan(
    model: str,
    budget: Budget,
    settings: Settings | None = None,
    *,
    work: Path | str | None = None,
    progress: Progress = silent,
) -> Plan:
    """The plan alone, to be read, edited and given to `apply`."""
    settings = settings or Settings()
    return make_plan(_price(model, budget, settings, None, None, work, progress).offer, budget, settings.allocator)


def apply(
    path: Path | str,
    out: Path | str | None,
    *,
    test: str | None = None,
    work: Path | str | None = None,
    progress: Progress = silent,
) -> Compressed:
    """Carry out a plan file. Raises `PlanError` where it was made for another model or names what does not exist."""
    path = Path(path)
    try:
        file = PlanFile.parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise PlanError(f"There is no file {path}; give one that 'gossamer plan' wrote.") from error
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{path} cannot be read as a plan ({error}); give a file that 'gossamer plan' wrote."
        ) from error
    except (PlanError, TextError) as error:
        raise PlanError(f"{path}: {error}") from error
    if out is not None:
        saving.free_output(Path(out), 0)
    if test is not None:
        data.read(test)

    def same(opened: Opened, found: Sequence[Site], groups: Narrowings) -> None:
        if opened.digest != file.digest:
            raise PlanError(
                f"{path} was made for a model with digest {file.digest}, and {file.model} has {opened.digest}; "
                "make a new plan with 'gossamer plan'."
            )
        strangers = sorted(set(file.choices) ^ {site.name for site in found})
        if strangers:
            raise PlanError(f"{path} and the model do not name the same layers; {strangers[0]} is in one of them only.")
        _looked_up(*unpriced(opened, found, groups, file.settings), file)
        _trial_text(opened, test, file.settings)

    priced = price_model(file.model, file.settings, work=work, check=same, progress=progress)
    choices = _looked_up(priced.curves, priced.joints, file)
    made = planned(priced.offer, file.budget, file.allocator, choices, 0.0)
    return carry_out(priced, made, out, rival=None, test=test, applied=True, progress=progress)


def _looked_up(found: Sequence[Curve], joints: Sequence[Joint], file: PlanFile) -> dict[str, Option]:
    """The options that a plan file names; members of a bottleneck narrow to one width or not at all."""
    curves = {curve.site: curve for curve in found}
    choices: dict[str, Option] = {}
    for joint in joints:
        asked = {site.name: file.choices[site.name] for site in joint.group.members}
        if any(structure == joint.kind.name for structure, _ in asked.values()):
            if len(set(asked.values())) > 1:
                some = ", ".join(list(asked)[:3]) + (f" and {len(asked) - 3} more" if len(asked) > 3 else "")
                raise PlanError(
                    f"{some} narrow together: the plan must give all of them {joint.kind.name} of one size."
                )
            choices |= joint.find(asked[joint.group.name][1])
    return {site: choices.get(site) or curves[site].find(*choice) for site, choice in file.choices.items()}


def _price(
    model: str,
    budget: Budget,
    settings: Settings,
    out: Path | str | None,
    test: str | None,
    work: Path | str | None,
    progress: Progress,
) -> Priced:
    """`price_model`, after checking what can be checked before the slow part."""
    Budget.check(budget)
    if out is not None:
        saving.free_output(Path(out), 0)
    if test is not None:
        data.read(test)

    def feasible(opened: Opened, found: Sequence[Site], groups: Narrowings) -> None:
        size = reachable(opened, found, groups, settings, budget)
        _trial_text(opened, test, settings)
        if out is not None:
            saving.free_output(Path(out), size)

    priced = probed(price_model(model, settings, work=work, check=feasible, progress=progress), progress=progress)
    remember(priced)
    return priced


def reachable(opened: Opened, found: Sequence[Site], groups: Narrowings, settings: Settings, budget: Budget) -> int:
    """About the bytes of a model within the budget; raises `BudgetError` where nothing that weights may become is."""
    curves, joints = unpriced(opened, found, groups, settings)
    dense, total = sum((c.dense.cost for c in curves), NO_COST), total_cost(opened.model)
    fixed = total.bytes - dense.bytes if budget.unit == "bytes" else 0
    most = limit(total, dense, budget)
    bundles = bundled(curves, joints_for(joints, settings, settings.allocator), {}, budget.unit)
    affordable([b.curve for b in bundles], most, budget.unit, fixed)
    return total.bytes - dense.bytes + dense.bytes * most // dense.of(budget.unit)


def carry_out(
    priced: Priced,
    plan: Plan,
    out: Path | str | None,
    *,
    rival: Plan | None,
    test: str | None,
    applied: bool = False,
    progress: Progress = silent,
) -> Compressed:
    """Solve, install, judge and save; with a rival plan both are built, and the one that tests better is kept.

    The report notes whether the plan was `applied` from a file: no budget alone leads to it again.
    """
    clock = Clock()
    dense, windows = _trial(priced, test)
    plans = [plan] if rival is None else [plan, rival]
    built = build(priced, plans, progress=progress)
    clock.lap("solve")
    said: tuple[str, ...] = ()
    if not applied:
        (plans[0], built[0]), said = corrected(priced, (plan, built[0]), dense, windows, progress=progress)
        clock.lap("correct")
    give_back()
    race = fidelity.race(dense, built, windows, progress=progress)
    rivals = {p.allocator: d for p, d in zip(plans, race.divergences, strict=True)} if rival else {}
    small, plan, score = built[race.best], plans[race.best], race.score
    del built
    written = samples({"dense": priced.opened.model, "compressed": small}, priced.opened.tokenizer, windows.ids[0])
    clock.lap("judge")
    paid = _paid(priced, small, plan)
    clock.lap("prices paid")
    read = windows.ids[0, :TOKENS]
    dense_speed, small_speed = tokens_a_second([priced.opened.model, small], read)
    clock.lap("speed")
    history = [
        {
            "step": "compress",
            "gossamer": version("gossamer"),
            "model": priced.opened.name,
            "budget": asdict(plan.budget),
            **identity_of(priced),
        }
    ]
    plugin.mark(small, history)
    dense_total, small_total = priced.total, total_cost(small)
    found = Report(
        model=priced.opened.name,
        out="(not saved)" if out is None else str(out),
        asked={"budget": asdict(plan.budget), "test": located(test), "applied": applied, **identity_of(priced)},
        dense=sum((c.dense.cost for c in priced.curves), NO_COST),
        small=sum((o.cost for o in plan.choices.values()), NO_COST),
        dense_total=dense_total,
        small_total=small_total,
        score=score,
        allocator=plan.allocator,
        predicted=plan.predicted,
        paid=paid,
        unit=priced.metric.unit,
        rivals=rivals,
        rival_windows=race.windows if rivals else 0,
        speed=Speed(window=len(read), dense=dense_speed, compressed=small_speed),
        samples=written,
        seconds={**priced.seconds, **clock.laps},
        peak_memory=peak_bytes(),
        notes=(
            *priced.notes,
            *_unshortened(priced.settings, plan.budget),
            *_unused(priced.offer, plan, applied),
            *said,
        ),
        machine=machine(),
        written=_written(priced, plan),
    )
    if out is not None:
        land = landscape(priced.offer, [plan, *(p for p in plans if p is not plan)]).to_json()
        documents = {
            "plan.json": plan.to_json(),
            "report.json": found.to_json(),
            "landscape.json": json.dumps(land),  # in one line: it is long, and nobody reads it
            "report.html": report_page.page(found.to_json(), land),
        }
        saving.save(small, priced.opened.tokenizer, Path(out), documents)
    return Compressed(small, priced.opened.tokenizer, plan, found)


def _unshortened(settings: Settings, budget: Budget) -> tuple[str, ...]:
    """A note where numbers had to go because none may become shorter, under a budget that shorter ones are made for."""
    if budget.unit not in ("bits", "bytes") or any(form.shortens for form in rewriting(settings.structures)):
        return ()
    return (
        f"The budget counts {budget.unit}, and nothing named here shortens numbers: weights have fewer of them "
        "instead. To quantize, give --method structure_and_bits.",
    )


def _unused(offer: Offer, plan: Plan, applied: bool) -> tuple[str, ...]:
    """A note where weights could have become what they did not, as it would have saved too little."""
    by, used = priced_by(offer), {o.structure for o in plan.choices.values()}
    offered = {o.structure for curve in offer.curves for o in curve.options} | {j.kind.name for j in offer.joints}
    forms = [f for f, solver in by.items() if f in offered and not any(by[u] == solver for u in used & by.keys())]
    if applied or not forms or not budgets.allocator(plan.allocator).least:
        return ()
    none = " or ".join(forms)
    return (f"No weight becomes {none}: by the prices that would save less than {WORTH:.0%} of the loss.",)


def _written(priced: Priced, plan: Plan) -> dict[str, int]:
    """How many weights became what, the most frequent first."""
    forms = {form.name: form for form in rewriting(priced.settings.structures)}
    names = (forms[o.structure].told(o.size) if o.structure in forms else o.structure for o in plan.choices.values())
    return dict(Counter(names).most_common())


def _paid(priced: Priced, small: Any, plan: Plan) -> float:
    """The plan's loss once solved: each estimated price times the metric's error over what was estimated."""
    forms = {form.name: form for form in rewriting(priced.settings.structures)}
    total = 0.0
    for site in priced.sites:
        option = plan.choices[site.name]
        form = forms.get(option.structure)
        ruler = priced.weigh(site)
        solver = None if form is None else solvers.choose(type(form), type(ruler))
        share = 1.0
        if form is not None and solver is not None and not solver.exact:
            kept = read_tensors(factors_path(priced.factors, site, solver.kept_as(form)))[0]
            estimate = solver.prices(kept, [option.size])[0]
            written = small.get_submodule(site.name).expression.dense().detach().double()
            error = ruler.error(weight_of(priced.opened, site) - written)
            share = error / estimate if estimate > 0 else 1.0
        total += share * option.error
    return total


def _trial(priced: Priced, test: str | None) -> tuple[Any, Windows]:
    """The dense model, which need not work out twice what it says, and the windows that judge."""
    cut = _trial_text(priced.opened, test, priced.settings)
    return priced.recalled, priced.held_out if cut is None else cut


def _trial_text(opened: Opened, test: str | None, settings: Settings) -> Windows | None:
    return None if test is None else windows_of(opened, data.read(test), test, settings.window)
