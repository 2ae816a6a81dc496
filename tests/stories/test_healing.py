"""`gossamer heal`: a compressed model learns from its dense original."""

import json
import shutil

import pytest
import torch

from gossamer import heal
from gossamer.checkpoints.plugin import history_of
from gossamer.errors import GossamerError
from gossamer.training import healing

GENTLY = ("--rate", 0.003)
"""What suits these models; the default suits a trained one."""


@pytest.fixture
def often(monkeypatch):
    """Steps are of two windows, and the state is kept after the first of them, and soon again."""
    monkeypatch.setattr(healing, "SAVE_EVERY", -1.0)
    monkeypatch.setattr(healing, "BATCH", 64)


def stopping(after):
    def progress(label, items, total):
        for done, item in enumerate(items):
            if label == "heal" and done == after:
                raise KeyboardInterrupt
            yield item

    return progress


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_it_comes_closer_to_the_dense_model(kind, run, compressed, load, answers, model_folder, work, tmp_path):
    told = run("heal", compressed(kind).folder, *GENTLY, "--out", tmp_path / "out", "--work", work)
    assert told.code == 0, told.err
    found = json.loads((tmp_path / "out" / "heal.json").read_text())
    assert found["after"]["divergence"] < 0.95 * found["before"]["divergence"]
    assert f"{found['before']['divergence']:.4f}" in told.out
    assert f"{found['after']['divergence']:.4f}" in told.out
    before, after = load(compressed(kind).folder, kind), load(tmp_path / "out", kind)
    dense = answers(load(model_folder(kind), kind))
    assert (answers(after) - dense).norm() < (answers(before) - dense).norm()
    steps = history_of(after)
    assert [step["step"] for step in steps] == ["compress", "heal"]
    changed = {name for name, p in after.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    learned = {name for name, _ in healing.learning(before)}
    unused = {name for name in learned if "pooler" in name}  # of an encoder, which answers before it
    assert changed >= learned - unused - {n for n in learned if n.endswith(("key.bias", "k_proj.bias"))}
    assert not changed & {name for name, _ in before.named_parameters() if "embed_tokens" in name or "wte" in name}
    assert {n: p.shape for n, p in after.named_parameters()} == {n: p.shape for n, p in before.named_parameters()}


def test_what_came_out_is_judged_like_any_other(run, compressed, text_file, work, tmp_path):
    assert run("heal", compressed("llama").folder, *GENTLY, "--out", tmp_path / "out", "--work", work).code == 0
    path = tmp_path / "found.json"
    told = run(
        "evaluate",
        tmp_path / "out",
        "--window",
        32,
        "--tokens",
        320,
        "--text",
        text_file,
        "--out",
        path,
        "--work",
        work,
    )
    assert told.code == 0, told.err
    protocol = json.loads(path.read_text())["score"]["protocol"]
    assert protocol["windows"] == 10


def test_interrupted_it_goes_on_and_ends_the_same(often, compressed, tmp_path):
    folder = compressed("llama").folder
    whole = heal(str(folder), rate=0.003, work=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        heal(str(folder), tmp_path / "out", rate=0.003, work=tmp_path / "b", progress=stopping(7))
    assert not (tmp_path / "out").exists()
    seen = []

    def counting(label, items, total):
        seen.append((label, total))
        return iter(items)

    again = heal(str(folder), rate=0.003, work=tmp_path / "b", progress=counting)
    steps = -(-whole.windows // 2)
    assert steps - 7 <= dict(seen)["heal"] < steps
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, again.model.get_parameter(name)), name
    assert not list((tmp_path / "b").glob("heal-*/state*"))


def test_a_dense_model_is_refused(refused, model_folder, tmp_path):
    said = refused("heal", model_folder("llama"), "--out", tmp_path / "out", early=True)
    assert "not a model that gossamer compressed" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", [3.0, 1e30])
def test_what_came_out_worse_is_refused(rate, refused, compressed, tmp_path):
    words = ("--rate", rate, "--out", tmp_path / "out", "--work", tmp_path / "work")
    said = refused("heal", compressed("llama").folder, *words)
    assert "--rate" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_cannot_be_is_refused_before_anything_slow(rate, compressed, tmp_path):
    with pytest.raises(GossamerError, match="rate"):
        heal(str(compressed("llama").folder), rate=rate, work=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_damaged_state_is_named(often, compressed, refused, tmp_path):
    folder, work = compressed("llama").folder, tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        heal(str(folder), tokens=640, work=work, progress=stopping(5))
    (path,) = work.glob("heal-*/state.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    said = refused("heal", folder, "--tokens", 640, "--out", tmp_path / "out", "--work", work)
    assert str(path) in said


def test_the_dense_model_may_have_moved(run, compressed, copied, work, tmp_path):
    """It is looked for where the history says, or where the user says."""
    moved = copied("llama")
    folder = shutil.copytree(compressed("llama").folder, tmp_path / "small")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["history"][0]["model"] = "./gone"
    (folder / "config.json").write_text(json.dumps(config))
    words = ("heal", folder, *GENTLY, "--work", work)
    told = run(*words, "--out", tmp_path / "a")
    assert told.code == 1
    assert "--dense" in told.err
    assert run(*words, "--out", tmp_path / "b", "--dense", moved).code == 0
