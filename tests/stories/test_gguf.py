"""A GGUF file opens as the very model it was written from; a damaged one is refused in a sentence."""

import re

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from gossamer.checkpoints import opening
from gossamer.checkpoints.opening import open_model
from gossamer.errors import ModelError

HEADS, SHARED = 4, 2


def interleaved(weight, heads):
    """Rotary halves as llama.cpp stores them: pairs side by side."""
    m, n = weight.shape
    return np.ascontiguousarray(weight.reshape(heads, 2, m // heads // 2, n).swapaxes(1, 2).reshape(m, n))


@pytest.fixture(scope="module")
def written(model_folder, load, tmp_path_factory):
    """The tiny llama as a float32 GGUF file, with its tokenizer inside."""
    model = load(model_folder("llama"), "llama")
    config = model.config
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    vocab = AutoTokenizer.from_pretrained(model_folder("llama")).get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    tokens += ["22", *(f"<unused{i}>" for i in range(config.vocab_size - len(tokens) - 1))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    special = {"<s>", "</s>"}
    writer.add_token_types([3 if t in special else 5 if t.startswith("<unused") else 1 for t in tokens])
    writer.add_token_merges(["2 2"])
    writer.add_bos_token_id(vocab["<s>"])
    writer.add_eos_token_id(vocab["</s>"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        numbers = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            numbers = interleaved(numbers, HEADS if "q_proj" in name else SHARED)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_opens_as_the_model_it_was_written_from(written, model_folder, load, answers, tmp_path):
    opened = open_model(str(written), tmp_path)
    dense = load(model_folder("llama"), "llama")
    assert (dense.config.num_attention_heads, dense.config.num_key_value_heads) == (HEADS, SHARED)
    assert opened.model.dtype == torch.float32
    torch.testing.assert_close(answers(opened.model), answers(dense), atol=1e-5, rtol=1e-4)
    vocab = AutoTokenizer.from_pretrained(model_folder("llama")).get_vocab()
    ids = opened.tokenizer("w1 w22", add_special_tokens=False)["input_ids"]
    assert ids == [vocab["w"], vocab["1"], vocab["Ġ"], vocab["w"], len(vocab)], "the file's one merge joins 22"


def test_it_is_read_once(written, tmp_path):
    first = open_model(str(written), tmp_path)
    (folder,) = tmp_path.iterdir()
    stamps = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    second = open_model(str(written), tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == stamps
    assert second.digest == first.digest


def test_two_that_read_it_at_once_both_have_it(written, tmp_path, monkeypatch):
    """The second to finish finds that of the first."""
    whole = opening.whole

    def overtaken(path):
        monkeypatch.setattr(opening, "whole", whole)
        first.append(open_model(str(written), tmp_path))
        return whole(path)

    first = []
    monkeypatch.setattr(opening, "whole", overtaken)
    second = open_model(str(written), tmp_path)
    assert [second.digest] == [opened.digest for opened in first]
    assert len(list(tmp_path.iterdir())) == 1


def test_it_compresses_like_any_other(written, run, load, answers, tiny, work, tmp_path):
    out = tmp_path / "out"
    told = run("compress", written, "--keep", 0.6, *tiny, "--work", work, "--out", out)
    assert told.code == 0, told.err
    assert answers(load(out, "llama")).isfinite().all()
    assert not list(out.glob("*.gguf"))
    told = run("evaluate", out, "--window", 32, "--tokens", 320, "--work", work)
    assert told.code == 0, told.err


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"GGUF",
        lambda data: b"not a model at all" * 99,
        lambda data: data[:2000],
        lambda data: data[: len(data) // 2],
        lambda data: data[:200] + b"\xff" * 64 + data[264:],
    ],
    ids=["empty", "a magic word alone", "garbage", "a cut header", "cut tensors", "a broken header"],
)
def test_a_damaged_file(damage, written, refused, tiny, tmp_path):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(written.read_bytes()))
    words = ("--keep", 0.6, *tiny, "--work", tmp_path / "work", "--out", tmp_path / "out")
    said = refused("compress", path, *words)
    assert re.search(r"damaged\.gguf.*GGUF", said), said
    assert not list((tmp_path / "work").glob("*")) if (tmp_path / "work").exists() else True
    assert not (tmp_path / "out").exists()


def test_another_kind_of_gguf(refused, tiny, tmp_path):
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "spaghetti")
    writer.add_tensor("noodle.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    words = ("--keep", 0.6, *tiny, "--work", tmp_path / "work", "--out", tmp_path / "out")
    assert "other.gguf" in refused("compress", path, *words)


def test_the_reason_is_raised_to_the_library(tmp_path):
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"empty\.gguf"):
        open_model(str(tmp_path / "empty.gguf"), tmp_path / "cache")
