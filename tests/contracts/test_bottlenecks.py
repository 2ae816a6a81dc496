"""Every bottleneck keeps the room's promise; those that are here also do what their own mathematics says.

Groups are found in models of every kind, priced exactly, and narrow without a trace outside.
"""

import copy
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from contract_cases import METRICS, layer, normal, tiny, weigh
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer import bottlenecks, discover, sites
from gossamer.bottlenecks import Bottleneck, Group, Local
from gossamer.errors import ModelError
from gossamer.expressions import Expression
from gossamer.linalg.elimination import elimination_losses, elimination_order, refit
from gossamer.metrics import KroneckerMetric
from gossamer.statistics._gather import shared_inputs
from gossamer.vocabulary import Site

KINDS = discover.catalogue(bottlenecks, Bottleneck)
PER_BLOCK = {"llama": 3, "llama_untied": 3, "qwen2": 3, "qwen3": 3, "gpt2": 2, "bert": 2, "bert_mlm": 2}
"""Members of an MLP's group, in models of two blocks."""
RULERS = [name for name, kind in METRICS.items() if issubclass(kind, KroneckerMetric)]
NEURONS = KINDS["neurons"]()


def found(name, kind=NEURONS):
    model = tiny.build_model(name).eval()
    spots = sites.find(model)
    _, reads = shared_inputs(model, [s.name for s in spots], torch.zeros(1, 8, dtype=torch.int64))
    spots = [replace(s, reads=reads.get(s.name, s.name)) for s in spots]
    return model, kind.find(model, spots)


# ── every bottleneck of the room ──────────────────────────────────────────────────────────────────────────────────────


@cache
def groups_of(kind, name):
    """(a tiny model, not to be changed, and its groups: none where it is refused)."""
    try:
        return found(name, KINDS[kind]())
    except ModelError:
        return tiny.build_model(name).eval(), []


def cases():
    """Every bottleneck in every model that has it."""
    return [(kind, name) for kind in KINDS for name in tiny.BUILDERS if groups_of(kind, name)[1]]


each_kind = pytest.mark.parametrize("kind", KINDS)
each_case = pytest.mark.parametrize(("kind", "name"), cases())


def rulers_for(kind):
    return [ruler for ruler, metric in METRICS.items() if issubclass(metric, KINDS[kind].metric)]


def weights_of(model, group):
    """The members' weights, in float64."""
    modules = {site: model.get_submodule(site.name) for site in group.members}
    return {site.name: sites.host(site.kind).weight(m).detach().double() for site, m in modules.items()}


def prepared_for(kind, model, group, ruler):
    """(the metric at each place, what was prepared there), of random inputs and gradients."""

    def alone(site):
        return weigh(ruler, normal(1, 300, site.shape[1]), normal(2, 300, site.shape[0]))

    rulers = {place.name: kind.weigh(group, place, alone) for place in group.places}
    weights = weights_of(model, group)
    return rulers, {name: kind.prepare(group, weights, metric) for name, metric in rulers.items()}


@each_kind
def test_it_is_found_somewhere_and_has_a_metric(kind):
    assert any(case == kind for case, _ in cases())
    assert rulers_for(kind)


@each_case
def test_its_groups_are_of_sites_of_which_none_is_in_two(kind, name):
    model, groups = groups_of(kind, name)
    known = {site.name for site in sites.find(model)}
    members = [site.name for group in groups for site in group.members]
    assert set(members) <= known and len(members) == len(set(members))
    assert not {module for group in groups for module in group.beside} & known
    for group in groups:
        assert group.name in members and group.places
        assert all(model.get_submodule(place.name) is not None for place in group.places)


@each_case
def test_its_sizes_ascend_and_so_does_what_they_cost(kind, name):
    form, groups = KINDS[kind](), groups_of(kind, name)[1]
    for group in groups:
        sizes, members = form.sizes(group), {site.name for site in group.members}
        assert sizes and sizes == sorted(set(sizes)) and sizes[0] > 0
        costs = [form.cost(group, size, 2) for size in sizes]
        assert all(members <= cost.keys() for cost in costs)
        for unit in ("params", "bytes", "macs"):
            totals = [sum(c.of(unit) for c in cost.values()) for cost in costs]
            assert totals == sorted(set(totals))
            dense = sum(site.shape[0] * site.shape[1] for site in group.members) * (2 if unit == "bytes" else 1)
            assert totals[0] < dense


