"""A model that remembers says the same as the first time, and keeps no more than it needs for that."""

import pytest
import torch
from contract_cases import tiny
from transformers import GraniteConfig, GraniteForCausalLM

from gossamer.evaluation.recalled import Recalled

BUILDERS, SMALL, build_model = tiny.BUILDERS, tiny.SMALL, tiny.build_model

IDS = torch.arange(1, 49)[None]


@pytest.mark.parametrize("kind", BUILDERS)
def test_what_was_said_is_said_again_without_running(kind, tmp_path, monkeypatch):
    model = build_model(kind)
    name = "logits" if model.get_output_embeddings() else "last_hidden_state"
    judge = Recalled(model, tmp_path)
    with torch.inference_mode():
        first = judge(input_ids=IDS)
        monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("it ran again"))
        again = judge(input_ids=IDS)
    assert torch.equal(getattr(again, name), getattr(first, name))
    kept = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert kept < 4 * IDS.numel() * SMALL["hidden_size"] + 1_000


def test_a_model_that_changes_its_logits_after_the_head_runs_again(tmp_path):
    torch.manual_seed(0)
    model = GraniteForCausalLM(GraniteConfig(vocab_size=tiny.VOCAB, num_key_value_heads=2, logits_scaling=3.0, **SMALL))
    judge = Recalled(model.eval(), tmp_path)
    with torch.inference_mode():
        first, again = (judge(input_ids=IDS).logits for _ in range(2))
    assert torch.equal(first, again)
    assert not list(tmp_path.iterdir())
