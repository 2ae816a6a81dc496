"""Prices that the text itself has checked."""

import math
from dataclasses import replace

import pytest
import torch

from gossamer.recipes import checking, pricing
from gossamer.recipes.menus import narrowing, rewriting
from gossamer.recipes.prices import weight_of
from gossamer.recipes.pricing import price_model
from gossamer.sites import frozen_twin
from gossamer.sites import replace as put
from gossamer.statistics._felt import felt


@pytest.fixture(scope="module")
def priced(model_folder, tiny_settings, work):
    return price_model(str(model_folder("llama")), tiny_settings, work=work)


def test_every_price_is_the_metric_s_by_one_factor_a_layer_and_structure(priced, monkeypatch, model_folder, tmp_path):
    """The factor is within its bounds and not always one."""
    monkeypatch.setattr(checking, "MOST", 1.0)
    plain = price_model(str(model_folder("llama")), priced.settings, work=tmp_path)
    factors = []
    for curve, bare in zip(priced.curves, plain.curves, strict=True):
        for form in rewriting(priced.settings.structures):
            pairs = zip(curve.options, bare.options, strict=True)
            ratios = {round(a.error / b.error, 6) for a, b in pairs if a.structure == form.name and b.error > 1e-12}
            assert len(ratios) == 1
            factors += ratios
    assert all(0.5 - 1e-6 <= f <= 2 + 1e-6 for f in factors)
    assert any(abs(f - 1) > 0.01 for f in factors)
    joints = zip(priced.joints, plain.joints, strict=True)
    assert any(
        not math.isclose(a.options[-1][a.group.name].error, b.options[-1][b.group.name].error) for a, b in joints
    )


def test_the_checked_size_costs_the_mean_of_what_was_quoted_and_what_the_text_says(priced):
    """At the size that was tried, the price of narrowing is midway to half the mean squared derivative along it."""
    (kind,) = narrowing(priced.settings.structures)
    joint = priced.joints[0]
    sizes = [options[joint.group.name].size for options in joint.options]
    costs = [sum(o.cost.params for o in options.values()) for options in joint.options]
    at = checking.reference(costs, sum(math.prod(s.shape) for s in joint.group.members))
    weights = {s.name: weight_of(priced.opened, s) for s in joint.group.members}
    ruler = priced.weigh(joint.group.reader)
    prepared = kind.prepare(joint.group, weights, ruler)
    error = weights[joint.group.name] - kind.matrix(joint.group, weights, sizes[at], ruler, prepared)
    ids = priced.calibration.ids
    count = min(len(ids), checking.TOKENS // ids.shape[1])
    picked = ids[torch.linspace(0, len(ids) - 1, count).long()]
    model = frozen_twin(priced.opened.model, torch.float32)
    true = felt(model, {joint.group.name: [error.float()]}, picked, seed=priced.settings.seed)[joint.group.name][0]
    quoted = kind.prices(prepared, sizes)[at]
    assert joint.options[at][joint.group.name].error == pytest.approx(
        quoted * min(max(true / quoted, 0.25), 4.0) ** 0.5, rel=0.03
    )


def test_the_matrix_of_a_narrowing_does_what_the_narrowed_layers_do(priced, answers):
    (kind,) = narrowing(priced.settings.structures)
    joint = priced.joints[1]
    weights = {s.name: weight_of(priced.opened, s) for s in joint.group.members}
    ruler = priced.weigh(joint.group.reader)
    prepared = kind.prepare(joint.group, weights, ruler)
    size = joint.group.width // 2
    narrow, wide = (frozen_twin(priced.opened.model, torch.float64) for _ in range(2))
    parts = kind.solve(joint.group, weights, size, ruler, prepared)
    for site in joint.group.members:
        put(narrow, site, parts[site.name].expression, parts[site.name].bias)
    wide.get_submodule(joint.group.name).weight.copy_(kind.matrix(joint.group, weights, size, ruler, prepared))
    torch.testing.assert_close(answers(narrow), answers(wide), rtol=1e-5, atol=1e-6)


def test_a_layer_that_the_checked_tokens_do_not_reach_keeps_its_price(priced):
    name = priced.sites[0].name
    silent = [checking.Trial("low_rank", torch.zeros(priced.sites[0].shape, dtype=torch.bfloat16), 0.5)]
    found = checking.factors(priced.opened, {name: silent}, priced.calibration, seed=0)
    assert found == {name: {"low_rank": 1.0}}


@pytest.mark.parametrize("form", ["sparse", "symmetric_32"])
def test_an_error_that_was_fed_back_is_not_checked(form, model_folder, tiny_settings, monkeypatch, work):
    """It was made small on the very text that would check it."""
    seen = []
    monkeypatch.setattr(pricing, "factors", lambda opened, trials, *_, **__: seen.append(trials) or {})
    price_model(str(model_folder("llama")), replace(tiny_settings, structures=(form,), seed=3), work=work)
    assert seen == [{}]


def test_a_metric_that_is_no_loss_is_not_checked(priced, model_folder, work):
    seen = set()

    def watch(label, items, total):
        seen.add(label)
        return iter(items)

    price_model(
        str(model_folder("llama")),
        replace(priced.settings, metric="activation", structures=("low_rank",), seed=5),
        work=work,
        progress=watch,
    )
    assert "price" in seen and "check" not in seen