@pytest.mark.parametrize(("kind", "ruler"), [(kind, ruler) for kind in KINDS for ruler in rulers_for(kind)])
def test_its_prices_fall_and_are_those_of_the_weight_that_does_the_same(kind, ruler):
    form = KINDS[kind]()
    model, groups = next(groups_of(kind, name) for name in tiny.BUILDERS if groups_of(kind, name)[1])
    group, weights = groups[0], weights_of(model, groups[0])
    sizes = form.sizes(group)
    rulers, prepared = prepared_for(form, model, group, ruler)
    for place, metric in rulers.items():
        prices = form.prices(prepared[place], sizes)
        assert len(prices) == len(sizes) and min(prices) >= 0 and prices[0] > 0
        assert all(a >= b for a, b in pairwise(prices))
        for size, price in list(zip(sizes, prices, strict=True))[::9] if isinstance(form, Local) else ():
            matrix = form.matrix(group, weights, size, metric, prepared[place])
            if matrix is not None:
                assert metric.error(weights[place] - matrix) == pytest.approx(price, rel=1e-6)


@each_case
def test_what_it_installs_is_what_it_said_it_costs_and_more_of_it_is_nearer_to_the_dense_model(kind, name):
    model, groups = groups_of(kind, name)
    form, group, ids = KINDS[kind](), groups[0], torch.arange(12)[None]
    rulers, prepared = prepared_for(form, model, group, rulers_for(kind)[0])
    ruler, members = rulers.get(group.name), [site.name for site in group.members]
    apart, sizes = [], form.sizes(group)
    for size in (sizes[0], sizes[-1]):
        small = copy.deepcopy(model)
        form.install(small, group, weights_of(model, group), size, ruler, prepared)
        carriers = [small.get_submodule(member) for member in members]
        inside = [part for carrier in carriers for part in (*carrier.named_parameters(), *carrier.named_buffers())]
        held = {id(t): t for part, t in inside if part != "bias"}.values()  # two may share a tensor
        cost = form.cost(group, size, 4)
        said = [cost[member] for member in members]
        parameters = sum(t.numel() for t in held if isinstance(t, torch.nn.Parameter))
        packed = sum(p.packed() for carrier in carriers for p in carrier.modules() if isinstance(p, Expression))
        assert sum(c.params for c in said) == parameters + packed
        assert sum(c.bytes for c in said) == sum(t.numel() * t.element_size() for t in held)
        assert sum(c.macs for c in said) == sum(carrier.macs() for carrier in carriers)
        if isinstance(form, Local):
            rest = {n: p for n, p in small.named_parameters() if not n.startswith(tuple(f"{m}." for m in members))}
            assert all(torch.equal(p, model.get_parameter(n)) for n, p in rest.items())
        with torch.no_grad():
            answers = [sites.output_of(sites.run(each, ids)) for each in (model, small)]
        apart.append(float((answers[0] - answers[1]).norm()))
    assert apart[0] > apart[1] > 0


# ── neurons ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    prepared = NEURONS.prepare(group, weights, ruler)
    size = max(s for s in NEURONS.sizes(group) if s <= len(alive))
    if size == len(alive):
        assert NEURONS.prices(prepared, [size])[0] == pytest.approx(0, abs=1e-9)
    small = copy.deepcopy(model)
    keep = next(s for s in NEURONS.sizes(group) if s >= len(alive))
    for site, part in ((s, NEURONS.solve(group, weights, keep, ruler, prepared)[s.name]) for s in group.members):
        sites.replace(small, site, part.expression, part.bias)
    with torch.no_grad():
        after = sites.output_of(sites.run(small, ids))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def group_of(width, outputs, inputs):
    writers = tuple(Site(name=n, kind="linear", shape=(width, inputs), bias=False, reads="up") for n in ("gate", "up"))
    return Group(
        writers=writers, reader=Site(name="down", kind="linear", shape=(outputs, width), bias=False, reads="down")
    )


