"""Models that come as Python packages: the real thing, where it is installed."""

import importlib.util
import json

import pytest
import torch

from gossamer.checkpoints.opening import PACKAGED, open_model
from gossamer.evaluation.sample import sample

pytestmark = pytest.mark.real


def installed(name):
    module, _, package = PACKAGED[name]
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    """Some thousand words of plain English, put together from parts."""
    who = ["the old sailor", "my sister", "a tired doctor", "the river", "every child", "the teacher", "our neighbour"]
    does = ["watches", "remembers", "follows", "paints", "forgets", "carries home", "asks about"]
    what = ["the quiet harbour", "a broken clock", "the first snow", "two letters", "an empty street", "the long war"]
    when = ["in the morning", "before it rains", "without a word", "year after year", "when nobody looks"]
    draw = torch.Generator().manual_seed(11)
    lines = []
    for _ in range(900):
        parts = [words[int(torch.randint(len(words), (1,), generator=draw))] for words in (who, does, what, when)]
        lines.append(" ".join(parts).capitalize() + ".")
    path = tmp_path_factory.mktemp("english") / "english.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@installed("smollm2-135m")
def test_smollm2_opens_and_writes(tmp_path_factory):
    opened = open_model("smollm2-135m", tmp_path_factory.mktemp("cache"))
    config = opened.model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (576, 30, 9)
    assert (config.num_key_value_heads, config.intermediate_size, config.vocab_size) == (3, 1536, 49152)
    assert sum(p.numel() for p in opened.model.parameters()) == 134_515_008
    assert opened.model.dtype == torch.float32
    ids = opened.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert opened.model(input_ids=ids).logits.isfinite().all()
    assert "Paris" in sample(opened.model, opened.tokenizer, "The capital of France is")


@installed("minilm-l6-v2")
def test_minilm_compresses_and_comes_back(run, load, answers, english, tmp_path):
    out = tmp_path / "out"
    words = ("--keep", 0.7, "--text", english, "--tokens", 2048, "--window", 128, "--work", tmp_path / "work")
    told = run("compress", "minilm-l6-v2", *words, "--out", out)
    assert told.code == 0, told.err
    report = json.loads((out / "report.json").read_text())
    assert report["small"]["params"] <= 0.7 * report["dense"]["params"]
    first, second = load(out, "bert"), load(out, "bert")
    assert torch.equal(answers(first), answers(second))
    assert (first.config.hidden_size, first.config.num_hidden_layers) == (384, 6)
    dense = open_model("minilm-l6-v2", tmp_path / "work")
    sentences = english.read_text().splitlines()[-8:]
    before, after = (meaning(model, dense.tokenizer, sentences) for model in (dense.model, first))
    alike = before @ after.T
    assert alike.diagonal().min() > 0.9, "the compressed model means something else"
    assert alike.argmax(1).tolist() == list(range(8))


@installed("minilm-l6-v2")
def test_minilm_in_memory_is_minilm_on_disk(english, load, answers, tmp_path):
    from gossamer import Budget, Settings, compress

    settings = Settings(text=str(english), tokens=1024, window=128)
    done = compress("minilm-l6-v2", Budget(unit="bytes", amount=80e6), tmp_path / "out", settings, work=tmp_path / "w")
    assert torch.equal(answers(load(tmp_path / "out", "bert")), answers(done.model))
    with (tmp_path / "out" / "model.safetensors").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    assert header < 50_000
    assert 79e6 < (tmp_path / "out" / "model.safetensors").stat().st_size - header <= 80e6


def meaning(model, tokenizer, sentences):
    """The mean of the last hidden states, of length one, as sentence-transformers computes it for this model."""
    batch = tokenizer(list(sentences), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
