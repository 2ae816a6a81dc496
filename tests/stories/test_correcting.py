"""A plan is corrected by what its errors cost on fresh text, and only where the correction wins on held-out text."""

import json
import re
from dataclasses import replace

import pytest

from gossamer import Budget, Settings, methods
from gossamer.recipes import correcting
from gossamer.recipes.building import asked, build
from gossamer.recipes.planning import make_plan
from gossamer.recipes.pricing import price_model

BUDGET = Budget(unit="params", amount=0.6)


@pytest.fixture(scope="module")
def priced(model_folder, tiny_settings, work):
    return price_model(str(model_folder("llama")), replace(tiny_settings, structures=("sparse",)), work=work)


@pytest.fixture(scope="module")
def first(priced):
    plan = make_plan(priced.offer, BUDGET, "knapsack")
    return plan, build(priced, [plan])[0]


def _named(method: str, tiny: Settings) -> Settings:
    return methods.settings(method, text=tiny.text, tokens=tiny.tokens, window=tiny.window)


def _corrected(priced, first):
    return correcting.corrected(priced, first, priced.recalled, priced.held_out)


def _ruled(monkeypatch, ruling):
    monkeypatch.setattr(
        correcting, "factors", lambda _opened, trials, *_, **__: {name: ruling(name) for name in trials}
    )


def test_fresh_text_is_read_by_nobody_else(priced):
    parts = [{tuple(row) for row in part.ids.tolist()} for part in (priced.calibration, priced.fresh, priced.held_out)]
    assert all(parts)
    assert len(set().union(*parts)) == sum(
        len(part.ids) for part in (priced.calibration, priced.fresh, priced.held_out)
    )


def test_trials_are_the_errors_that_the_plan_made(priced, first, monkeypatch):
    plan, small = first
    seen = {}
    monkeypatch.setattr(correcting, "factors", lambda _opened, trials, *_, **__: seen.update(trials) or {})
    assert _corrected(priced, first) == (first, ())  # without factors the second plan is the first
    assert set(seen) == {site.name for site in priced.sites if plan.choices[site.name].structure != "dense"}
    for name, (trial,) in seen.items():
        module = priced.opened.model.get_submodule(name)
        error = module.weight.detach() - small.get_submodule(name).expression.dense()
        assert (trial.error.float() - error).norm() <= 0.01 * error.norm()
        assert trial.quoted == plan.choices[name].error


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_layer_that_costs_more_than_quoted_gets_more_and_the_better_plan_is_kept(priced, first, factor, monkeypatch):
    plan, small = first
    name = max(plan.choices, key=lambda n: plan.choices[n].error)
    structure = plan.choices[name].structure
    _ruled(monkeypatch, lambda each: {structure: factor if each == name else 1.0})
    built = []
    monkeypatch.setattr(
        correcting, "build", lambda *a, **k: built.append((a[1][0], build(*a, **k)[0])) or [built[0][1]]
    )
    (kept, model), (told,) = _corrected(priced, first)
    ((second, other),) = built
    before, after = (p.choices[name].cost.params for p in (plan, second))
    assert after > before if factor > 1 else after < before
    numbers = sum(site.shape[0] * site.shape[1] for site in priced.sites)
    assert sum(option.cost.params for option in second.choices.values()) <= 0.6 * numbers
    for site in priced.sites:
        if asked(plan, site) == asked(second, site) and plan.choices[site.name].structure != "dense":
            mine, theirs = (m.get_submodule(site.name).expression for m in (small, other))
            assert mine is theirs  # what does not change is not solved again
    assert (kept, model) == ((second, other) if "so they were taken" in told else first)
    assert f"change {sum(asked(plan, s) != asked(second, s) for s in priced.sites)} of {len(priced.sites)}" in told


def test_a_correction_that_loses_on_held_out_text_is_not_taken(priced, first, monkeypatch):
    plan, _ = first
    dear = sorted(plan.choices, key=lambda n: plan.choices[n].error)[-4:]
    _ruled(monkeypatch, lambda each: {plan.choices[each].structure: 1e-6 if each in dear else 1.0})
    found, (told,) = _corrected(priced, first)
    assert found == first
    assert "not taken" in told


def test_without_fresh_text_nothing_is_corrected(priced, first):
    none = replace(priced, fresh=replace(priced.fresh, ids=priced.fresh.ids[:0]))
    assert _corrected(none, first) == (first, ())


@pytest.mark.parametrize(("method", "unit"), [("gptq", "bits"), ("pivoted", "params"), ("svd", "params")])
def test_plans_without_prices_that_fit_the_text_are_left_alone(method, unit, model_folder, tiny_settings, work):
    priced = price_model(str(model_folder("llama")), _named(method, tiny_settings), work=work)
    plan = make_plan(priced.offer, Budget(unit=unit, amount=8 if unit == "bits" else 0.7), priced.settings.allocator)
    first = plan, build(priced, [plan])[0]
    assert _corrected(priced, first) == (first, ())


def test_the_report_says_what_correcting_made_of_the_plan(run, model_folder, tiny, work, tmp_path):
    out = tmp_path / "out"
    told = run(
        "compress", model_folder("llama"), "--structures", "sparse", "--keep", 0.6, *tiny, "--work", work, "--out", out
    )
    assert told.code == 0, told.err
    assert "note: Prices corrected on" in told.out
    report, plan = (json.loads((out / f"{name}.json").read_text()) for name in ("report", "plan"))
    (note,) = (note for note in report["notes"] if note.startswith("Prices corrected on"))
    second, first = re.search("promise (.*) instead of (.*); on", note).groups()
    kept = second if "so they were taken" in note else first
    assert f"{report['predicted']:.3g}" == f"{plan['predicted']:.3g}" == kept
    assert second != first
