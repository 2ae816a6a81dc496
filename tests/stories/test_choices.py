"""Every choice that the command line offers works, and what was chosen stands in the plan."""

import json

import pytest
import torch

from gossamer import Settings, budgets, discover, metrics, solvers, structures
from gossamer.checkpoints.plugin import expressions_of
from gossamer.errors import PlanError
from gossamer.expressions import Expression
from gossamer.metrics import Metric
from gossamer.structures import RankStructure, ShorterStructure, Structure

METRICS = discover.names(metrics)
FORMS = {name: form for name, form in discover.catalogue(structures, Structure).items() if name != "dense"}
STRUCTURES = list(FORMS)
RANK_STRUCTURES = [name for name, form in FORMS.items() if issubclass(form, RankStructure)]
ALLOCATORS = discover.names(budgets)
PARTS = {
    "low_rank": ("product", "dense", "dense"),
    "pivoted_low_rank": ("product", "dense", "skeleton"),
    "affine_low_rank": ("affine", "product", "dense", "dense"),
    "dictionary": ("product", "sparse", "dense"),
    "orthogonal_dictionary": ("product", "sparse", "dense"),
    "rectified_low_rank": ("rectified", "affine", "dense", "affine", "dense"),
    "tensor_train": ("tensor_train",),
    "sparse": ("sparse",),
    "n_of_4": ("sparse",),
    "n_of_8": ("sparse",),
    "low_rank_and_sparse": ("sum", "product", "dense", "dense", "sparse"),
    "quantized_low_rank": ("product", "lookup", "lookup"),
}


def solved(structure, metric):
    """Whether a solver fits the structure in the metric."""
    try:
        solvers.choose(discover.load(structures, structure, Structure), discover.load(metrics, metric, Metric))
    except PlanError:
        return False
    return True


def first(default, names, fits):
    """The default where it fits, else the first name that does."""
    return next(name for name in (default, *names) if fits(name))


@pytest.fixture
def chosen(run, model_folder, load, answers, tiny, work, tmp_path):
    """A function: compress with these options → (plan, folder), after checking that the folder loads and answers."""

    def of(*words, kind="llama", keep=0.5, out="out"):
        out = tmp_path / out
        told = run("compress", model_folder(kind), "--keep", keep, *words, "--out", out, "--work", work, *tiny)
        assert told.code == 0, told.err
        assert answers(load(out, kind)).isfinite().all()
        report = json.loads((out / "report.json").read_text())
        assert report["small"]["params"] <= keep * report["dense"]["params"]
        return json.loads((out / "plan.json").read_text()), out

    return of


def test_the_catalogues_are_the_ones_these_stories_know():
    assert {"activation", "diagonal_fisher", "identity", "kronecker_fisher", "row_fisher"} <= set(METRICS)
    assert {"low_rank", "pivoted_low_rank"} <= set(STRUCTURES)
    assert {"knapsack", "uniform"} <= set(ALLOCATORS)


@pytest.mark.parametrize(
    ("metric", "kind"), [*((metric, "llama") for metric in METRICS), ("row_fisher", "bert"), ("identity", "bert")]
)
def test_every_metric(metric, kind, chosen):
    structure = first(Settings().structures[0], STRUCTURES, lambda s: solved(s, metric))
    plan, _ = chosen("--metric", metric, "--structures", structure, kind=kind)
    assert plan["settings"]["metric"] == metric
    assert ("nats" in plan["unit"]) == ("fisher" in metric)


@pytest.mark.parametrize("structure", [n for n in STRUCTURES if not issubclass(FORMS[n], ShorterStructure)])
def test_every_structure_of_fewer_numbers(structure, chosen, load):
    metric = first(Settings().metric, METRICS, lambda m: solved(structure, m))
    plan, out = chosen("--structures", structure, "--metric", metric)
    assert plan["settings"]["structures"] == [structure]
    assert {c["structure"] for c in plan["choices"].values()} <= {structure, "dense"}
    carried = expressions_of(load(out, "llama")).values()
    assert {tuple(p.kind for p in e.modules() if isinstance(p, Expression)) for e in carried} == {PARTS[structure]}


