"""Windows of text, and text that a model writes itself."""

import sys
from types import SimpleNamespace

import pytest
import torch
from contract_cases import tiny

from gossamer import data
from gossamer.errors import TextError

build_model, build_tokenizer = tiny.build_model, tiny.build_tokenizer
WORDS = " ".join(f"w{i % 61}" for i in range(100))


@pytest.mark.parametrize("length", [2, 7, 50])
def test_windows_are_disjoint_and_cover_the_text_from_its_start(length):
    tokenizer = build_tokenizer(encoder=False)
    whole = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    cut = data.cut(WORDS, "words", tokenizer, length)
    assert cut.ids.shape == (len(whole) // length, length)
    assert cut.ids.reshape(-1).tolist() == whole[: cut.ids.numel()]
    assert not cut.special_tokens


def test_an_encoders_windows_are_framed_as_it_was_trained():
    tokenizer = build_tokenizer(encoder=True)
    cut = data.cut(WORDS, "words", tokenizer, 10)
    assert (cut.ids[:, 0] == tokenizer.cls_token_id).all()
    assert (cut.ids[:, -1] == tokenizer.sep_token_id).all()
    whole = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    assert cut.ids[:, 1:-1].reshape(-1).tolist() == whole[: len(cut.ids) * 8]
    assert cut.special_tokens


def test_text_shorter_than_a_window_is_a_text_error():
    with pytest.raises(TextError, match="short has"):
        data.cut("w1 w2", "short", build_tokenizer(encoder=False), 50)


def test_the_identity_of_windows_changes_with_text_and_length_alone():
    tokenizer = build_tokenizer(encoder=False)
    one = data.cut(WORDS, "words", tokenizer, 10).identity()
    assert data.cut(WORDS, "words", tokenizer, 10).identity() == one
    assert data.cut(WORDS, "words", tokenizer, 11).identity() != one
    assert data.cut(WORDS + "!", "words", tokenizer, 10).identity() != one


@pytest.mark.parametrize("content", [b"", b" \n\t ", b"\xff\xfe\xfa"])
def test_a_text_without_words_or_in_no_utf8_is_a_text_error(tmp_path, content):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(TextError):
        data.read(str(path))


@pytest.mark.parametrize("name", ["missing.txt", "./missing", "/missing", "~/missing", "missing.md"])
def test_a_missing_text_is_a_text_error(name):
    with pytest.raises(TextError, match="no text file"):
        data.read(name)


def test_a_text_is_read_as_it_is(tmp_path):
    (tmp_path / "text.txt").write_text("für\nalle ", encoding="utf-8")
    assert data.read(str(tmp_path / "text.txt")) == "für\nalle "


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_writes_from_its_first_token_what_its_seed_decides(kind):
    model = build_model(kind)
    one, same, other = (data.generate(model, 3, 8, seed=seed) for seed in (0, 0, 1))
    assert one.shape == (3, 8) and one.dtype == torch.int64
    assert (one[:, 0] == model.config.bos_token_id).all()
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert int(one.max()) < model.config.vocab_size


def test_writing_that_goes_on_equals_writing_in_one_go(monkeypatch):
    monkeypatch.setattr("gossamer.data.generated.BATCH", 32)
    model = build_model("llama")
    kept = []
    whole = data.generate(model, 40, 5, seed=2, keep=kept.append)
    assert [len(k) for k in kept] == [32, 40]
    assert torch.equal(data.generate(model, 40, 5, seed=2, done=kept[0]), whole)
    assert torch.equal(data.generate(model, 40, 5, seed=2, done=whole), whole)


def test_a_token_follows_another_as_often_as_the_model_says():
    model = build_model("llama")
    written = data.generate(model, 3000, 2, seed=0)
    with torch.no_grad():
        chances = model(input_ids=torch.tensor([[0]])).logits[0, -1].softmax(-1)
    found = torch.bincount(written[:, 1], minlength=len(chances)) / len(written)
    assert (found - chances).abs().max() < 5 * float((chances.max() / len(written)).sqrt())
    assert float((found * chances).sum()) > 0.5 * float(chances.square().sum())


@pytest.mark.parametrize("kind", ["bert", "bert_mlm"])
def test_an_encoder_cannot_write(kind):
    with pytest.raises(TextError, match="--text"):
        data.generate(build_model(kind), 1, 8, seed=0)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("nobody/words", ("nobody/words", None, "train")),
        ("nobody/words:raw", ("nobody/words", "raw", "train")),
        ("nobody/words:raw:test", ("nobody/words", "raw", "test")),
    ],
)
def test_a_hub_data_set_is_read_by_its_name_configuration_and_split(source, asked, monkeypatch):
    heard = []

    def load_dataset(name, config, split):
        heard.append((name, config, split))
        return {"text": ["one", "two"]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert data.read(source) == "one\ntwo"
    assert heard == [asked]


def test_a_data_set_without_text_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *_, **__: {"words": ["one"]}))
    with pytest.raises(TextError, match="nobody/words is neither a file nor a data set with a column 'text'"):
        data.read("nobody/words")
