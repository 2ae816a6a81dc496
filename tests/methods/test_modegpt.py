"""MoDeGPT: nothing but smaller dense layers comes out, in all kinds of models, and its pairs lose what they must."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import gossamer
from gossamer import sites
from gossamer.bottlenecks._attention import Attention, Head
from gossamer.bottlenecks.query_key import QueryKey
from gossamer.bottlenecks.value_output import ValueOutput
from gossamer.checkpoints.plugin import expressions_of
from gossamer.metrics import KroneckerMetric
from gossamer.statistics._gather import shared_inputs
from gossamer.vocabulary import Site

BIGGER = ("dense", "placed_rows", "picked_columns")
WIDTH, INPUTS, OUTPUTS = 4, 10, 7
"""Of a head of values, and of the layers around it."""


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(seed, n):
    rows = normal(seed, 5 * n, n) @ (torch.eye(n).double() + 0.3 * normal(seed + 1, n, n))
    return rows.T @ rows / len(rows)


class Exact(KroneckerMetric):
    """Weighs inputs by their very second moment, with no damping."""

    @property
    def input(self):
        return self.statistics["moment"]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2"])
def test_every_pair_is_narrowed_and_nothing_is_added(kind, model_folder, text_file, tmp_path):
    settings = gossamer.settings("modegpt", text=str(text_file), tokens=1024, window=32)
    budget = gossamer.Budget(unit="params", amount=0.7)
    done = gossamer.compress(str(model_folder(kind)), budget, tmp_path / "out", settings, work=tmp_path / "work")
    found = expressions_of(done.model)
    assert {expression.kind for expression in found.values()} <= set(BIGGER)
    narrowed = {option.structure for option in done.plan.choices.values()}
    scores = {"query_key"} if kind in ("llama", "qwen2") else set()
    assert narrowed == {"leverage_neurons", "value_output"} | scores | (set() if scores else narrowed & {"dense"})
    assert any("query_key" in note for note in done.report.notes) == (not scores)
    assert all(len(list(expression.parameters())) == 1 for expression in found.values())
    ids = torch.arange(20)[None]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, done.model(input_ids=ids).logits)
    prompt = torch.arange(4)[None]
    written = again.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False)
    assert written.shape == (1, 8)


def attention(values, queries):
    """So many heads of values, and so many of queries to each of them."""

    def places(head):
        return tuple(range(head * WIDTH, (head + 1) * WIDTH))

    heads = [Head(places(h), tuple(places(h * queries + q) for q in range(queries))) for h in range(values)]
    shapes = {"v": (values * WIDTH, INPUTS), "o": (OUTPUTS, values * queries * WIDTH)}
    writer, reader = (Site(name=n, kind="linear", shape=s, bias=False, reads=n) for n, s in shapes.items())
    return Attention(writers=(writer,), reader=reader, heads=tuple(heads))


@pytest.mark.parametrize(("values", "queries"), [(3, 1), (2, 2), (2, 3), (1, 4)])
def test_what_value_output_loses_is_the_energy_of_the_singular_values_that_go(values, queries):
    """Of the products W_O W_V C^½, those of all heads of queries that share a head of values one below the other."""
    group, seen = attention(values, queries), moment(2, INPUTS)
    weights = {"v": normal(0, *group.writers[0].shape), "o": normal(1, *group.reader.shape)}
    heads = [weights["v"][list(head.rows)] for head in group.heads]
    behind = torch.block_diag(*[v @ seen @ v.T for v in heads for _ in range(queries)])
    ruler, solver = Exact(group.reader.shape, {"moment": behind}), ValueOutput()
    root = torch.linalg.cholesky(seen)

    def products(read, written):
        found = []
        for head in group.heads:
            found.append(torch.cat([read[:, list(query)] @ written[list(head.rows)] for query in head.columns]))
        return found

    dense = products(weights["o"], weights["v"])
    energies = torch.cat([torch.linalg.svdvals(each @ root).square() for each in dense]).sort(descending=True).values
    prepared = solver.prepare(group, weights, ruler)
    for size in solver.sizes(group):
        parts = solver.solve(group, weights, size, ruler, prepared)
        small = products(*(parts[name].expression.dense().detach() for name in ("o", "v")))
        lost = sum(float(((a - b) @ root).square().sum()) for a, b in zip(dense, small, strict=True))
        assert lost == pytest.approx(float(energies[size:].sum()), rel=1e-9, abs=1e-12)
        assert solver.prices(prepared, [size])[0] == pytest.approx(0.5 * lost, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "pairs"), [("llama", 4), ("llama_untied", 4), ("qwen2", 4), ("qwen3", 2), ("gpt2", 2)]
)
def test_pairs_that_keep_everything_leave_the_logits_as_they_were(kind, pairs, model_folder):
    model = AutoModelForCausalLM.from_pretrained(model_folder(kind)).eval()
    found = sites.find(model)
    ids = torch.arange(5, 25)[None]
    _, reads = shared_inputs(model, [site.name for site in found], ids)
    found = [replace(site, reads=reads[site.name]) for site in found]
    groups = [(each, group) for each in (ValueOutput(), QueryKey()) for group in each.find(model, found)]
    assert len(groups) == pairs
    model.double()
    with torch.no_grad():
        before = model(input_ids=ids).logits
    for bottleneck, group in groups:
        weights = {s.name: sites.host(s.kind).weight(model.get_submodule(s.name)).detach() for s in group.members}
        ruler = Exact(group.reader.shape, {"moment": moment(3, group.reader.shape[1])})
        prepared = bottleneck.prepare(group, weights, ruler)
        size = bottleneck.sizes(group)[-1] + 1
        assert bottleneck.prices(prepared, [size - 1])[0] > 0
        assert len(prepared["order"]) == size
        bottleneck.install(model, group, weights, size, ruler, {group.name: prepared})
    with torch.no_grad():
        after = model(input_ids=ids).logits
    assert float((after - before).abs().max()) <= 1e-10 * float(before.abs().max())
