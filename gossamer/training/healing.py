"""Healing: a short training of everything that was compressed, and of what was not, towards the dense model.

Every parameter outside dense tables of embeddings learns: factors, weights left dense, norms, biases. The passes run in
bfloat16 where the processor has it, the parameters and Adam's moments in float32.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.errors import NumericsError
from gossamer.sites import frozen_twin, output_of, passes_dtype, run
from gossamer.statistics._gather import SAVE_EVERY
from gossamer.training._steps import optimizer_of, schedule, step
from gossamer.training.distillation import divergence
from gossamer.vocabulary import Progress, silent

BATCH = 512
"""Tokens of a step, or one window where that is more: with fewer steps of more tokens a short text heals less."""
MOMENTS = ("exp_avg", "exp_avg_sq")


def learning(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that learn: all but dense tables of embeddings, which most often are the output head too."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]
    fixed = {id(p) for table in tables if table is not None for p in table.parameters(recurse=False)}
    return ((name, p) for name, p in model.named_parameters() if id(p) not in fixed and p.is_floating_point())


class State:
    """Where a healing stands: parameters in float32 with their optimizer, and the divergence at every step so far."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {name: nn.Parameter(p.detach().float().clone()) for name, p in learning(model)}
        self.optimizer = optimizer_of(self.parameters.values())
        self.divergences: list[float] = []

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to keep on disk."""
        found = {"divergences": torch.tensor(self.divergences, dtype=torch.float64)}
        for name, parameter in self.parameters.items():
            found[f"parameter {name}"] = parameter.detach()
            for moment in MOMENTS if parameter in self.optimizer.state else ():  # some have no say in the outputs
                found[f"{moment} {name}"] = self.optimizer.state[parameter][moment]
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave, for the same model."""
        self.divergences = tensors["divergences"].tolist()
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"parameter {name}"])
            moments = {m: tensors[f"{m} {name}"] for m in MOMENTS if f"{m} {name}" in tensors}
            if moments:
                self.optimizer.state[parameter] = {"step": torch.tensor(float(len(self.divergences))), **moments}

    def update(self, live: Mapping[str, nn.Parameter], size: float) -> None:
        """One step of `size` along the gradients that the passes left on `live`, which gets the new values."""
        for name, parameter in live.items():
            self.parameters[name].grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        step(self.optimizer, size)
        self.load(live)

    @torch.no_grad()
    def load(self, live: Mapping[str, nn.Parameter]) -> None:
        """Put the parameters into a model of any number format."""
        for name, parameter in live.items():
            parameter.copy_(self.parameters[name])


def heal(
    model: nn.Module,
    teacher: nn.Module,
    windows: Tensor,
    *,
    rate: float,
    state: State,
    keep: Callable[[State], None],
    progress: Progress = silent,
) -> None:
    """Train `model` in place on `windows` (count × length token ids), a batch of them a step, towards `teacher`.

    `rate` is the largest step relative to a tensor's size. The training goes on where `state` stands; `keep` is called
    with it every minute or so, which is all that an interruption can cost. Raises `NumericsError` where the divergence
    is not finite.
    """
    dtype = passes_dtype(model)
    wise, pupil = frozen_twin(teacher, dtype), frozen_twin(model, dtype)
    live = dict(learning(pupil))
    for parameter in live.values():
        parameter.requires_grad_()
    state.load(live)
    saved, pause = time.monotonic(), SAVE_EVERY
    batches = windows.split(max(1, BATCH // windows.shape[1]))
    left = batches[len(state.divergences) :]
    for batch in progress("heal", left, len(left)):
        done = len(state.divergences)
        state.divergences.append(_passes(pupil, wise, batch, done))
        state.update(live, rate * schedule(done, len(batches)))
        if time.monotonic() - saved > pause:
            started = time.monotonic()
            keep(state)
            saved = time.monotonic()
            pause = max(SAVE_EVERY, 20 * (saved - started))
    state.load(dict(learning(model)))


def _passes(pupil: Any, wise: Any, ids: Tensor, step: int) -> float:
    """The divergence on one window; its gradients are left on the pupil's parameters."""
    with torch.no_grad():
        taught = run(wise, ids)
    said = run(pupil, ids)
    value, gradient = divergence(taught, said)
    if not math.isfinite(value):
        raise NumericsError(
            f"Healing diverged: after {step} steps the model's outputs are not finite. Nothing was written to --out; "
            "use a smaller --rate."
        )
    output_of(said).backward(gradient)
    return value
