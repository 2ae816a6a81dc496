"""With --embeddings the table of token embeddings and the output head are rewritten and counted too."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from gossamer import Budget, Settings, compress, methods
from gossamer.checkpoints.plugin import expressions_of
from gossamer.sites import Carrier, TiedHead

TIED = {"llama": True, "llama_untied": False, "gpt2": True, "bert_mlm": True, "bert": False}
TABLES = {
    "llama": "model.embed_tokens",
    "llama_untied": "model.embed_tokens",
    "gpt2": "transformer.wte",
    "bert_mlm": "bert.embeddings.word_embeddings",
    "bert": "embeddings.word_embeddings",
}
METHODS = ("two_sided", "pivoted", "feature_mimicking", "svd_llm")


@pytest.fixture(scope="session")
def small(run, model_folder, tiny, work, tmp_path_factory):
    """A function: (kind, method) → the folder of that model with its embeddings rewritten, at six tenths."""
    made = {}

    def of(kind, method="two_sided"):
        if (kind, method) not in made:
            out = tmp_path_factory.mktemp(f"ends-{kind}-{method}") / "out"
            words = ("--keep", 0.6, "--method", method, "--allocator", "uniform", "--embeddings")
            told = run("compress", model_folder(kind), *words, "--out", out, "--work", work, *tiny)
            assert told.code == 0, told.err
            assert "layers and embeddings, parameters" in told.out
            made[kind, method] = out
        return made[kind, method]

    return of


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", TIED)
def test_it_loads_with_nothing_missing_and_saves_to_the_bit(kind, method, small, load, answers, model_folder, tmp_path):
    model, info = load(small(kind, method), kind, output_loading_info=True)
    assert {name: found for name, found in info.items() if found} == {}
    assert TABLES[kind] in expressions_of(model)
    assert answers(model).isfinite().all()
    assert not torch.equal(answers(model), answers(load(model_folder(kind), kind)))
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(answers(load(tmp_path / "again", kind)), answers(model))
    files = [folder / "model.safetensors" for folder in (small(kind, method), tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("kind", ["llama", "llama_untied", "bert_mlm"])
def test_the_model_in_memory_is_the_one_in_the_folder(kind, model_folder, text_file, work, load, answers, tmp_path):
    settings = methods.settings("two_sided", text=str(text_file), tokens=1024, window=32, embeddings=True)
    made = compress(str(model_folder(kind)), Budget(unit="params", amount=0.6), tmp_path / "out", settings, work=work)
    assert torch.equal(answers(made.model), answers(load(tmp_path / "out", kind)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", TIED)
def test_what_is_counted_is_what_is_stored(kind, method, small, load, model_folder):
    report = json.loads((small(kind, method) / "report.json").read_text())
    dense, made = load(model_folder(kind), kind), load(small(kind, method), kind)
    assert report["small_total"]["params"] == sum(p.numel() for p in made.parameters())
    assert report["dense_total"]["params"] == sum(p.numel() for p in dense.parameters())
    table, head = dense.get_input_embeddings(), dense.get_output_embeddings()
    ends = table.weight.numel() + (0 if head is None or head.weight is table.weight else head.weight.numel())
    layers = json.loads((model_folder(kind) / "config.json").read_text())
    assert layers["vocab_size"] == len(table.weight)
    weights = [m for m in dense.modules() if type(m).__name__ in ("Linear", "Conv1D") and m is not head]
    assert report["dense"]["params"] == ends + sum(m.weight.numel() for m in weights)
    assert 0.55 < report["small"]["params"] / report["dense"]["params"] <= 0.6
    with safe_open(small(kind, method) / "model.safetensors", "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert report["small_total"]["bytes"] == sum(t.numel() * t.element_size() for t in stored.values())
    rest = report["dense_total"]["macs"] - report["dense"]["macs"]
    assert report["small_total"]["macs"] == report["small"]["macs"] + rest


@pytest.mark.parametrize("kind", [kind for kind, tied in TIED.items() if tied])
def test_a_tied_table_stays_one_weight(kind, small, load):
    model = load(small(kind), kind)
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(table, Carrier) and isinstance(head, TiedHead)
    assert torch.equal(head.weight, table.weight)
    assert not [
        key for key in model.state_dict() if ".expression." in key and not key.startswith(tuple(expressions_of(model)))
    ]
    ids, hidden = torch.arange(5, 29), torch.randn(3, table.weight.shape[1])
    with torch.no_grad():
        torch.testing.assert_close(table(ids), table.weight[ids])
        torch.testing.assert_close(head(hidden), nn.functional.linear(hidden, table.weight, head.bias))
        model.get_parameter(f"{TABLES[kind]}.expression.factors.1.weight").zero_()
    assert not table(ids).any() and not head.weight.any()


def test_an_untied_head_is_a_weight_of_its_own(small, load):
    model = load(small("llama_untied"), "llama_untied")
    assert set(expressions_of(model)) >= {"model.embed_tokens", "lm_head"}
    assert isinstance(model.lm_head, Carrier)


@pytest.mark.parametrize("kind", ["llama", "llama_untied", "gpt2"])
def test_it_generates(kind, small, load):
    model = load(small(kind), kind)
    ids = torch.arange(5, 11)[None]
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), min_new_tokens=6, max_new_tokens=6, do_sample=False, pad_token_id=0
    )
    assert written.shape == (1, 12)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_both_uses_of_a_tied_table_train_it(kind, small, load):
    model = load(small(kind), kind).train()
    ids = torch.arange(5, 37)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    factors = [p for n, p in model.named_parameters() if n.startswith(f"{TABLES[kind]}.expression")]
    assert len(factors) == 2
    assert all(p.grad is not None and p.grad.any() for p in factors)
    # A row that no token looked up learns by way of the head alone.
    assert factors[0].grad[60].any()


@pytest.mark.parametrize("method", ["two_sided", "pivoted", "feature_mimicking"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert_mlm"])
def test_its_dense_export_gives_the_same_answers(kind, method, small, run, load, answers, tmp_path):
    if (kind, method) == ("llama", "feature_mimicking"):
        pytest.skip("its layers have no biases to put the mean into")
    out = tmp_path / "stock"
    told = run("export", small(kind, method), "--out", out)
    assert told.code == 0, told.err
    stock = load(out, kind)
    assert stock.get_output_embeddings().weight is stock.get_input_embeddings().weight
    assert type(stock.get_input_embeddings()) is nn.Embedding
    torch.testing.assert_close(answers(stock), answers(load(small(kind, method), kind)), rtol=1e-4, atol=1e-4)


def test_it_can_be_healed(small, run, text_file, work, load, tmp_path):
    out = tmp_path / "healed"
    told = run("heal", small("llama"), "--text", text_file, "--tokens", 2048, "--work", work, "--out", out)
    assert told.code == 0, told.err
    assert isinstance(load(out, "llama").get_output_embeddings(), TiedHead)


def test_a_plan_names_them_and_is_carried_out(run, model_folder, tiny, load, work, tmp_path):
    path = tmp_path / "plan.json"
    words = ("--keep", 0.6, "--embeddings", "--work", work, *tiny)
    assert run("plan", model_folder("llama"), *words, "--out", path).code == 0
    plan = json.loads(path.read_text())
    assert plan["settings"]["embeddings"] is True
    assert "model.embed_tokens" in plan["choices"] and "lm_head" not in plan["choices"]
    plan["choices"]["model.embed_tokens"] = {"structure": "pivoted_low_rank", "size": 9}
    path.write_text(json.dumps(plan))
    told = run("apply", path, "--work", work, "--out", tmp_path / "out")
    assert told.code == 0, told.err
    assert expressions_of(load(tmp_path / "out", "llama"))["model.embed_tokens"].factors[0].shape == (272, 9)


def test_by_default_they_stay_and_count_for_nothing(compressed):
    made = compressed("llama_untied")
    assert not {"model.embed_tokens", "lm_head"} & set(expressions_of(made.model))
    assert made.document("plan.json")["settings"]["embeddings"] is False
    assert Settings().embeddings is False


def test_a_size_that_the_layers_alone_cannot_reach(run, refused, model_folder, tiny, load, work, tmp_path):
    words = ("--bytes", "36kB", "--method", "two_sided", "--work", work, *tiny)
    assert "out of reach" in refused("compress", model_folder("llama"), *words, "--out", tmp_path / "out")
    told = run("compress", model_folder("llama"), *words, "--embeddings", "--out", tmp_path / "out")
    assert told.code == 0, told.err
    assert sum(p.numel() * 4 for p in load(tmp_path / "out", "llama").parameters()) <= 36_000


@pytest.mark.parametrize(
    ("kind", "allocator"), [("llama", "knapsack"), ("llama_untied", "knapsack"), ("gpt2", "uniform")]
)
def test_in_a_budget_of_multiply_adds_a_table_counts_by_its_head(
    kind, allocator, run, model_folder, tiny, work, tmp_path
):
    out = tmp_path / "out"
    words = ("--macs", 0.6, "--embeddings", "--method", "two_sided", "--allocator", allocator, "--work", work, *tiny)
    told = run("compress", model_folder(kind), *words, "--out", out)
    assert told.code == 0, told.err
    report, plan = (json.loads((out / f"{name}.json").read_text()) for name in ("report", "plan"))
    assert report["small"]["macs"] <= 0.6 * report["dense"]["macs"]
    if kind == "llama_untied":
        assert plan["choices"]["model.embed_tokens"]["structure"] == "dense"


def test_layers_may_be_inspected_and_methods_compared_with_them(run, model_folder, text_file, tiny, work, tmp_path):
    told = run("inspect", model_folder("llama_untied"), "--embeddings", "--work", work, *tiny)
    assert told.code == 0, told.err
    assert "model.embed_tokens" in told.out and "lm_head" in told.out
    words = ("--methods", "two_sided,svd", "--keep", 0.6, "--test", text_file, "--test-tokens", 512, "--embeddings")
    told = run("compare", model_folder("llama"), *words, "--work", work, "--out", tmp_path / "table", *tiny)
    assert told.code == 0, told.out
    assert "of the linear layers and embeddings" in " ".join(told.out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metric", "diagonal_fisher", "--structures", "low_rank"), "weighed in the metric DiagonalFisher"),
        (("--method", "compactifai"), "model.embed_tokens is a table of embeddings, which cannot become tensor_train"),
        (("--method", "modegpt"), "which cannot become leverage_neurons"),
        (("--method", "wanda"), "which cannot become sparse"),
        (("--method", "slicegpt"), "residual_stream narrows model.embed_tokens with the layers"),
        (
            ("--method", "svd_llm", "--structures", "residual_stream,low_rank"),
            "residual_stream narrows model.embed_tokens with the layers",
        ),
    ],
    ids=["metric", "tensor train", "bottlenecks", "sparse", "stream", "stream or tables"],
)
def test_what_tables_cannot_become_is_refused(words, said, refused, model_folder, tiny, tmp_path):
    words = ("--keep", 0.6, "--embeddings", *words, *tiny)
    told = refused("compress", model_folder("llama"), *words, "--out", tmp_path / "out", early=True)
    assert said in told and "leave --embeddings out" in told
