"""What errors in weights cost to second order, measured instead of composed from second moments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.sites import output_of
from gossamer.statistics._predictive import Passes
from gossamer.vocabulary import Progress, silent


def felt(
    model: nn.Module,
    errors: Mapping[str, Sequence[Tensor]],
    windows: Tensor,
    *,
    seed: int,
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """½ E[(gᵀ ΔW x)²] in nats per token, for each of the errors ΔW (m × n) of each named layer.

    The expectation of the Fisher's own quadratic form for one layer: what ½ tr(G ΔW A ΔWᵀ) is where inputs and
    gradients are independent (Martens & Grosse 2015, arXiv 1503.05671, section 3.1). `windows` (count × length) are
    token ids; `model` has frozen parameters. Errors may be of a shorter dtype than the model's: all layers' are held.
    """
    sums = {name: [0.0] * len(each) for name, each in errors.items()}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def seen(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs = args[0].detach()  # which layers share, unlike the changes they make to their outputs
            output.register_hook(lambda gradient: weighed(name, inputs, gradient))

        return seen

    def weighed(name: str, inputs: Tensor, gradient: Tensor) -> None:
        for i, error in enumerate(errors[name]):
            change = inputs @ error.to(inputs.dtype).T
            sums[name][i] += 0.5 * float((gradient * change).sum(-1, dtype=torch.float32).square().sum())

    passes = Passes(model, watched=list(errors))
    handles: list[Any] = [model.get_submodule(name).register_forward_hook(hook(name)) for name in errors]
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    handles.append(embedding.register_forward_hook(lambda _m, _i, out: out.requires_grad_()))
    generator = torch.Generator().manual_seed(seed)
    try:
        for window in progress("check", windows, len(windows)):
            outputs = passes.forward(window[None])
            output_of(outputs).backward(passes.gradient(outputs, generator))
    finally:
        for handle in handles:
            handle.remove()
    return {name: [total / windows.numel() for total in totals] for name, totals in sums.items()}