@pytest.mark.parametrize("width", [2, 7, 48, 100, 1536])
def test_widths_ascend_and_every_one_costs_less(width):
    group, form = group_of(width, 8, 5), NEURONS
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
    prepared = NEURONS.prepare(group, {"down": weight}, metric)
    sizes = NEURONS.sizes(group)
    prices = NEURONS.prices(prepared, sizes)
    assert all(a >= b - 1e-9 * (1 + a) for a, b in pairwise(prices))
    whole = metric.error(weight)
    for size, price in zip(sizes, prices, strict=True):
        weights = {"gate": normal(7, 11, 4), "up": normal(8, 11, 4), "down": weight}
        parts = NEURONS.solve(group, weights, size, metric, prepared)
        rows = parts["up"].bias(torch.arange(11))
        assert torch.equal(parts["gate"].bias(torch.arange(11)), rows) and len(rows) == size
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


# ── values and what reads them ────────────────────────────────────────────────────────────────────────────────────────

VALUES = KINDS["value_output"]()
HEADS = {"llama": (2, 2), "llama_untied": (4, 1), "qwen2": (2, 2), "qwen3": (2, 2), "gpt2": (4, 1), "bert": (4, 1)}
"""Heads of values, and heads of queries for each."""


@pytest.mark.parametrize("name", HEADS)
def test_the_heads_of_every_block_are_found(name):
    _, groups = found(name, VALUES)
    heads, queries = HEADS[name]
    assert len(groups) == 2
    for group in groups:
        assert len(group.heads) == heads
        assert {len(head.columns) for head in group.heads} == {queries}
        columns = [c for head in group.heads for query in head.columns for c in query]
        assert sorted(columns) == list(range(group.reader.shape[1]))
        rows = [row for head in group.heads for row in head.rows]
        last = group.writers[0].shape[0]  # a fused layer writes queries and keys first
        assert sorted(rows) == list(range(last - len(rows), last))


class Exact(KroneckerMetric):
    """Weighs inputs by their very second moment, however few directions that has."""

    @property
    def input(self):
        return self.statistics["moment"]


def narrowed(model, group, size, ruler, weights):
    prepared = VALUES.prepare(group, weights, ruler)
    small = copy.deepcopy(model)
    for site, part in ((s, VALUES.solve(group, weights, size, ruler, prepared)[s.name]) for s in group.members):
        sites.replace(small, site, part.expression, part.bias)
    return small, prepared


@pytest.mark.parametrize("name", HEADS)
def test_values_of_lower_rank_narrow_without_a_trace(name):
    """Two of each head's directions are the others' doing: without them attention says what it said, bias and all."""
    model, groups = found(name, VALUES)
    group = groups[1]
    writer = model.get_submodule(group.writers[0].name)
    with torch.no_grad():
        values = sites.host(group.writers[0].kind).weight(writer)
        for number, head in enumerate(group.heads):
            rows = torch.tensor(head.rows)
            mix = normal(number, len(rows), len(rows) - 2).float()
            values[rows] = mix @ values[rows[:-2]]
            if writer.bias is not None:
                writer.bias[rows] = mix @ torch.ones(len(rows) - 2)
    ids = torch.arange(12)[None]
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(group.name).register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
    with torch.no_grad():
        before = sites.output_of(sites.run(model, ids))
        sites.run(model, torch.randint(0, 60, (40, 24), generator=torch.Generator().manual_seed(0)))
    handle.remove()
    weights = {s.name: sites.host(s.kind).weight(model.get_submodule(s.name)).detach().double() for s in group.members}
    inputs = kept[1].flatten(0, 1).double()
    ruler = Exact(group.reader.shape, {"moment": inputs.T @ inputs / len(inputs)})
    size = sum(len(head.rows) - 2 for head in group.heads)
    small, prepared = narrowed(model, group, size, ruler, weights)
    whole = ruler.error(weights[group.name])
    assert VALUES.prices(prepared, [size])[0] < 1e-7 * whole
    with torch.no_grad():
        after = sites.output_of(sites.run(small, ids))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ruler", RULERS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_price_of_values_is_what_the_metric_says_of_the_reader(name, ruler):
    model, groups = found(name, VALUES)
    group = groups[0]
    m, n = group.reader.shape
    weights = {s.name: sites.host(s.kind).weight(model.get_submodule(s.name)).detach().double() for s in group.members}
    metric = weigh(ruler, normal(1, 300, n), normal(2, 300, m))
    prepared = VALUES.prepare(group, weights, metric)
    sizes = VALUES.sizes(group)
    prices = VALUES.prices(prepared, sizes)
    assert all(a >= b - 1e-9 * (1 + a) for a, b in pairwise(prices))
    for size, price in list(zip(sizes, prices, strict=True))[::7]:
        parts = VALUES.solve(group, weights, size, metric, prepared)
        cost = VALUES.cost(group, size, 4)
        # Behind attention the new reader sees B⁻¹ z where a coordinate stays: the error is that of W − W' S B⁻¹.
        made = torch.zeros(m, n, dtype=torch.float64)
        read = parts[group.name].expression.dense().detach()
        for head, basis in zip(group.heads, prepared["basis"], strict=True):
            back = torch.linalg.inv(basis)
            for query in map(torch.tensor, head.columns):
                made[:, query] = read[:, query] @ back
        assert metric.error(weights[group.name] - made) == pytest.approx(price, rel=1e-5, abs=1e-9)
        for site in group.members:
            expression = parts[site.name].expression
            stored = sum(p.numel() for p in expression.parameters())
            indices = sum(b.numel() * 4 for b in expression.buffers())
            assert cost[site.name].params == stored == expression.macs() == cost[site.name].macs
            assert cost[site.name].bytes == stored * 4 + indices


