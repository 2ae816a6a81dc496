"""A short run of a model, to see what its layers have to do with one another."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gossamer import sites as hosts
from gossamer.vocabulary import Site

TOKENS = 8


def run_once(model: nn.Module) -> Tensor:
    """The model's predictions for a few tokens."""
    device = next(model.parameters()).device
    with torch.no_grad():
        return hosts.output_of(hosts.run(model, torch.arange(TOKENS, device=device)[None])).float()


def in_order(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """The sites as a run of the model reaches them."""
    reached: list[Site] = []
    handles: list[Any] = [
        model.get_submodule(s.name).register_forward_pre_hook(lambda _m, _a, s=s: reached.append(s)) for s in sites
    ]
    run_once(model)
    for handle in handles:
        handle.remove()
    return list(dict.fromkeys(reached))


def sole_readers(order: Sequence[Site]) -> list[Site]:
    """The sites whose input no other site reads."""
    readers = Counter(site.reads for site in order)
    return [site for site in order if readers[site.reads] == 1]


def form(*sites: Site) -> tuple[Any, ...]:
    """What corresponding sites of repeated blocks have in common."""
    return tuple((site.name.rpartition(".")[2], site.shape) for site in sites)


def same(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs agree but for rounding."""
    return bool((found - expected).abs().max() <= 1e-3 * expected.abs().max())
