"""How far a compressed model is from its dense original: loss of both, and their divergence, in one pass."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from gossamer.data import Windows
from gossamer.errors import NumericsError
from gossamer.vocabulary import Progress, Score, silent

ROWS = 128
"""Positions whose probabilities are held in float32 at once."""


@torch.inference_mode()
def compare(dense: Any, rivals: Sequence[Any], windows: Windows, *, progress: Progress = silent) -> list[Score]:
    """A score for each rival: loss and KL divergence over disjoint windows, every token but the first scored.

    A model without logits (an encoder) is scored by its last hidden state. Raises `NumericsError` where a model's
    outputs are not finite.
    """
    rows: list[list[Row]] = [[] for _ in rivals]
    for ids in progress("judge", windows.ids, len(windows.ids)):
        old = _outputs(dense, ids)
        for row, rival in zip(rows, rivals, strict=True):
            row.append(_row(old, _outputs(rival, ids), ids))
    dtype = str(next(dense.parameters()).dtype).removeprefix("torch.")
    return [_score(row, {**windows.identity(), "dtype": dtype}) for row in rows]


Row = tuple[float | None, float | None, float]
"""(dense loss, rival's loss, divergence) of one window, each a mean over its positions."""


def _outputs(model: Any, ids: Tensor) -> Any:
    return model(input_ids=ids[None].to(next(model.parameters()).device))


def _row(old: Any, new: Any, ids: Tensor) -> Row:
    if getattr(old, "logits", None) is None:
        a, b = (o.last_hidden_state[0].double() for o in (old, new))
        return None, None, float(0.5 * (a - b).square().sum(-1).mean() / a.var(dim=0).mean())
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(ids), ROWS):
        p, q = (o.logits[0, start : start + ROWS].float().log_softmax(-1).cpu() for o in (old, new))
        target = ids[start + 1 : start + ROWS + 1, None]
        sums[0] -= p[: len(target)].gather(1, target).double().sum()
        sums[1] -= q[: len(target)].gather(1, target).double().sum()
        sums[2] += torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum").double()
    scored = len(ids) - 1
    return float(sums[0]) / scored, float(sums[1]) / scored, float(sums[2]) / len(ids)


def _score(rows: list[Row], protocol: dict[str, Any]) -> Score:
    divergence = sum(r[2] for r in rows) / len(rows)
    if not math.isfinite(divergence):
        raise NumericsError("The model's outputs are not finite on the test text; compress less, or in a wider format.")
    losses = [(old, new) for old, new, _ in rows if old is not None and new is not None]
    if not losses:
        return Score(nats=None, dense_nats=None, standard_error=None, divergence=divergence, protocol=protocol)
    rise = [new - old for old, new in losses]
    return Score(
        nats=fmean(new for _, new in losses),
        dense_nats=fmean(old for old, _ in losses),
        standard_error=stdev(rise) / math.sqrt(len(rise)) if len(rise) > 1 else None,
        divergence=divergence,
        protocol={
            **protocol,
            "scored_tokens": protocol["windows"] * (protocol["window"] - 1),
            "scored": "not the first",
        },
    )


@torch.inference_mode()
def mean_nats(model: Any, windows: Windows, *, progress: Progress = silent) -> float:
    """Mean loss over the windows in nats per scored token, for a model without its dense original at hand."""
    total = 0.0
    for ids in progress("judge", windows.ids, len(windows.ids)):
        logits = model(input_ids=ids[None].to(next(model.parameters()).device)).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits.float().cpu(), ids[1:]))
    return total / len(windows.ids)
