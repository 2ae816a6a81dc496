"""Distillation, healing and refining, on their own."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers import AlbertConfig, AlbertModel, LlamaConfig, LlamaForCausalLM

from gossamer.errors import ModelError
from gossamer.sites import run
from gossamer.training import refining
from gossamer.training._steps import schedule
from gossamer.training.distillation import ROWS, divergence


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tokens", [5, ROWS, ROWS + 3])
def test_the_gradient_at_the_logits_is_that_of_the_divergence(tokens):
    old, new = drawn(2, tokens, 11, seed=0), drawn(2, tokens, 11, seed=1).requires_grad_()
    kl = F.kl_div(new.log_softmax(-1), old.log_softmax(-1), log_target=True, reduction="none").sum(-1).mean()
    kl.backward()
    value, gradient = divergence(SimpleNamespace(logits=old), SimpleNamespace(logits=new))
    assert value == pytest.approx(kl.item(), rel=1e-6)
    torch.testing.assert_close(gradient, new.grad)


def test_the_gradient_at_a_hidden_state_is_that_of_the_divergence():
    old, new = drawn(2, 7, 5, seed=0), drawn(2, 7, 5, seed=1).requires_grad_()
    loss = (0.5 * (new - old).square().sum(-1) / old.flatten(0, 1).var(dim=0).mean()).mean()
    loss.backward()
    value, gradient = divergence(SimpleNamespace(last_hidden_state=old), SimpleNamespace(last_hidden_state=new))
    assert value == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(gradient, new.grad)


def test_a_model_that_says_the_same_learns_nothing():
    logits = drawn(1, 9, 6, seed=0)
    value, gradient = divergence(SimpleNamespace(logits=logits), SimpleNamespace(logits=logits.clone()))
    assert abs(value) < 1e-7
    assert not gradient.any()


@pytest.mark.parametrize("steps", [1, 2, 30, 400])
def test_steps_rise_to_the_whole_and_fall_towards_nothing(steps):
    sizes = [schedule(step, steps) for step in range(steps)]
    top = sizes.index(max(sizes))
    assert max(sizes) == 1
    assert all(a < b for a, b in pairwise(sizes[: top + 1]))
    assert all(a >= b for a, b in pairwise(sizes[top:]))
    assert min(sizes) > 0
    if steps > 20:
        assert sizes[0] < 0.6
        assert sizes[-1] < 0.01


@pytest.fixture
def pair(monkeypatch):
    """(a model of three blocks, the same with noise on its weights), with passes in float32."""
    monkeypatch.setattr(refining, "passes_dtype", lambda _: torch.float32)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    dense, noisy = LlamaForCausalLM(config).eval(), LlamaForCausalLM(config).eval()
    noisy.load_state_dict(dense.state_dict())
    with torch.no_grad():
        for parameter in noisy.model.layers.parameters():
            parameter.add_(0.3 * parameter.std(correction=0) * torch.randn_like(parameter))
    return dense, noisy


BLOCKS = ["model.layers.0", "model.layers.1", "model.layers.2"]
WINDOWS = torch.randint(0, 50, (64, 16), generator=torch.Generator().manual_seed(1))


def taught(dense, noisy, rate=0.003, known=(), blocks=BLOCKS):
    """The parameters that were kept for every block, after refining `noisy`."""
    kept = dict(known)
    refining.refine(noisy, dense, blocks, WINDOWS, rate=rate, recall=kept.get, keep=kept.__setitem__)
    return kept


def entering_and_leaving(model):
    """What goes into and comes out of every block, over all windows."""
    found = []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, args, out: found.append((args[0], out)))
        for name in BLOCKS
    ]
    with torch.no_grad():
        run(model, WINDOWS)
    for handle in handles:
        handle.remove()
    return found


def test_blocks_learn_from_what_the_refined_ones_before_give_towards_what_the_dense_model_has_there(pair, monkeypatch):
    dense, noisy = pair
    seen = []
    fit = refining._fit

    def watched(block, learning, calls, targets, *others):
        seen.append((torch.cat([args[0] for args, _ in calls]), torch.cat(list(targets))))
        fit(block, learning, calls, targets, *others)

    monkeypatch.setattr(refining, "BATCH", 64)
    monkeypatch.setattr(refining, "_fit", watched)
    taught(dense, noisy)
    for (given, target), (entering, _), (_, leaving) in zip(
        seen, entering_and_leaving(noisy), entering_and_leaving(dense), strict=True
    ):
        torch.testing.assert_close(given, entering, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(target, leaving, rtol=1e-4, atol=1e-6)


def test_a_block_hands_on_what_its_stored_parameters_give(pair, monkeypatch):
    dense, noisy = (model.bfloat16() for model in pair)
    passed, handed = refining._Stream.passed, []

    def watched(stream, block, calls):
        handed.append(torch.cat(passed(stream, block, calls)))
        return [handed[-1]]

    monkeypatch.setattr(refining._Stream, "passed", watched)
    monkeypatch.setattr(refining, "_fit", lambda block, learning, *_: [p.mul_(1.001) for p in learning])
    with torch.no_grad():
        taught(dense, noisy, blocks=BLOCKS[:1])
    leaving = entering_and_leaving(noisy.float())[0][1]
    torch.testing.assert_close(handed[1], leaving, rtol=1e-5, atol=1e-6)


def test_every_block_comes_closer(pair, monkeypatch):
    monkeypatch.setattr(refining, "BATCH", 64)
    dense, noisy = pair
    wanted, before = entering_and_leaving(dense), entering_and_leaving(noisy)
    taught(dense, noisy)
    for (_, target), (_, old), (_, new) in zip(wanted, before, entering_and_leaving(noisy), strict=True):
        assert (new - target).norm() < 0.9 * (old - target).norm()


def test_blocks_outside_the_list_and_the_dense_model_are_left_alone(pair):
    dense, noisy = pair
    before = {**dense.state_dict()}, {name: t.clone() for name, t in noisy.state_dict().items()}
    taught(dense, noisy, blocks=BLOCKS[1:2])
    assert all(torch.equal(t, before[0][name]) for name, t in dense.state_dict().items())
    changed = {name for name, t in noisy.state_dict().items() if not torch.equal(t, before[1][name])}
    assert changed == {name for name in before[1] if name.startswith(BLOCKS[1] + ".")}


def test_a_block_that_is_known_is_not_trained_again(pair):
    dense, noisy = pair
    known = {BLOCKS[0]: {name: torch.full_like(p, 0.01) for name, p in noisy.model.layers[0].named_parameters()}}
    taught(dense, noisy, known=known)
    assert all((p == 0.01).all() for p in noisy.model.layers[0].parameters())


def test_a_model_that_is_its_teacher_stays_as_it_is(pair):
    dense, _ = pair
    before = {name: t.clone() for name, t in dense.state_dict().items()}
    taught(dense, dense)
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-3, atol=1e-5)


def test_blocks_are_found_in_the_order_they_run_in_and_only_those_that_hold_something(pair):
    _, model = pair
    ids = WINDOWS[:1]
    named = ["model.layers.2.mlp.up_proj", "model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj", "lm_head"]
    assert refining.blocks_of(model, named, ids) == [BLOCKS[0], BLOCKS[2]]
    with pytest.raises(ModelError, match="No block"):
        refining.blocks_of(model, ["lm_head"], ids)


def test_a_block_that_runs_again_and_again_is_refused():
    config = AlbertConfig(
        vocab_size=50,
        embedding_size=8,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    model = AlbertModel(config).eval()
    name = next(name for name, _ in model.named_modules() if name.endswith("ffn"))
    with pytest.raises(ModelError, match="more than once"):
        refining.blocks_of(model, [name], WINDOWS[:1])
