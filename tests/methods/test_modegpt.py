"""MoDeGPT: nothing but smaller dense layers comes out, in all kinds of models."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import gossamer
from gossamer.checkpoints.plugin import expressions_of

BIGGER = ("dense", "placed_rows", "picked_columns")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gpt2"])
def test_every_pair_is_narrowed_and_nothing_is_added(kind, model_folder, text_file, tmp_path):
    settings = gossamer.settings("modegpt", text=str(text_file), tokens=1024, window=32)
    budget = gossamer.Budget(unit="params", amount=0.7)
    done = gossamer.compress(str(model_folder(kind)), budget, tmp_path / "out", settings, work=tmp_path / "work")
    found = expressions_of(done.model)
    assert {expression.kind for expression in found.values()} <= set(BIGGER)
    narrowed = {option.structure for option in done.plan.choices.values()}
    scores = {"query_key"} if kind in ("llama", "qwen2") else set()
    assert narrowed == {"leverage_neurons", "value_output"} | scores | (set() if scores else narrowed & {"dense"})
    assert any("query_key" in note for note in done.report.notes) == (not scores)
    assert all(len(list(expression.parameters())) == 1 for expression in found.values())
    ids = torch.arange(20)[None]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, done.model(input_ids=ids).logits)
    prompt = torch.arange(4)[None]
    written = again.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False)
    assert written.shape == (1, 8)
