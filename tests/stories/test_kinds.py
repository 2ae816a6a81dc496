"""Models of other kinds and files with odd names: they work, or they are refused in a sentence that names them."""

import json

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERT = {**SMALL, "vocab_size": 272, "max_position_embeddings": 64}
T5 = {"vocab_size": 272, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
OTHERS = {
    "an encoder-decoder": lambda: T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)),
    "the encoder of an encoder-decoder": lambda: T5EncoderModel(T5Config(**T5)),
    "a model of images": lambda: ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=8)),
    "a classifier": lambda: BertForSequenceClassification(BertConfig(**BERT, num_labels=3)),
    "a regression": lambda: BertForSequenceClassification(BertConfig(**BERT, num_labels=1)),
    "a tagger": lambda: BertForTokenClassification(BertConfig(**BERT, num_labels=3)),
    "a reader": lambda: BertForQuestionAnswering(BertConfig(**BERT)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_of_another_kind(kind, run, model_folder, tiny, tmp_path):
    torch.manual_seed(0)
    model = OTHERS[kind]()
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(model_folder("bert")).save_pretrained(tmp_path / "model")
    words = ("--keep", 0.6, *tiny, "--work", tmp_path / "work", "--out", tmp_path / "out")
    told = run("compress", tmp_path / "model", *words)
    if told.code == 0:
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["small"]["params"] <= 0.6 * report["dense"]["params"]
        return
    line = told.err.strip().splitlines()[-1]  # after the steps that had begun
    assert line.startswith("error: ")
    assert type(model).__name__ in line or str(tmp_path / "model") in line, line
    assert not (tmp_path / "out").exists()


def test_folders_with_odd_names(run, copied, load, answers, text_file, work, tmp_path):
    """Spaces, umlauts, and what a terminal library might take for its markup."""
    folder = copied("llama").rename(tmp_path / "Modell [bold] größer 模型")
    text = tmp_path / "ein Text [red].txt"
    text.write_bytes(text_file.read_bytes())
    out = tmp_path / "klein [v2] ü"
    words = ("--keep", 0.6, "--text", text, "--tokens", 1024, "--window", 32, "--work", work, "--out", out)
    told = run("compress", folder, *words)
    assert told.code == 0, told.err
    assert answers(load(out, "llama")).isfinite().all()
    for path in (folder, out):
        assert "".join(path.name.split()) in "".join(told.out.split()), "what is printed is not the name that was given"


@pytest.mark.parametrize("command", ["compress", "evaluate"])
def test_text_that_looks_like_markup(command, run, compressed, model_folder, work, tmp_path):
    """Chat models write [/INST]; a terminal library takes such words for its own."""
    text = tmp_path / "chat.txt"
    text.write_text("[/b] [red] w1 " * 400)
    words = ("--text", text, "--window", 32, "--work", work)
    if command == "compress":
        told = run("compress", model_folder("llama"), "--keep", 0.6, *words, "--out", tmp_path / "out")
    else:
        told = run("evaluate", compressed("llama").folder, *words, "--tokens", 320)
    assert told.code == 0, told.err
    assert "[/b]" in told.out
    assert "[red]" in told.out
