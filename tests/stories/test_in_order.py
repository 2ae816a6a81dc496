"""`--in-order`: every weight is fitted anew to what reaches it in the compressed model."""

import json
from types import SimpleNamespace

import pytest
import torch

from gossamer import Budget, Settings, compress, plan, settings
from gossamer.checkpoints.plugin import history_of
from gossamer.evaluation import fidelity
from gossamer.recipes.compress import build, make_plan
from gossamer.recipes.in_order import _wanted, refit_in_order
from gossamer.recipes.pricing import price_model

FORMS = {"mixed": ("pivoted_low_rank", "neurons"), "plain": ("low_rank",)}


@pytest.fixture(scope="module")
def priced(model_folder, text_file, tmp_path_factory):
    """A function: (kind, forms) → a tiny model with its curves, from the whole text."""
    work = tmp_path_factory.mktemp("in-order")

    def of(kind, forms="mixed"):
        asked = Settings(text=str(text_file), tokens=0, window=32, structures=FORMS[forms])
        return price_model(str(model_folder(kind)), asked, work=work)

    return of


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_it_comes_closer_to_the_dense_model_and_leaves_that_as_it_was(kind, forms, priced):
    found = priced(kind, forms)
    dense = found.opened.model
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    made = make_plan(found, Budget(unit="params", amount=0.5), "knapsack")
    one_shot, refitted = build(found, [made])[0], build(found, [made])[0]
    size = sum(p.numel() for p in refitted.parameters())
    refit_in_order(found, made, refitted)
    first, second = fidelity.compare(dense, [one_shot, refitted], found.read)
    assert second.divergence < first.divergence
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    assert sum(p.numel() for p in refitted.parameters()) == size
    assert {p.dtype for p in refitted.parameters()} == {torch.float32}


def test_where_nothing_changed_before_nothing_changes(priced):
    """The first layers of the first block are fed what they were fed, and stay what they were."""
    found = priced("llama")
    made = make_plan(found, Budget(unit="params", amount=0.7), "knapsack")
    one_shot, refitted = build(found, [made])[0], build(found, [made])[0]
    refit_in_order(found, made, refitted)
    for name in ("q_proj", "k_proj", "v_proj"):
        path = f"model.layers.0.self_attn.{name}"
        weights = [m.get_submodule(path).weight.detach() for m in (one_shot, refitted)]
        assert (weights[1] - weights[0]).norm() < 0.03 * weights[0].norm()  # other sums, in another number format


def test_the_better_one_is_kept_and_the_history_says_which(run, load, model_folder, text_file, tmp_path):
    words = ("--keep", 0.6, "--text", text_file, "--tokens", 0, "--window", 32, "--work", tmp_path / "work")
    told = run("compress", model_folder("llama"), *words, "--in-order", "--out", tmp_path / "out")
    assert told.code == 0, told.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["rivals"]) == {"knapsack", "uniform", "knapsack in order"}
    assert report["allocator"] == min(report["rivals"], key=report["rivals"].get)
    assert report["seconds"]["in order"] > 0
    assert "knapsack in order" in told.out
    assert history_of(load(tmp_path / "out", "llama"))[-1]["plan"] == report["allocator"]


def test_a_plan_can_be_carried_out_in_order(run, model_folder, text_file, tmp_path):
    asked = Settings(text=str(text_file), tokens=0, window=32)
    made = plan(str(model_folder("llama")), Budget(unit="params", amount=0.6), asked, work=tmp_path / "work")
    (tmp_path / "plan.json").write_text(json.dumps(made.to_json()))
    words = ("--in-order", "--work", tmp_path / "work", "--out", tmp_path / "out")
    assert run("apply", tmp_path / "plan.json", *words).code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["rivals"]) == {"knapsack", "knapsack in order"}


def test_a_metric_without_inputs_is_refused_before_anything_slow(refused, model_folder, tiny, tmp_path):
    words = ("--metric", "identity", "--structures", "low_rank", "--keep", 0.5, *tiny, "--work", tmp_path / "work")
    said = refused("compress", model_folder("llama"), *words, "--in-order", "--out", tmp_path / "out")
    assert "identity" in said and "activation" in said
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", ["modegpt", "compot", "cospadi", "svd_llm"])
def test_other_methods_go_in_order_too(name, model_folder, text_file, tmp_path):
    method = settings(name, text=str(text_file), tokens=1024, window=32)
    budget = Budget(unit="params", amount=0.7)
    done = compress(str(model_folder("llama")), budget, None, method, in_order=True, work=tmp_path / "work")
    assert any("in order" in rival for rival in done.report.rivals)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_weight_wanted_is_the_best_there_is(seed):
    """No other weight on the changed inputs comes closer, in the mean square, to what the dense one says."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, 400, 6, generator=generator, dtype=torch.float64)
    mix, weight = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    changed = x @ mix + 0.3 * noise
    moment, cross, same = changed.T @ changed / 400, x.T @ changed / 400, x.T @ x / 400
    best = torch.linalg.lstsq(changed, x @ weight.T).solution.T
    torch.testing.assert_close(_wanted(weight, weight, cross, moment, SimpleNamespace(input=moment)), best)
    damped = SimpleNamespace(input=same + 0.1 * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(_wanted(weight, weight, same, same, damped), weight)
