"""A plan is read, edited and carried out; one that does not fit is refused with a sentence that says why."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gossamer.checkpoints.plugin import expressions_of
from gossamer.recipes.building import build
from gossamer.recipes.compress import apply
from gossamer.recipes.planning import make_plan
from gossamer.recipes.pricing import price_model
from gossamer.vocabulary import Budget

LAYER = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def planned(run, model_folder, tiny, work, tmp_path_factory):
    """A plan for the tiny llama."""
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    words = ("--keep", 0.6, "--method", "pivoted", "--out", path, "--work", work, *tiny)
    told = run("plan", model_folder("llama"), *words)
    assert told.code == 0, told.err
    assert str(path) in told.out
    return path


@pytest.fixture(scope="module")
def narrow(run, model_folder, tiny, work, tmp_path_factory):
    """A plan that narrows both MLPs of the tiny llama, as JSON."""
    path = tmp_path_factory.mktemp("narrow") / "plan.json"
    words = ("--keep", 0.8, "--structures", "neurons", "--out", path, "--work", work, *tiny)
    assert run("plan", model_folder("llama"), *words).code == 0
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def edited(planned, tmp_path):
    """A function: the plan with a change made by hand → its path."""

    def write(change) -> str:
        plan = json.loads(planned.read_text(encoding="utf-8"))
        change(plan)
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(plan), encoding="utf-8")
        return str(path)

    return write


def rank_of(model, layer):
    expression = expressions_of(model)[layer]
    return expression.factors[0].shape[1]


def test_an_unedited_plan_gives_what_compress_gives(run, compressed, model_folder, tiny, work, tmp_path):
    """The plan of the allocator that won in `compress`."""
    winner = compressed("llama").document("plan.json")["allocator"]
    words = ("--keep", 0.6, "--allocator", winner, "--out", tmp_path / "plan.json", "--work", work, *tiny)
    assert run("plan", model_folder("llama"), *words).code == 0
    told = run("apply", tmp_path / "plan.json", "--out", tmp_path / "out", "--work", work)
    assert told.code == 0, told.err
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        compressed("llama").folder / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("step", [-1, -5])
def test_an_edited_rank_is_used(step, run, edited, planned, load, work, tmp_path):
    size = max(1, json.loads(planned.read_text())["choices"][LAYER]["size"] + step)
    path = edited(lambda plan: plan["choices"][LAYER].update(structure="pivoted_low_rank", size=size))
    told = run("apply", path, "--out", tmp_path / "out", "--work", work)
    assert told.code == 0, told.err
    model = load(tmp_path / "out", "llama")
    assert rank_of(model, LAYER) == size
    with torch.no_grad():
        assert torch.linalg.matrix_rank(expressions_of(model)[LAYER].dense()) == size
    saved = json.loads((tmp_path / "out" / "plan.json").read_text())["choices"]
    assert saved[LAYER]["size"] == size
    others = json.loads(planned.read_text())["choices"]
    assert {k: v["size"] for k, v in saved.items() if k != LAYER} == {
        k: v["size"] for k, v in others.items() if k != LAYER
    }


def test_a_layer_is_left_alone_by_calling_it_dense(run, edited, load, model_folder, work, tmp_path):
    path = edited(lambda plan: plan["choices"][LAYER].update(structure="dense", size=32))
    assert run("apply", path, "--out", tmp_path / "out", "--work", work).code == 0
    model = load(tmp_path / "out", "llama")
    assert LAYER not in expressions_of(model)
    assert torch.equal(
        model.get_submodule(LAYER).weight, load(model_folder("llama"), "llama").get_submodule(LAYER).weight
    )


MIXED = {
    **{f"model.layers.0.mlp.{part}_proj": ("neurons", 20, "dense") for part in ("gate", "up", "down")},
    "model.layers.0.self_attn.q_proj": ("low_rank", 5, "product"),
    **{f"model.layers.1.self_attn.{part}_proj": ("query_key", 5, "placed_rows") for part in "qk"},
    "model.layers.1.self_attn.v_proj": ("value_output", 9, "placed_rows"),
    "model.layers.1.self_attn.o_proj": ("value_output", 9, "picked_columns"),
    "model.layers.1.mlp.down_proj": ("low_rank", 7, "product"),
}
"""What becomes of a layer, in which size, and what that is written as; the other layers stay dense."""


def test_one_plan_narrows_one_block_s_mlp_and_another_s_attention_factors_a_third_and_leaves_the_rest(
    run, model_folder, tiny, load, answers, work, tmp_path
):
    path = tmp_path / "plan.json"
    kinds = "neurons,query_key,value_output,low_rank"
    words = ("--keep", 0.7, "--structures", kinds, "--allocator", "uniform", "--out", path, "--work", work, *tiny)
    told = run("plan", model_folder("llama"), *words)
    assert told.code == 0, told.err
    plan = json.loads(path.read_text(encoding="utf-8"))
    for name, choice in plan["choices"].items():
        structure, size, _ = MIXED.get(name, ("dense", 16, ""))
        choice.update(structure=structure, size=size)
    path.write_text(json.dumps(plan), encoding="utf-8")
    done = apply(path, tmp_path / "out", work=work)
    dense, loaded = load(model_folder("llama"), "llama"), load(tmp_path / "out", "llama")
    assert torch.equal(answers(loaded), answers(done.model))
    assert not torch.equal(answers(loaded), answers(dense))
    for model in (done.model, loaded):
        assert {name: e.kind for name, e in expressions_of(model).items()} == {
            n: kind for n, (*_, kind) in MIXED.items()
        }
    saved = done.plan.choices
    assert {name: (saved[name].structure, saved[name].size) for name in MIXED} == {n: c[:2] for n, c in MIXED.items()}
    for name in plan["choices"].keys() - MIXED.keys():
        assert torch.equal(loaded.get_submodule(name).weight, dense.get_submodule(name).weight)
    assert loaded.model.layers[0].mlp.down_proj.expression.shape == (32, 20)
    stored = sum(p.numel() for e in expressions_of(loaded).values() for p in e.parameters())
    untouched = sum(dense.get_submodule(name).weight.numel() for name in plan["choices"].keys() - MIXED.keys())
    assert done.report.small.params == stored + untouched < done.report.dense.params


def test_members_of_an_mlp_narrow_to_one_width_and_another_may_be_chosen(run, narrow, load, work, tmp_path):
    members = [f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")]
    plan = json.loads(json.dumps(narrow))
    assert len({json.dumps(plan["choices"][m] | {"predicted": 0}) for m in members}) == 1
    for member in members:
        plan["choices"][member].update(structure="neurons", size=9)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    assert run("apply", path, "--out", tmp_path / "out", "--work", work).code == 0
    model = load(tmp_path / "out", "llama")
    assert [expressions_of(model)[m].shape for m in members] == [(9, 32), (9, 32), (32, 9)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"up_proj": {"structure": "neurons", "size": 9}}, "narrow together"),
        ({"up_proj": {"structure": "dense", "size": 32}}, "narrow together"),
        ({p: {"structure": "neurons", "size": 0} for p in ("gate_proj", "up_proj", "down_proj")}, "nearest is 1"),
    ],
)
def test_members_of_an_mlp_that_disagree_are_refused(change, said, narrow, refused, tmp_path):
    plan = json.loads(json.dumps(narrow))
    for part, choice in change.items():
        plan["choices"][f"model.layers.1.mlp.{part}"] = choice
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    assert said in refused("apply", path, "--out", tmp_path / "out", early=True)


def test_what_two_plans_write_alike_is_solved_once(model_folder, tiny_settings, work):
    settings = replace(tiny_settings, structures=("pivoted_low_rank",))
    priced = price_model(str(model_folder("llama")), settings, work=work)
    plan, other = (make_plan(priced.offer, Budget(unit="params", amount=x), "knapsack") for x in (0.6, 0.9))
    first, again, third = (expressions_of(model) for model in build(priced, [plan, plan, other]))
    assert first.keys() == again.keys() and all(first[name] is again[name] for name in first)
    for name in first:
        assert (plan.choices[name] == other.choices[name]) == (first[name] is third.get(name))


def test_a_plan_says_what_it_predicts_and_for_what(planned, model_folder):
    plan = json.loads(planned.read_text())
    assert plan["model"] == str(model_folder("llama"))
    assert plan["budget"] == {"unit": "params", "amount": 0.6}
    assert plan["unit"] == "nats per token"
    assert 0 < plan["bound"] <= plan["predicted"]
    assert plan["predicted"] == pytest.approx(sum(c["predicted"] for c in plan["choices"].values()))
    assert len(plan["choices"]) == 14


def test_an_existing_plan_is_not_overwritten(refused, planned, model_folder, tiny):
    before = planned.read_bytes()
    said = refused("plan", model_folder("llama"), "--keep", 0.4, "--out", planned, *tiny, early=True)
    assert "exists" in said
    assert planned.read_bytes() == before


MISTAKES = {
    "an unknown layer": (lambda p: p["choices"].update(lm_head={"structure": "dense", "size": 32}), "lm_head"),
    "a missing layer": (lambda p: p["choices"].pop(LAYER), LAYER),
    "an unknown structure": (lambda p: p["choices"][LAYER].update(structure="butterfly"), f"{LAYER}.*butterfly"),
    "a structure that was not priced": (lambda p: p["choices"][LAYER].update(structure="low_rank"), "priced"),
    "a size off the grid": (lambda p: p["choices"][LAYER].update(size=77), f"{LAYER}.*77.*nearest is 31"),
    "a size of nothing": (lambda p: p["choices"][LAYER].update(size=0), f"{LAYER}.* 0 .*nearest is 1"),
    "a broken size": (lambda p: p["choices"][LAYER].update(size=7.5), "7.5"),
    "a size in words": (lambda p: p["choices"][LAYER].update(size="many"), "not a plan"),
    "choices without names": (lambda p: p.update(choices=[1]), "not a plan.*no list of names and values"),
    "no choices": (lambda p: p.pop("choices"), "not a plan.*choices"),
    "a setting nobody knows": (lambda p: p["settings"].update(colour="red"), "not a plan.*colour"),
    "an unknown metric": (lambda p: p["settings"].update(metric="taste"), "taste.*choose one of"),
    "an unknown allocator": (lambda p: p["settings"].update(allocator="lottery"), "lottery.*choose one of"),
    "tokens in words": (lambda p: p["settings"].update(tokens="all"), "tokens.*no whole number"),
    "tokens that are true": (lambda p: p["settings"].update(tokens=True), "tokens is True.*no whole number"),
    "a tie in words": (lambda p: p["settings"].update(tie="no"), "tie is 'no'.*neither true nor false"),
    "embeddings in words": (lambda p: p["settings"].update(embeddings="false"), "embeddings is 'false'.*neither"),
    "structures as one word": (lambda p: p["settings"].update(structures="low_rank"), "structures"),
    "a text that is a number": (lambda p: p["settings"].update(text=5), "text|not a plan"),
    "a budget that cannot be": (lambda p: p["budget"].update(amount=-1), "-1"),
    "a unit that cannot be": (lambda p: p["budget"].update(unit="pounds"), "pounds"),
    "another model's digest": (lambda p: p.update(digest="0" * 32), "0{32}.*new plan"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_plan_with_a_mistake_is_refused(mistake, refused, edited, tmp_path):
    change, words = MISTAKES[mistake]
    path = edited(change)
    before = Path(path).read_bytes()
    said = refused("apply", path, "--out", tmp_path / "out", early=True)
    assert re.search(words, said), said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edited.json"]
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize(("content", "words"), [(None, "no text file"), ("w1 w2", "fewer than one window")])
def test_a_plan_is_not_carried_out_for_a_text_that_cannot_judge(content, words, refused, planned, tmp_path):
    text = tmp_path / "test.txt"
    if content:
        text.write_text(content)
    assert words in refused("apply", planned, "--test", text, "--out", tmp_path / "out", early=True)


def test_a_plan_for_another_model_is_refused(refused, edited, model_folder, tmp_path):
    path = edited(lambda plan: plan.update(model=str(model_folder("qwen2"))))
    assert "new plan" in refused("apply", path, "--out", tmp_path / "out", early=True)


def test_a_plan_is_refused_once_a_weight_of_its_model_has_changed(refused, edited, copied, tmp_path):
    folder = copied("llama")
    weights = load_file(folder / "model.safetensors")
    weights[f"{LAYER}.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    path = edited(lambda plan: plan.update(model=str(folder)))
    assert "new plan" in refused("apply", path, "--out", tmp_path / "out", early=True)


def test_a_plan_is_refused_once_its_model_computes_something_else(refused, edited, copied, tmp_path):
    """The same weights under another activation function are another model, and other statistics."""
    folder = copied("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    path = edited(lambda plan: plan.update(model=str(folder)))
    assert "new plan" in refused("apply", path, "--out", tmp_path / "out", early=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{'structure': 'dense'}", "cannot be read"),
        (b"\x89PNG\r\n\xff\x00", "cannot be read"),
        (b"", "cannot be read"),
        (b"[1, 2, 3]", "not a plan"),
        (b"7", "not a plan"),
        (b"{}", "not a plan"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(content, words, refused, tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    assert words in refused("apply", path, "--out", tmp_path / "out", early=True)
    assert path.read_bytes() == content
    assert not (tmp_path / "out").exists()


def test_a_plan_that_is_not_there(refused, tmp_path):
    said = refused("apply", tmp_path / "nowhere.json", "--out", tmp_path / "out", early=True)
    assert "nowhere.json" in said
    assert "delete" not in said, "nobody should be told to delete a plan that they wrote"


def test_a_model_folder_instead_of_a_plan(refused, model_folder, tmp_path):
    refused("apply", model_folder("llama"), "--out", tmp_path / "out", early=True)


def test_the_plan_inside_a_folder_can_be_carried_out_again(run, compressed, work, tmp_path):
    """`plan.json` lies in every compressed folder; with it the folder can be made anew."""
    shutil.copy(compressed("gpt2").folder / "plan.json", tmp_path / "plan.json")
    assert run("apply", tmp_path / "plan.json", "--out", tmp_path / "out", "--work", work).code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        compressed("gpt2").folder / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(("better", "taken"), [(0.995, False), (0.9, True)])
def test_a_form_is_in_a_plan_where_it_saves_more_than_a_hundredth(model_folder, tiny_settings, work, better, taken):
    forms = replace(tiny_settings, structures=("sparse", "low_rank"))
    offer = price_model(str(model_folder("llama")), forms, work=work).offer

    def rivals(curve, factor):
        """The options of one form, and the same again with other errors as if of another."""
        own = [o for o in curve.options if o.structure != "low_rank"]
        others = (replace(o, structure="low_rank", error=o.error * factor) for o in own[1:])
        return replace(curve, options=(*own, *others))

    # Half of the layers would rather have the other form.
    curves = tuple(rivals(curve, 1.5 if i % 2 else better) for i, curve in enumerate(offer.curves))
    plan = make_plan(replace(offer, curves=curves), Budget(unit="params", amount=0.6), "knapsack")
    used = {o.structure for o in plan.choices.values()}
    assert ("low_rank" in used) == taken
    assert plan.bound <= plan.predicted


def test_of_forms_that_were_impossible_nothing_is_said_about_their_worth(run, model_folder, tiny, work, tmp_path):
    """Qwen 3 has norms between queries and scores, so no coordinates of them go."""
    words = ("--keep", 0.6, "--structures", "sparse,query_key", "--out", tmp_path / "small", "--work", work, *tiny)
    assert run("compress", model_folder("qwen3"), *words).code == 0
    notes = json.loads((tmp_path / "small" / "report.json").read_text(encoding="utf-8"))["notes"]
    assert [note for note in notes if "query_key" in note]
    assert not [note for note in notes if "No weight becomes query_key" in note]


def test_the_report_says_which_forms_were_not_worth_it(run, model_folder, tiny, work, tmp_path):
    words = ("--keep", 0.6, "--structures", "sparse,low_rank", "--out", tmp_path / "small", "--work", work, *tiny)
    assert run("compress", model_folder("llama"), *words).code == 0
    report = json.loads((tmp_path / "small" / "report.json").read_text(encoding="utf-8"))
    assert (report["allocator"], set(report["written"])) == ("knapsack", {"sparse"})
    assert [note for note in report["notes"] if "No weight becomes low_rank:" in note]
