"""How far a compressed model is from its dense original: loss of both, and their divergence, in one pass."""

import math
from typing import Any

import torch
from torch import Tensor

from gossamer.data import Windows
from gossamer.errors import NumericsError
from gossamer.vocabulary import Progress, Score, silent

ROWS = 512
"""Positions whose probabilities are held in float32 at once."""


@torch.inference_mode()
def compare(dense: Any, small: Any, windows: Windows, *, progress: Progress = silent) -> Score:
    """Mean loss and KL divergence over disjoint windows, every token but the first of each scored.

    A model without logits (an encoder) is scored by its last hidden state. Raises `NumericsError` where a model's
    outputs are not finite.
    """
    rows = [_window(dense, small, ids[None]) for ids in progress("judge", windows.ids, len(windows.ids))]
    divergence = sum(r[2] for r in rows) / len(rows)
    if not math.isfinite(divergence) or not math.isfinite(sum(r[1] for r in rows)):
        raise NumericsError("The model's outputs are not finite on the test text; compress less, or in a wider format.")
    protocol = {**windows.identity(), "dtype": str(next(small.parameters()).dtype).removeprefix("torch.")}
    if rows[0][0] is None:
        return Score(nats=None, dense_nats=None, standard_error=None, divergence=divergence, protocol=protocol)
    old, new = (torch.tensor([r[k] for r in rows], dtype=torch.float64) for k in (0, 1))
    spread = float((new - old).std() / math.sqrt(len(rows))) if len(rows) > 1 else None
    return Score(
        nats=float(new.mean()),
        dense_nats=float(old.mean()),
        standard_error=spread,
        divergence=divergence,
        protocol={**protocol, "scored_tokens": windows.ids.numel() - len(windows.ids), "scored": "all but the first"},
    )


def _window(dense: Any, small: Any, ids: Tensor) -> tuple[float | None, float, float]:
    """(dense loss, compressed loss, divergence) of one window, each a mean over its positions."""
    old, new = (m(input_ids=ids.to(next(m.parameters()).device)) for m in (dense, small))
    if getattr(old, "logits", None) is None:
        a, b = (o.last_hidden_state[0].double() for o in (old, new))
        return None, 0.0, float(0.5 * (a - b).square().mean() / a.var(dim=0).mean()) * a.shape[-1]
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, ids.shape[1], ROWS):
        p, q = (o.logits[0, start : start + ROWS].float().log_softmax(-1).cpu() for o in (old, new))
        target = ids[0, start + 1 : start + ROWS + 1, None].cpu()
        sums[0] -= p[: len(target)].gather(1, target).double().sum()
        sums[1] -= q[: len(target)].gather(1, target).double().sum()
        sums[2] += (p.exp() * (p - q)).sum(-1).double().sum()
    scored = ids.shape[1] - 1
    return float(sums[0]) / scored, float(sums[1]) / scored, float(sums[2]) / ids.shape[1]


@torch.inference_mode()
def mean_nats(model: Any, windows: Windows, *, progress: Progress = silent) -> float:
    """Mean loss over the windows in nats per scored token, for a model without its dense original at hand."""
    total = 0.0
    for ids in progress("judge", windows.ids, len(windows.ids)):
        logits = model(input_ids=ids[None].to(next(model.parameters()).device)).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits.float().cpu(), ids[1:]))
    return total / len(windows.ids)