@pytest.mark.parametrize(("metric", "structure"), [("covariance", "low_rank"), ("activation", "tensor_train")])
def test_a_metric_that_no_solver_honours_for_a_structure_is_refused(
    metric, structure, refused, model_folder, tiny, tmp_path
):
    words = ("--keep", 0.5, "--metric", metric, "--structures", structure, *tiny)
    said = refused("compress", model_folder("llama"), *words, "--out", tmp_path / "out", early=True)
    assert f"No solver fits {structure} in the metric {metric}; choose another metric: " in said


def test_several_structures_at_once(chosen):
    several = [s for s in RANK_STRUCTURES if solved(s, Settings().metric)]
    plan, _ = chosen("--structures", ", ".join(several))
    assert plan["settings"]["structures"] == several
    used = {c["structure"] for c in plan["choices"].values()} - {"dense"}
    assert used == {"pivoted_low_rank"}, "it expresses the same matrices with fewer numbers"


def test_the_order_of_structures_does_not_matter(run, model_folder, tiny, work, tmp_path):
    """Also where a solver prices a few sizes only and interpolates between them."""
    words = ("--keep", 0.8, "--metric", "diagonal_fisher", "--allocator", "uniform", "--work", work, *tiny)
    prices = []
    several = [s for s in STRUCTURES if solved(s, "diagonal_fisher")]
    for order in (several, several[::-1]):
        path = tmp_path / f"{order[0]}.json"
        told = run("plan", model_folder("llama"), "--structures", ",".join(order), *words, "--out", path)
        assert told.code == 0, told.err
        prices.append(json.loads(path.read_text())["predicted"])
    assert prices[0] == pytest.approx(prices[1], rel=1e-6)


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_every_allocator(allocator, chosen):
    plan, out = chosen("--allocator", allocator)
    report = json.loads((out / "report.json").read_text())
    assert plan["settings"]["allocator"] == allocator
    assert plan["allocator"] in {allocator, "uniform"}
    if allocator == "uniform":
        assert plan["allocator"] == "uniform"
        assert report["rivals"] == {}
    else:
        assert set(report["rivals"]) == {allocator, "uniform"}


@pytest.mark.parametrize("allocator", ALLOCATORS)
def test_every_allocator_keeps_the_budget_where_a_layer_cannot_shrink(allocator, chosen):
    """An encoder's pooler is never reached and stays dense: the other layers must make up for it."""
    chosen("--allocator", allocator, kind="bert")


def test_what_was_found_of_the_layers_alone_does_not_stand_for_the_embeddings_too(chosen):
    """In one working folder: what an allocator looks at belongs to the very weights that are decided on."""
    words = ("--structures", "low_rank", "--allocator", "block_influence")
    chosen(*words, out="layers")
    plan, _ = chosen(*words, "--embeddings", out="all")
    assert "model.embed_tokens" in plan["choices"]


def test_uniform_gives_equal_layers_equal_ranks(chosen):
    plan, _ = chosen("--allocator", "uniform")
    for end in ("mlp.up_proj", "self_attn.q_proj", "mlp.down_proj"):
        sizes = {c["size"] for name, c in plan["choices"].items() if name.endswith(end)}
        assert len(sizes) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_number_format(dtype, chosen, load, answers):
    plan, out = chosen("--dtype", dtype)
    assert plan["settings"]["dtype"] == dtype
    model = load(out, "llama")
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    report = json.loads((out / "report.json").read_text())
    assert report["score"]["protocol"]["dtype"] == dtype
    assert report["dense"]["bytes"] == 2 * report["dense"]["params"]


def test_auto_is_the_model_s_own_number_format(run, copied, load, tiny, work, tmp_path):
    folder = copied("llama")
    load(folder, "llama", dtype=torch.bfloat16).save_pretrained(folder)
    out = tmp_path / "out"
    assert run("compress", folder, "--keep", 0.5, "--out", out, "--work", work, *tiny).code == 0
    assert load(out, "llama").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        (
            "llama_untied",
            (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")),
        ),
        ("bert_mlm", (("self.query", "self.key", "self.value"),)),
    ],
)
def test_tie_gives_layers_with_one_input_one_rank(kind, groups, chosen):
    plan, _ = chosen("--tie", kind=kind, keep=0.55)
    assert plan["settings"]["tie"] is True
    for group in groups:
        parents = {name[: -len(group[0])] for name in plan["choices"] if name.endswith(group[0])}
        assert len(parents) == 2
        for parent in parents:
            found = {(c["structure"], c["size"]) for c in (plan["choices"][parent + end] for end in group)}
            assert len(found) == 1, found


