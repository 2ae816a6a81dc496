"""Distillation and healing, on their own."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from gossamer.training.distillation import ROWS, divergence
from gossamer.training.healing import schedule


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