def test_an_mlp_is_no_attention():
    for name in HEADS:
        _, groups = found(name, VALUES)
        assert not any("mlp" in site.name or "intermediate" in site.name for g in groups for site in g.members)


# ── queries and keys ──────────────────────────────────────────────────────────────────────────────────────────────────

SCORES = KINDS["query_key"]()
PARTS = {
    "llama": (2, 8),  # pairs that positions turn, in two heads of keys
    "llama_untied": (2, 16),
    "qwen2": (2, 8),
    "qwen3": (0, 0),  # normalizes its queries and keys
    "gpt2": (0, 0),  # writes them with one layer
    "bert": (1, 32),  # has no rotation: every coordinate is for itself
}


@pytest.mark.parametrize("name", PARTS)
def test_the_coordinates_that_go_together_are_found(name):
    _, groups = found(name, SCORES)
    together, parts = PARTS[name]
    assert len(groups) == (2 if parts else 0)
    for group in groups:
        assert len(group.query_rows) == len(group.key_rows) == parts
        assert {len(rows) for rows in group.key_rows} == {together}
        assert sorted(r for rows in group.key_rows for r in rows) == list(range(group.writers[0].shape[0]))
        assert sorted(r for rows in group.query_rows for r in rows) == list(range(group.reader.shape[0]))


@pytest.mark.parametrize("name", [name for name, (_, parts) in PARTS.items() if parts])
@pytest.mark.parametrize("side", ["query_rows", "key_rows"])
def test_what_one_side_never_says_the_other_need_not(name, side):
    """Coordinates that are zero among the queries, or among the keys, go without a trace."""
    model, groups = found(name, SCORES)
    group = groups[1]
    site = group.reader if side == "query_rows" else group.writers[0]
    dead = list(range(0, len(group.key_rows), 2))
    module = model.get_submodule(site.name)
    with torch.no_grad():
        for part in dead:
            sites.host(site.kind).weight(module)[list(getattr(group, side)[part])] = 0
            if module.bias is not None:
                module.bias[list(getattr(group, side)[part])] = 0
        ids = torch.arange(12)[None]
        before = sites.output_of(sites.run(model, ids))
    weights = {s.name: sites.host(s.kind).weight(model.get_submodule(s.name)).detach().double() for s in group.members}
    ruler = weigh("activation", normal(1, 400, group.reader.shape[1]), normal(2, 400, group.reader.shape[0]))
    prepared = SCORES.prepare(group, weights, ruler)
    size = len(group.key_rows) - len(dead)
    assert float(prepared["errors"][size]) == pytest.approx(0, abs=1e-12)
    small = copy.deepcopy(model)
    for part_of, part in SCORES.solve(group, weights, size, ruler, prepared).items():
        member = next(s for s in group.members if s.name == part_of)
        sites.replace(small, member, part.expression, part.bias)
    with torch.no_grad():
        after = sites.output_of(sites.run(small, ids))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ruler", RULERS)
