"""Refinement: block after block, everything in a compressed block is trained to give what the dense block gives.

Block reconstruction (Li et al. 2021, "BRECQ", arXiv 2102.05426) without labels: the mean squared error of a block's
outputs, each token's relative to its own size, since the norms that read them divide by it and a few tokens are a
hundred times as large as the others. A block's inputs are those that the compressed blocks before it give, since it
will see no others; its target is what the dense model has at that place, so that it also makes up for what was lost
before it (as in Li et al. 2025, "GPTAQ", arXiv 2504.02692). The products are in bfloat16 where the processor has it;
what passes from block to block, the parameters and Adam's moments are in float32. A block that is done hands on what
its parameters give as they are stored.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import ModelError, NumericsError
from gossamer.sites import block_of, frozen_twin, layout_of, passes_dtype, run
from gossamer.training._steps import optimizer_of, schedule, step
from gossamer.vocabulary import Progress, silent

BATCH = 512
"""Tokens of a step, or one window where that is more."""

TINY = 1e-12
"""The least square that an error is divided by."""

STEPS = 128
"""The least that a block takes: it reads a short text again and again. Three times as many bring little more."""


def blocks_of(model: nn.Module, names: Sequence[str], ids: Tensor) -> list[str]:
    """The outermost blocks that hold the modules `names`, in the order in which a run on `ids` reaches them.

    Raises `ModelError` where there is none, one that a run passes more than once, or a stream of another width.
    """
    if layout_of(model) is not None:
        raise ModelError(
            "The model's residual stream was sliced, so its blocks have no dense outputs to learn; use heal instead."
        )
    holding = {_outermost(model, name) for name in names} - {""}
    reached: list[str] = []
    handles = [model.get_submodule(b).register_forward_pre_hook(lambda _m, _a, b=b: reached.append(b)) for b in holding]
    try:
        with torch.no_grad():
            run(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    again = next((name for name, times in Counter(reached).items() if times > 1), None)
    if again is not None:
        raise ModelError(f"{again} runs more than once a pass, so it cannot be refined by itself; use heal instead.")
    if not reached:
        raise ModelError("No block of the model was compressed, so there is nothing to refine; use heal instead.")
    return reached


def _outermost(model: nn.Module, name: str) -> str:
    found = ""
    while name := block_of(model, name):
        found = name
    return found


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Everything that a block was called with."""


class _Reached(Exception):  # noqa: N818  (no error: what was looked for)
    """A pass has come to the block in question."""


class _Stream:
    """A model's way through its blocks, one block at a time, for all batches of windows at once.

    The model itself calls every block, with the masks and positions that are its own affair; the blocks already passed
    do no work then, but hand out what they gave.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Tensor]) -> None:
        self.model = model
        self.batches = batches
        self.given: list[Any] = []
        self.at = 0

    @torch.no_grad()
    def calls(self, block: str) -> list[Call]:
        """What reaches a block in every batch."""
        found: list[Call] = []

        def reached(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append((args, kwargs))
            raise _Reached

        handle = self.model.get_submodule(block).register_forward_pre_hook(reached, with_kwargs=True)
        try:
            for at, ids in enumerate(self.batches):
                self.at = at
                with suppress(_Reached):
                    run(self.model, ids)
        finally:
            handle.remove()
        return found

    @torch.no_grad()
    def passed(self, block: str, calls: Sequence[Call]) -> list[Tensor]:
        """The outputs of a block, which from now on hands them out."""
        module = self.model.get_submodule(block)
        self.given = [module(*args, **kwargs) for args, kwargs in calls]
        module.forward = lambda *_args, **_kwargs: self.given[self.at]
        return [_hidden(output) for output in self.given]


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def refine(
    model: nn.Module,
    teacher: nn.Module,
    blocks: Sequence[str],
    windows: Tensor,
    *,
    rate: float,
    recall: Callable[[str], Mapping[str, Tensor] | None],
    keep: Callable[[str, Mapping[str, Tensor]], None],
    progress: Progress = silent,
) -> None:
    """Train the `blocks` of `model` in place, in this order, on `windows` (count × length token ids) like `teacher`.

    Each block reads all of them, a short text more than once. `rate` is the largest step relative to a tensor's size.
    `keep` is called with the parameters of every block that is done, and a block that `recall` knows is not trained
    again. Raises `NumericsError` where an error is not finite.
    """
    batches = windows.split(max(1, BATCH // windows.shape[1]))
    dtype = passes_dtype(model)
    pupil, wise = (_Stream(frozen_twin(m, torch.float32), batches) for m in (model, teacher))
    settled: set[nn.Parameter] = set()
    for name in progress("refine", blocks, len(blocks)):
        block, live = pupil.model.get_submodule(name), model.get_submodule(name)
        calls, targets = pupil.calls(name), wise.passed(name, wise.calls(name))
        done = recall(name)
        if done is None:
            # What an earlier block has learned and this one shares stays, since the earlier one was fitted with it.
            learning = [p for p in block.parameters() if p.is_floating_point() and p not in settled]
            _fit(block, learning, calls, targets, rate, dtype, name)
            done = {key: p.detach().clone() for key, p in block.named_parameters()}
            keep(name, done)
        with torch.no_grad():
            for key, parameter in live.named_parameters():
                parameter.copy_(done[key])
                block.get_parameter(key).copy_(parameter)  # as it is stored, since the next block will see that
        settled.update(block.parameters())
        pupil.passed(name, calls)


def _fit(
    block: nn.Module,
    learning: Sequence[nn.Parameter],
    calls: Sequence[Call],
    targets: Sequence[Tensor],
    rate: float,
    dtype: torch.dtype,
    name: str,
) -> None:
    """A step for each call, and again until there are enough, for the parameters `learning`."""
    for parameter in learning:
        parameter.requires_grad_()
    optimizer = optimizer_of(learning)
    steps = max(STEPS, len(calls))
    for done in range(steps):
        (args, kwargs), target = calls[done % len(calls)], targets[done % len(calls)]
        with torch.autocast(target.device.type, dtype, enabled=dtype != torch.float32):
            output = _hidden(block(*args, **kwargs))
        error = ((output.float() - target).square().sum(-1) / target.square().sum(-1).clamp_min(TINY)).mean()
        if not math.isfinite(error.item()):
            raise NumericsError(
                f"Refining {name} diverged: after {done} steps its outputs are not finite. Nothing was written to "
                "--out; use a smaller --rate."
            )
        optimizer.zero_grad()
        error.backward()
        step(optimizer, rate * schedule(done, steps))
    for parameter in learning:
        parameter.requires_grad_(False)
