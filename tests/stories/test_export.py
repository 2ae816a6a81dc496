"""`export --to dense` writes a stock folder; test_strangers.py loads it where gossamer is not known."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

KINDS = ("llama", "llama_untied", "gpt2", "bert_mlm")


@pytest.mark.parametrize("kind", KINDS)
def test_its_config_is_the_dense_model_s(kind, exported, model_folder):
    before, after = (json.loads((f / "config.json").read_text()) for f in (model_folder(kind), exported(kind)))
    assert after == before
    assert "gossamer" not in (exported(kind) / "config.json").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_its_weights_are_named_and_shaped_as_the_dense_model_s(kind, exported, model_folder):
    before, after = (load_file(f / "model.safetensors") for f in (model_folder(kind), exported(kind)))
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {k: (v.shape, v.dtype) for k, v in before.items()}
    assert any(not torch.equal(after[k], before[k]) for k in before)
    untouched = [k for k in before if "norm" in k.lower() or "embed" in k or k.endswith("bias")]
    assert untouched
    assert all(torch.equal(after[k], before[k]) for k in untouched)


def test_generation_settings_survive(run, compressed, copied, tmp_path):
    small = shutil.copytree(compressed("llama").folder, tmp_path / "small")
    settings = json.loads((small / "generation_config.json").read_text())
    settings |= {"do_sample": True, "temperature": 0.31, "repetition_penalty": 1.7}
    (small / "generation_config.json").write_text(json.dumps(settings))
    assert run("export", small, "--out", tmp_path / "stock").code == 0
    after = json.loads((tmp_path / "stock" / "generation_config.json").read_text())
    assert after.get("temperature") == 0.31
    assert after.get("repetition_penalty") == 1.7


def test_an_exported_model_can_be_compressed_again(run, exported, tiny, work, tmp_path):
    told = run("compress", exported("llama"), "--keep", 0.4, "--out", tmp_path / "out", "--work", work, *tiny)
    assert told.code == 0, told.err


def test_a_dense_model_is_not_exported(refused, model_folder, tmp_path):
    said = refused("export", model_folder("llama"), "--out", tmp_path / "stock")
    assert "dense already" in said
    assert not list(tmp_path.iterdir())


def test_a_taken_folder_is_left_alone(refused, compressed, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    assert "not empty" in refused("export", compressed("llama").folder, "--out", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def affine(run, model_folder, tiny, work, tmp_path):
    """A function: kind → a folder of that model with a bias in every expression."""

    def of(kind):
        words = ("--keep", 0.5, "--structures", "affine_low_rank", "--metric", "covariance", "--work", work, *tiny)
        told = run("compress", model_folder(kind), *words, "--out", tmp_path / "small")
        assert told.code == 0, told.err
        return tmp_path / "small"

    return of


@pytest.mark.parametrize("kind", ["gpt2", "bert_mlm"])
def test_the_bias_of_an_expression_goes_into_the_layers_own(kind, affine, run, load, answers, tmp_path):
    small = affine(kind)
    assert run("export", small, "--out", tmp_path / "stock").code == 0
    torch.testing.assert_close(
        answers(load(tmp_path / "stock", kind)), answers(load(small, kind)), rtol=1e-4, atol=1e-4
    )


def test_a_bias_that_a_stock_layer_has_no_place_for_is_refused_by_the_layers_name(affine, refused, tmp_path):
    said = refused("export", affine("llama"), "--out", tmp_path / "stock")
    assert "model.layers.0.self_attn.q_proj" in said and "bias" in said
    assert not (tmp_path / "stock").exists()
