"""One pass over calibration text: forward, draw labels, backward, and add what each layer saw to the sums."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import ModelError, NumericsError
from gossamer.sites import output_of, run
from gossamer.statistics._base import BOTH, GRADIENTS, INPUTS
from gossamer.statistics._predictive import Passes
from gossamer.statistics._sums import Sums, statistic, statistic_at
from gossamer.vocabulary import Progress, Site, silent

SAVE_EVERY = 60.0
"""Seconds of work that an interruption may cost, or twenty times what saving takes, whichever is more."""


def gather(
    model: nn.Module,
    sites: Sequence[Site],
    windows: Tensor,
    needs: Sequence[str],
    *,
    seed: int,
    batch_tokens: int = 512,
    sums: Sums | None = None,
    keep: Callable[[Sums], None] | None = None,
    progress: Progress = silent,
) -> Sums:
    """The sums of the statistics `needs` over `windows` (count × length token ids).

    `model` must have frozen parameters (see `frozen_twin`). With `sums` the pass goes on after the windows these
    already hold; `keep` is called with the sums every minute or so, which is all that an interruption can cost.
    Raises `NumericsError` for inputs or gradients that are not finite, naming the layer.
    """
    device = next(model.parameters()).device
    sums = sums or Sums.zero(sites, needs, device)
    size = max(1, batch_tokens // windows.shape[1])
    if sums.windows >= len(windows):
        return sums
    batches = windows[sums.windows :].split(size)
    observer = _Observer(sums, sites)
    passes = Passes(model, watched=[site.name for site in sites])
    handles = observer.attach(model)
    saved, pause = time.monotonic(), SAVE_EVERY
    try:
        for batch in progress("measure", batches, len(batches)):
            # Seeded by position, so that a resumed pass draws the labels it would have drawn.
            generator = torch.Generator().manual_seed(seed * 1_000_003 + sums.windows)
            outputs = passes.forward(batch)
            if observer.gradients and not output_of(outputs).requires_grad:
                raise ModelError(
                    f"{type(model).__name__} does not pass its input embeddings on to its output, so gradients cannot "
                    "be measured; use --metric activation."
                )
            if observer.gradients:
                output_of(outputs).backward(passes.gradient(outputs, generator))
            sums.tokens += batch.numel()
            sums.windows += len(batch)
            if keep and time.monotonic() - saved > pause:
                started = time.monotonic()
                keep(sums)
                saved = time.monotonic()
                pause = max(SAVE_EVERY, 20 * (saved - started))
    finally:
        for handle in handles:
            handle.remove()
    return sums


class _Observer:
    """Hooks that add to the sums."""

    def __init__(self, sums: Sums, sites: Sequence[Site]) -> None:
        self.sums = sums
        self.sites = sites
        self.by_reads = {r: [n for n in sums.totals if statistic(n).reads == r] for r in (INPUTS, GRADIENTS, BOTH)}
        self.gradients = bool(self.by_reads[GRADIENTS] or self.by_reads[BOTH])

    def attach(self, model: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        modules = dict(model.named_modules())
        handles = []
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        # Gradients start here: the parameters have none, so the graph needs a first differentiable tensor.
        if self.gradients:
            handles.append(embedding.register_forward_hook(lambda _m, _i, out: out.requires_grad_()))
        return [*handles, *(modules[s.name].register_forward_hook(self._hook(s)) for s in self.sites)]

    def _hook(self, site: Site) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def seen(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs = args[0].detach().reshape(-1, *(() if site.role == "embedding" else site.shape[1:]))
            self.sums.counts[site.name] += len(inputs)
            if site.reads == site.name:
                finite = _finite(inputs, site, "inputs")
                for name in self.by_reads[INPUTS]:
                    statistic_at(name, site).add(self.sums.totals[name][site.name], finite, None)
            if self.gradients and output.requires_grad:
                kept = inputs if self.by_reads[BOTH] else None
                output.register_hook(lambda gradient: self._gradient(site, kept, gradient))

        return seen

    def _gradient(self, site: Site, inputs: Tensor | None, gradient: Tensor) -> None:
        gradient = _finite(gradient.detach().reshape(-1, site.applied[0]), site, "gradients")
        for name in self.by_reads[GRADIENTS]:
            statistic_at(name, site).add(self.sums.totals[name][site.name], None, gradient)
        for name in self.by_reads[BOTH]:
            statistic(name).add(self.sums.totals[name][site.name], inputs, gradient)


def _finite(values: Tensor, site: Site, what: str) -> Tensor:
    """Token ids as they are, anything else in float32, once for all that is added up from it."""
    values = values.float() if values.is_floating_point() else values
    if not torch.isfinite(values.sum()):
        raise NumericsError(
            f"{site.name}: its {what} are not finite on the calibration text; check the model's weights, or run it in "
            "a wider number format."
        )
    return values


def shared_inputs(model: nn.Module, names: Sequence[str], tokens: Tensor) -> tuple[Any, Mapping[str, str]]:
    """Run a few tokens: the model's outputs, and for each named module the first one fed by the very same tensor."""
    modules = dict(model.named_modules())
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    alive: list[Tensor] = []  # keeps addresses from being used again

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            alive.append(args[0])
            found.setdefault(name, first.setdefault(id(args[0]), name))

        return hook

    handles = [modules[name].register_forward_pre_hook(note(name)) for name in names]
    try:
        with torch.no_grad():
            outputs = run(model, tokens)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, found
