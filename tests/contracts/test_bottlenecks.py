"""Every bottleneck: groups are found in models of every kind, priced exactly, and narrow without a trace outside."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from contract_cases import METRICS, layer, normal, tiny, weigh
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer import bottlenecks, discover, sites
from gossamer.bottlenecks import Bottleneck, Group
from gossamer.linalg.elimination import elimination_losses, elimination_order, refit
from gossamer.metrics import KroneckerMetric
from gossamer.statistics._gather import shared_inputs
from gossamer.vocabulary import Site

KINDS = discover.catalogue(bottlenecks, Bottleneck)
PER_BLOCK = {"llama": 3, "llama_untied": 3, "qwen2": 3, "qwen3": 3, "gpt2": 2, "bert": 2, "bert_mlm": 2}
"""Members of an MLP's group, in models of two blocks."""
RULERS = [name for name, kind in METRICS.items() if issubclass(kind, KroneckerMetric)]
NEURONS = KINDS["neurons"]()


def found(name):
    model = tiny.build_model(name).eval()
    spots = sites.find(model)
    _, reads = shared_inputs(model, [s.name for s in spots], torch.zeros(1, 8, dtype=torch.int64))
    spots = [replace(s, reads=reads.get(s.name, s.name)) for s in spots]
    return model, NEURONS.find(model, spots)


@pytest.mark.parametrize("name", PER_BLOCK)
def test_the_mlp_of_every_block_is_found_and_nothing_else(name):
    _, groups = found(name)
    assert [len(group.members) for group in groups] == [PER_BLOCK[name]] * 2
    assert len({site.name for group in groups for site in group.members}) == 2 * PER_BLOCK[name]
    for group in groups:
        assert all(site.shape[0] == group.width for site in group.writers)
        assert group.reader.shape[1] == group.width


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_model_narrowed_by_dead_neurons_computes_what_it_did(name):
    model, groups = found(name)
    group = groups[0]
    dead = torch.arange(0, group.width, 3)
    with torch.no_grad():
        host = sites.host(group.reader.kind)
        host.weight(model.get_submodule(group.name))[:, dead] = 0
        ids = torch.arange(12)[None]
        before = sites.output_of(sites.run(model, ids))
    alive = torch.tensor([i for i in range(group.width) if i % 3])
    inputs = normal(1, 400, group.width)
    weights = {s.name: sites.host(s.kind).weight(model.get_submodule(s.name)).detach().double() for s in group.members}
    ruler = weigh("activation", inputs, normal(2, 400, group.reader.shape[0]))
    prepared = NEURONS.prepare(group, weights[group.name], ruler)
    size = max(s for s in NEURONS.sizes(group) if s <= len(alive))
    if size == len(alive):
        assert NEURONS.prices(prepared, [size])[0] == pytest.approx(0, abs=1e-9)
    small = copy.deepcopy(model)
    keep = next(s for s in NEURONS.sizes(group) if s >= len(alive))
    for site, part in ((s, NEURONS.solve(group, weights, keep, ruler, prepared)[s.name]) for s in group.members):
        sites.replace(small, site, part.expression, part.rows)
    with torch.no_grad():
        after = sites.output_of(sites.run(small, ids))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def group_of(width, outputs, inputs):
    writers = tuple(Site(name=n, kind="linear", shape=(width, inputs), bias=False, reads="up") for n in ("gate", "up"))
    return Group(
        writers=writers, reader=Site(name="down", kind="linear", shape=(outputs, width), bias=False, reads="down")
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [2, 7, 48, 100, 1536])
def test_widths_ascend_and_every_one_costs_less(kind, width):
    group, form = group_of(width, 8, 5), KINDS[kind]()
    sizes = form.sizes(group)
    assert sizes == sorted(set(sizes)) and sizes and sizes[0] > 0 and sizes[-1] < width
    for unit in ("params", "bytes", "macs"):
        costs = [sum(c.of(unit) for c in form.cost(group, size, 2).values()) for size in sizes]
        assert costs == sorted(set(costs))
        assert costs[-1] < width * (8 + 2 * 5) * (2 if unit == "bytes" else 1)


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize("case", ["plain", "few_tokens", "many_scales", "dead_inputs", "silent_outputs", "zero_rows"])
def test_the_price_is_what_the_metric_says_of_the_solution(ruler, case):
    weight, inputs, gradients = layer((6, 11), case)
    group, metric = group_of(11, 6, 4), weigh(ruler, inputs, gradients)
    prepared = NEURONS.prepare(group, weight, metric)
    sizes = NEURONS.sizes(group)
    prices = NEURONS.prices(prepared, sizes)
    assert all(a >= b - 1e-9 * (1 + a) for a, b in pairwise(prices))
    whole = metric.error(weight)
    for size, price in zip(sizes, prices, strict=True):
        weights = {"gate": normal(7, 11, 4), "up": normal(8, 11, 4), "down": weight}
        parts = NEURONS.solve(group, weights, size, metric, prepared)
        rows = parts["up"].rows
        assert torch.equal(parts["gate"].rows, rows) and len(rows) == size
        assert torch.equal(parts["up"].expression.dense(), weights["up"][rows])
        padded = torch.zeros_like(weight)
        padded[:, rows] = parts["down"].expression.dense()
        assert metric.error((weight - padded).detach()) == pytest.approx(price, rel=1e-5, abs=1e-7 * (whole + 1e-12))


