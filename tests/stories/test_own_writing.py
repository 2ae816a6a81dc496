"""Without a calibration text a causal model writes its own, the same each time; an encoder cannot, and says so."""

import json

import pytest
import torch
from safetensors.torch import load_file

from gossamer import Budget, Settings, plan
from gossamer.checkpoints.store import write_tensors

HALF = Budget(unit="params", amount=0.5)
FEW = ("--tokens", 512, "--window", 32)


def ids_in(work):
    (path,) = work.glob("writing-*/ids.safetensors")
    return load_file(path)["ids"]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_causal_model_writes_its_own_text(kind, run, model_folder, load, answers, tmp_path):
    out = tmp_path / "out"
    words = ("compress", model_folder(kind), "--keep", 0.6, *FEW, "--work", tmp_path / "work")
    told = run(*words, "--out", out)
    assert told.code == 0, told.err
    report = json.loads((out / "report.json").read_text())
    assert report["asked"]["settings"]["text"] is None
    assert "own writing" in report["score"]["protocol"]["source"]
    assert "own writing" in told.out
    assert report["score"]["protocol"]["windows"] == 2
    assert answers(load(out, kind)).isfinite().all()


@pytest.mark.parametrize("command", ["compress", "plan", "compare"])
def test_it_has_no_end_to_read_to(command, refused, model_folder, text_file, tmp_path):
    more = ("--test", text_file, "--methods", "svd") if command == "compare" else ("--keep", 0.6)
    words = (command, model_folder("llama"), *more, "--tokens", 0, "--out", tmp_path / "out")
    assert "how many --tokens" in refused(*words, early=True)
    assert not list(tmp_path.iterdir())


def test_what_was_written_is_kept(run, model_folder, tmp_path, monkeypatch):
    words = ("compress", model_folder("llama"), *FEW, "--work", tmp_path / "work")
    assert run(*words, "--keep", 0.6, "--out", tmp_path / "first").code == 0
    ids = ids_in(tmp_path / "work")

    def never(*_, **__):
        raise AssertionError("it wrote again")

    monkeypatch.setattr("gossamer.data.generate", never)
    assert run(*words, "--keep", 0.4, "--out", tmp_path / "second").code == 0
    assert torch.equal(ids_in(tmp_path / "work"), ids)


def test_a_longer_lesson_is_judged_by_what_judged_the_compression_and_does_not_learn_it(run, model_folder, tmp_path):
    words = ("--work", tmp_path / "work")
    small, healed = tmp_path / "small", tmp_path / "healed"
    told = run("compress", model_folder("llama"), "--keep", 0.6, *FEW, *words, "--out", small)
    assert told.code == 0, told.err
    told = run("heal", small, "--tokens", 1024, "--rate", 0.003, *words, "--out", healed)
    assert told.code == 0, told.err
    first = json.loads((small / "report.json").read_text())["score"]
    found = json.loads((healed / "heal.json").read_text())
    assert found["after"]["protocol"] == first["protocol"]
    assert found["before"]["divergence"] == pytest.approx(first["divergence"], rel=1e-3)
    assert found["windows"] == 1024 // 32 - first["protocol"]["windows"]


def test_a_first_token_that_the_model_does_not_know_is_named(copied, refused, tmp_path):
    """A small GPT2Config made by hand starts with GPT-2's own token."""
    model = copied("gpt2")
    for name in ("config.json", "generation_config.json"):
        told = json.loads((model / name).read_text()) | {"bos_token_id": 50256}
        (model / name).write_text(json.dumps(told))
    said = refused("compress", model, "--keep", 0.6, *FEW, "--out", tmp_path / "out")
    assert "starts texts with token 50256, and it knows 272" in said


