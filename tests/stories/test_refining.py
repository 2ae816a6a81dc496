"""`gossamer refine`: block after block, a compressed model learns to give what the dense one's blocks give."""

import json

import pytest
import torch

from gossamer import heal, refine
from gossamer.checkpoints.plugin import history_of
from gossamer.errors import GossamerError

GENTLY = ("--rate", 0.003)
"""What suits these models; the default suits a trained one."""


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_it_comes_closer_to_the_dense_model(kind, run, compressed, load, work, tmp_path):
    told = run("refine", compressed(kind).folder, *GENTLY, "--out", tmp_path / "out", "--work", work)
    assert told.code == 0, told.err
    found = json.loads((tmp_path / "out" / "refine.json").read_text())
    assert found["after"]["divergence"] < found["before"]["divergence"]
    assert f"{found['after']['divergence']:.4f}" in told.out
    before, after = load(compressed(kind).folder, kind), load(tmp_path / "out", kind)
    assert [step["step"] for step in history_of(after)] == ["compress", "refine"]
    changed = {name for name, p in after.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    blocks = ("layers.", "h.", "layer.")
    assert changed
    assert all(any(block in name for block in blocks) for name in changed), "only what lies in blocks learns"
    assert {n: p.shape for n, p in after.named_parameters()} == {n: p.shape for n, p in before.named_parameters()}


def test_interrupted_it_goes_on_and_ends_the_same(compressed, tmp_path):
    folder = str(compressed("llama").folder)
    whole = refine(folder, rate=0.003, work=tmp_path / "a")

    def stopping(label, items, total):
        for done, item in enumerate(items):
            if label == "refine" and done == 1:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        refine(folder, tmp_path / "out", rate=0.003, work=tmp_path / "b", progress=stopping)
    assert not (tmp_path / "out").exists()
    (kept,) = (tmp_path / "b").glob("refine-*/*.safetensors")
    written = kept.stat().st_mtime_ns

    def watching(label, items, total):
        for done, item in enumerate(items):
            assert label != "refine" or done != 1 or kept.stat().st_mtime_ns == written, "done once is done"
            yield item

    again = refine(folder, rate=0.003, work=tmp_path / "b", progress=watching)
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, again.model.get_parameter(name)), name
    assert not list((tmp_path / "b").glob("refine-*"))


def test_a_refined_model_can_be_healed(compressed, tmp_path):
    once = refine(str(compressed("llama").folder), tmp_path / "out", rate=0.003, work=tmp_path / "work")
    twice = heal(str(tmp_path / "out"), rate=0.003, work=tmp_path / "work")
    assert twice.before.divergence == pytest.approx(once.after.divergence, rel=1e-6)
    assert [step["step"] for step in history_of(twice.model)] == ["compress", "refine", "heal"]


def test_every_step_says_what_the_folder_was_made_with(
    run, model_folder, text_file, tiny, work, load, tmp_path, monkeypatch
):
    """And where its text lies, wherever that was named from."""
    asked = ("--keep", 0.6, "--method", "two_sided", "--embeddings", *tiny)
    told = run("compress", model_folder("llama"), *asked, "--out", tmp_path / "once", "--work", work)
    assert told.code == 0, told.err
    monkeypatch.chdir(text_file.parent)
    for verb, before, after in (("refine", "once", "twice"), ("heal", "twice", "thrice")):
        words = (*GENTLY, "--text", text_file.name, "--tokens", 2048, "--work", work)
        told = run(verb, tmp_path / before, *words, "--out", tmp_path / after)
        assert told.code == 0, told.err
    first, *others = (step["settings"] for step in history_of(load(tmp_path / "thrice", "llama")))
    assert first["embeddings"] and first["structures"] == ["low_rank"] and first["text"] == str(text_file)
    for settings in others:
        assert settings == {**first, "tokens": 2048, "rate": 0.003}


def test_a_dense_model_is_refused(refused, model_folder, tmp_path):
    said = refused("refine", model_folder("llama"), "--out", tmp_path / "out", early=True)
    assert "not a model that gossamer compressed" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", [3.0, 1e30])
def test_what_came_out_worse_is_refused(rate, refused, compressed, tmp_path):
    words = ("--rate", rate, "--out", tmp_path / "out", "--work", tmp_path / "work")
    said = refused("refine", compressed("llama").folder, *words)
    assert "--rate" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_cannot_be_is_refused_before_anything_slow(rate, compressed, tmp_path):
    with pytest.raises(GossamerError, match="rate"):
        refine(str(compressed("llama").folder), rate=rate, work=tmp_path / "work")
    assert not (tmp_path / "work").exists()