def test_the_price_of_scores_is_what_the_metric_says_of_the_queries(ruler):
    model, groups = found("llama", SCORES)
    group = groups[0]
    weights = {s.name: sites.host(s.kind).weight(model.get_submodule(s.name)).detach().double() for s in group.members}
    m, n = group.reader.shape
    metric = weigh(ruler, normal(1, 300, n), normal(2, 300, m))
    prepared = SCORES.prepare(group, weights, metric)
    for size, price in zip(SCORES.sizes(group), SCORES.prices(prepared, SCORES.sizes(group)), strict=True):
        parts = SCORES.solve(group, weights, size, metric, prepared)
        apart = weights[group.name] - parts[group.name].expression.dense().detach()
        if metric.output is not None:
            assert metric.error(apart) == pytest.approx(price, rel=1e-6, abs=1e-12)
        else:
            # Mean squared error of the scores, for queries and keys that are independent of each other.
            keys, moment = weights[group.writers[0].name], metric.input
            moment = torch.eye(n, dtype=torch.float64) if moment is None else moment
            lost = 0.0
            for part in prepared["order"][size:].tolist():
                q, k = apart[list(group.query_rows[part])], keys[list(group.key_rows[part])]
                lost += 0.5 * float((q @ moment * q).sum()) * float((k @ moment * k).sum()) / len(k)
            assert lost == pytest.approx(price, rel=1e-6)
        cost = SCORES.cost(group, size, 4)
        for site in group.members:
            stored = sum(p.numel() for p in parts[site.name].expression.parameters())
            assert cost[site.name].params == stored


# ── neurons as published ──────────────────────────────────────────────────────────────────────────────────────────────


def test_leverage_is_what_the_others_cannot_stand_in_for():
    """A copy and a sum of others have none; the score is that of the definition."""
    spread = normal(5, 500, 9)
    spread[:, 4] = spread[:, 1]
    moment = spread.T @ spread / 500
    order = KINDS["leverage_neurons"]().order(normal(6, 3, 9), moment)
    ridge = 1e-2 * moment.diagonal().mean() * torch.eye(9, dtype=torch.float64)
    leverage = (moment @ torch.linalg.inv(moment + ridge)).diagonal()
    assert order.tolist()[-2:] in ([1, 4], [4, 1])
    assert torch.equal(order[:-2], leverage.argsort(descending=True)[:-2])


@pytest.mark.parametrize("kept", [19, 14], ids=["0.8", "0.6"])
def test_neurons_chosen_by_leverage_lose_less_than_any_chosen_at_random_and_a_refit_saves_half(kept):
    """On neurons whose sizes are as uneven as those of trained models, with correlations among all of them."""
    spread = (normal(7, 800, 24) @ (torch.eye(24).double() + 0.3 * normal(8, 24, 24))) * normal(9, 24).exp()
    moment, weight = spread.T @ spread / 800, normal(10, 12, 24)

    def lost(order, refitted=True):
        part = order[:kept]
        if refitted:
            return float(elimination_losses(weight, moment, order)[kept])
        rest = weight.clone()
        rest[:, part] = 0
        return 0.5 * float((rest @ moment * rest).sum())

    chosen = KINDS["leverage_neurons"]().order(weight, moment)
    random = [torch.randperm(24, generator=torch.Generator().manual_seed(seed)) for seed in range(50)]
    assert lost(chosen) < min(lost(order) for order in random)
    assert lost(chosen) <= 0.5 * lost(chosen, refitted=False)


def test_the_reader_has_a_say_in_ours_and_none_in_theirs():
    moment = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    weight = torch.tensor([[9.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    assert KINDS["leverage_neurons"]().order(weight, moment).tolist() == [3, 2, 1, 0]
    assert NEURONS.order(weight, moment).tolist() == [0, 2, 1, 3]
