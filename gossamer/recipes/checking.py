"""Prices set right: what a metric quotes for one error a layer, against what that error costs on the text itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.checkpoints.opening import Opened
from gossamer.data import Windows
from gossamer.evaluation.memory import trimming
from gossamer.sites import frozen_twin, passes_dtype
from gossamer.statistics._felt import felt
from gossamer.vocabulary import Progress, silent

REFERENCE = 0.7
"""Share of a weight's numbers that the checked expression keeps."""

TOKENS = 1_024
"""Read for the check, in windows from all over the calibration text."""

MOST = 4.0
"""By which the text and the metric can differ at most: few tokens say no more."""


@dataclass(frozen=True)
class Trial:
    """One error ΔW (m × n) in a layer, and what the metric quotes for it, as a sample of all sizes of a structure."""

    structure: str
    error: Tensor
    quoted: float


def reference(costs: Sequence[int], dense: int) -> int | None:
    """The index of the cost nearest to `REFERENCE` of the dense one; None where nothing is offered."""
    return min(range(len(costs)), key=lambda i: abs(costs[i] - REFERENCE * dense), default=None)


def factors(
    opened: Opened,
    trials: Mapping[str, Sequence[Trial]],
    calibration: Windows,
    *,
    seed: int,
    tokens: int = TOKENS,
    progress: Progress = silent,
) -> dict[str, dict[str, float]]:
    """For each layer and structure, what to multiply its prices by, now that the loss has felt one of its errors.

    A Kronecker product assumes that inputs and gradients are independent. They are not, and how far from it differs
    between layers: on SmolLM2-135M queries cost half of what is quoted, MLPs in the first and last blocks twice. One
    number a layer keeps the curves exact in their metric and lets a plan trade layers at their true prices: the
    geometric mean of what was quoted and what was felt, as both err.
    """
    ids = calibration.ids
    count = min(len(ids), max(1, tokens // ids.shape[1]))
    windows = ids[torch.linspace(0, len(ids) - 1, count).long()]
    model = frozen_twin(opened.model, passes_dtype(opened.model))
    errors = {name: [trial.error for trial in each] for name, each in trials.items()}
    found = felt(model, errors, windows, seed=seed, progress=trimming(progress))
    return {
        name: {t.structure: _ratio(true, t.quoted) for t, true in zip(each, found[name], strict=True)}
        for name, each in trials.items()
    }


def _ratio(true: float, quoted: float) -> float:
    """1 where either says nothing: an error of zero, or a layer that these few tokens did not reach.

    The root, for the whole ratio over-corrects where much is removed: at kept 0.6 it gained less on SmolLM2-135M.
    """
    return min(max(true / quoted, 1 / MOST), MOST) ** 0.5 if quoted > 0 and true > 0 else 1.0
