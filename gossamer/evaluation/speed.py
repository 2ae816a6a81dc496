"""How fast models are on the machine at hand: the same window through each of them, one pass of all after the other."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gossamer.sites import run

TOKENS = 128
"""Read at once: enough for products of matrices to be what takes the time."""

PASSES = 3
"""Of each model. The fastest counts, as what else the machine does only ever slows one down."""


@torch.inference_mode()
def tokens_a_second(models: Sequence[Any], ids: Tensor) -> list[float]:
    """For each model the tokens of one window (`ids`, length) that it scores in a second.

    This is reading, all tokens of a window at once and none in a batch. Writing token by token is another matter, and
    so is what a compiler or an engine would make of the model.
    """
    best = [float("inf")] * len(models)
    for _ in range(PASSES):
        for i, model in enumerate(models):
            there = ids[None].to(next(model.parameters()).device)
            started = time.perf_counter()
            run(model, there)
            if there.device.type != "cpu":
                torch.accelerator.synchronize()
            best[i] = min(best[i], time.perf_counter() - started)
    return [len(ids) / seconds for seconds in best]
