"""Tiny, randomly initialised models of every kind, built from their configs; no download, no data."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WORDS = 61
VOCAB = 272
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def _llama():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            max_position_embeddings=64,
            bos_token_id=0,
            **SMALL,
        )
    )


def _llama_untied():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, num_key_value_heads=4, tie_word_embeddings=False, max_position_embeddings=64, **SMALL
        )
    )


def _qwen2():
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCAB, num_key_value_heads=2, max_position_embeddings=64, **SMALL))


def _qwen3():
    return Qwen3ForCausalLM(
        Qwen3Config(vocab_size=VOCAB, num_key_value_heads=2, head_dim=8, max_position_embeddings=64, **SMALL)
    )


def _gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0))


def _bert():
    return BertModel(BertConfig(vocab_size=VOCAB, max_position_embeddings=64, **SMALL))


def _bert_mlm():
    return BertForMaskedLM(BertConfig(vocab_size=VOCAB, max_position_embeddings=64, **SMALL))


BUILDERS = {
    "llama": _llama,
    "llama_untied": _llama_untied,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gpt2": _gpt2,
    "bert": _bert,
    "bert_mlm": _bert_mlm,
}


def build_model(kind: str):
    """A tiny model with weights large enough that its layers matter."""
    torch.manual_seed(0)
    model = BUILDERS[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.15)
    return model


def build_tokenizer(encoder: bool):
    """Word pieces for an encoder, bytes for a causal model: the forms that their own tokenizer classes expect."""
    if encoder:
        words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", *(f"w{i}" for i in range(WORDS))]
        return BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<s>", "</s>", *letters])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A function: kind → a saved folder with a tiny model of that kind and a tokenizer."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            build_model(kind).save_pretrained(made[kind])
            build_tokenizer(kind.startswith("bert")).save_pretrained(made[kind])
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """A text of 4,000 words with some structure: each word leans on the one before it."""
    generator = torch.Generator().manual_seed(7)
    words, at = [], 0
    for jump in torch.randint(1, 9, (4000,), generator=generator).tolist():
        at = (at * 3 + jump) % WORDS
        words.append(f"w{at}")
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(words), encoding="utf-8")
    return path