@given(m=st.integers(1, 6), n=st.integers(1, 12), step=st.integers(1, 3), seed=st.integers(0, 9999))
@settings(deadline=None, max_examples=60)
def test_elimination_loses_what_the_best_refit_loses(m, n, step, seed):
    weight, spread = normal(seed, m, n), normal(seed + 1, 3 * n, n)
    moment = spread.T @ spread / (3 * n) + 1e-3 * torch.eye(n, dtype=torch.float64)
    order = elimination_order(weight, moment, step)
    losses = elimination_losses(weight, moment, order)
    assert sorted(order.tolist()) == list(range(n)) and len(losses) == n
    assert float(losses[0]) == pytest.approx(0.5 * float((weight @ moment * weight).sum()))
    for size, loss in enumerate(losses.tolist()[1:], start=1):
        kept = order[:size].sort().values
        apart = weight.clone()
        apart[:, kept] -= refit(weight, moment, kept)
        assert 0.5 * float((apart @ moment * apart).sum()) == pytest.approx(loss, rel=1e-6, abs=1e-9)
        # The refit is the best: what is left is uncorrelated with what is kept.
        assert float((apart @ moment[:, kept]).abs().max()) <= 1e-7 * float(weight.norm() * moment.norm())


@pytest.mark.parametrize("step", [1, 3])
def test_every_step_drops_what_costs_least_alone_after_the_refits_before_it(step):
    weight, spread = normal(3, 4, 40), normal(4, 90, 40)
    moment = spread.T @ spread / 90
    order = elimination_order(weight, moment, step)
    for size in range(len(order) - step, 0, -step):
        present = order[: size + step].sort().values
        alone = {}
        for i in present.tolist():
            kept = present[present != i]
            apart = weight.clone()
            apart[:, kept] -= refit(weight, moment, kept)
            alone[i] = float((apart @ moment * apart).sum())
        assert set(order[size : size + step].tolist()) == set(sorted(alone, key=alone.__getitem__)[:step])


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_copy_of_a_neuron_goes_for_nothing(scale):
    spread = normal(5, 60, 8)
    spread[:, 5] = spread[:, 2]
    moment = (spread.T @ spread / 60 + 1e-9 * torch.eye(8, dtype=torch.float64)) * scale
    weight = normal(6, 3, 8) * scale
    order = elimination_order(weight, moment, 1)
    losses = elimination_losses(weight, moment, order)
    assert int(order[-1]) in (2, 5)
    assert float(losses[7]) < 1e-6 * float(losses[6])