def test_without_tie_they_differ(chosen):
    plan, _ = chosen(kind="llama_untied", keep=0.55)
    assert plan["settings"]["tie"] is False
    layers = [[plan["choices"][f"model.layers.{i}.self_attn.{x}_proj"]["size"] for x in "qkv"] for i in (0, 1)]
    assert any(len(set(sizes)) > 1 for sizes in layers)


def test_tie_with_grouped_heads(chosen):
    """Where keys and values are smaller than queries, those that are rewritten share a rank; the others stay dense."""
    plan, _ = chosen("--tie", kind="llama")
    for layer in (0, 1):
        found = [plan["choices"][f"model.layers.{layer}.self_attn.{x}_proj"] for x in "qkv"]
        assert len({c["size"] for c in found if c["structure"] != "dense"}) <= 1


@pytest.mark.parametrize("seed", [5])
def test_a_seed_gives_the_same_folder_twice(seed, run, model_folder, tiny, tmp_path):
    for turn in ("once", "twice"):
        words = ("--seed", seed, "--keep", 0.5, "--work", tmp_path / f"work-{turn}", *tiny)
        assert run("compress", model_folder("llama"), *words, "--out", tmp_path / turn).code == 0
    once, twice = (tmp_path / turn / "model.safetensors" for turn in ("once", "twice"))
    assert once.read_bytes() == twice.read_bytes()


def test_another_text_to_judge_by(run, model_folder, tiny, work, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("w9 w8 w7 " * 300)
    words = ("--keep", 0.5, "--work", work, *tiny, "--test", other)
    assert run("compress", model_folder("llama"), *words, "--out", tmp_path / "out").code == 0
    protocol = json.loads((tmp_path / "out" / "report.json").read_text())["score"]["protocol"]
    assert protocol["source"] == str(other)
    assert protocol["windows"] > 20


def test_tokens_zero_reads_the_whole_text(run, model_folder, text_file, work, tmp_path):
    words = ("--keep", 0.5, "--text", text_file, "--tokens", 0, "--window", 64, "--work", work)
    assert run("compress", model_folder("llama"), *words, "--out", tmp_path / "out").code == 0
    calibration = json.loads((tmp_path / "out" / "report.json").read_text())["asked"]["calibration"]
    assert calibration["windows"] == text_file.stat().st_size // 64 - 4


def test_a_window_is_no_longer_than_the_model_reads(run, model_folder, text_file, work, tmp_path):
    """The tiny model ends at 64 positions, the default window at 512."""
    for kind in ("gpt2", "bert_mlm"):
        out = tmp_path / kind
        words = ("--keep", 0.5, "--text", text_file, "--tokens", 512, "--work", work)
        assert run("compress", model_folder(kind), *words, "--out", out).code == 0
        assert json.loads((out / "report.json").read_text())["asked"]["calibration"]["window"] == 64


def test_a_few_tokens_are_enough_to_stay_finite(run, model_folder, load, answers, text_file, work, tmp_path):
    """Eight tokens leave second moments of rank eight at most: the roots must exist all the same."""
    for kind, metric, tokens in (
        ("llama", "kronecker_fisher", 8),
        ("bert_mlm", "kronecker_fisher", 64),
    ):
        out = tmp_path / f"{kind}-{metric}"
        words = ("--keep", 0.6, "--text", text_file, "--tokens", tokens, "--window", 8, "--metric", metric)
        told = run("compress", model_folder(kind), *words, "--work", work, "--out", out)
        assert told.code == 0, told.err
        assert answers(load(out, kind)).isfinite().all()
        assert json.loads((out / "report.json").read_text())["score"]["divergence"] < 20
        few = f"note: Calibrated on {tokens} tokens, fewer than the 48 inputs of" in told.out
        assert few == (tokens < 48)