def test_the_same_seed_writes_the_same_and_another_something_else(model_folder, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = Settings(tokens=256, window=32, seed=seed)
        plan(str(model_folder("llama")), HALF, settings, work=tmp_path / name)
    a, b, c = (ids_in(tmp_path / name) for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_it_is_drawn_from_the_model_s_own_distribution(model_folder, load, tmp_path):
    """Mean surprise at the written tokens equals the entropy of the predictions, within sampling noise."""
    plan(str(model_folder("llama")), HALF, Settings(tokens=2048, window=32), work=tmp_path)
    ids, model = ids_in(tmp_path), load(model_folder("llama"), "llama")
    assert (ids[:, 0] == 0).all(), "each sequence begins with the BOS token"
    with torch.no_grad():
        logs = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    surprise = -logs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    noise = ((logs.exp() * logs.square()).sum(-1) - entropy.square()).sum().sqrt() / surprise.numel()
    assert abs(surprise.mean() - entropy.mean()) < 4 * noise
    assert len({tuple(row) for row in ids.tolist()}) == len(ids)


def test_more_tokens_later_give_what_more_tokens_at_once_give(model_folder, tmp_path):
    """The same command gives the same model, whatever the working folder has seen before."""
    few, many = (Settings(tokens=tokens, window=32) for tokens in (256, 2048))
    for settings in (few, many):
        grown = plan(str(model_folder("llama")), HALF, settings, work=tmp_path / "grown")
    fresh = plan(str(model_folder("llama")), HALF, many, work=tmp_path / "fresh")
    assert torch.equal(ids_in(tmp_path / "grown"), ids_in(tmp_path / "fresh"))
    assert grown.choices == fresh.choices


def test_interrupted_writing_goes_on(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("gossamer.data.generated.BATCH", 32)
    settings = Settings(tokens=2048, window=32)

    def stop(name, items, total):
        for done, item in enumerate(items):
            if name == "write text" and done == 40:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        plan(str(model_folder("llama")), HALF, settings, work=tmp_path / "broken", progress=stop)
    assert len(ids_in(tmp_path / "broken")) == 32
    for name in ("broken", "whole"):
        plan(str(model_folder("llama")), HALF, settings, work=tmp_path / name)
    assert torch.equal(ids_in(tmp_path / "broken"), ids_in(tmp_path / "whole"))


@pytest.mark.parametrize("kind", ["bert", "bert_mlm"])
def test_an_encoder_asks_for_a_text(kind, refused, model_folder, tmp_path):
    said = refused("compress", model_folder(kind), "--keep", 0.6, *FEW, "--out", tmp_path / "out", early=True)
    assert "--text FILE" in said
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_tokenizer_writes_all_the_same(run, copied, load, answers, tmp_path):
    folder = copied("llama")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    out = tmp_path / "out"
    told = run("compress", folder, "--keep", 0.6, *FEW, "--out", out, "--work", tmp_path / "work")
    assert told.code == 0, told.err
    assert answers(load(out, "llama")).isfinite().all()


def test_a_model_without_a_tokenizer_cannot_read_a_text(refused, copied, tiny, tmp_path):
    folder = copied("llama")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    words = ("compress", folder, "--keep", 0.6, "--out", tmp_path / "out")
    assert "tokenizer" in refused(*words, *tiny, early=True)
    assert "tokenizer" in refused(*words, *FEW, "--test", tiny[1], early=True)


def test_evaluate_judges_by_the_writing_that_judged_the_compression(run, model_folder, tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    assert run("compress", model_folder("llama"), "--keep", 0.6, *FEW, "--out", out, "--work", work).code == 0
    told = run("evaluate", out, "--work", work, "--json")
    assert told.code == 0, told.err
    found, before = json.loads(told.out)["score"], json.loads((out / "report.json").read_text())["score"]
    assert found["protocol"] == before["protocol"]
    assert found["nats"] == pytest.approx(before["nats"], rel=1e-6)
    assert found["divergence"] == pytest.approx(before["divergence"], rel=1e-4)
    assert "own writing that judged the compression" in run("evaluate", out, "--work", work).out


def test_writing_that_comes_out_otherwise_is_not_taken_for_what_judged(run, refused, model_folder, tmp_path):
    out, work = tmp_path / "out", tmp_path / "work"
    assert run("compress", model_folder("llama"), "--keep", 0.6, *FEW, "--out", out, "--work", work).code == 0
    (path,) = work.glob("writing-*/ids.safetensors")
    write_tensors(path, {"ids": ids_in(work).flip(0)}, {})
    assert "does not write here what it wrote" in refused("evaluate", out, "--work", work)


def test_evaluate_asks_for_a_text_where_none_is_known(refused, model_folder):
    assert "--text FILE" in refused("evaluate", model_folder("llama"), "--window", 32, early=True)
