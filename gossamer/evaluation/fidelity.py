"""How far a compressed model is from its dense original: loss of both, and their divergence, in one pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from gossamer.data import Windows
from gossamer.errors import NumericsError
from gossamer.vocabulary import Progress, Score, silent

ROWS = 128
"""Positions whose probabilities are held in float32 at once."""


Row = tuple[float | None, float | None, Tensor]
"""(dense loss, rival's loss, each a mean over positions; divergence at every position) of one window."""

CLEAR = 3.0
"""Standard errors by which a rival must trail the leader to leave a race."""


@dataclass(frozen=True)
class Race:
    """Who won (an index), the winner's score, and every rival's divergence over the first `windows`, which all ran."""

    best: int
    score: Score
    divergences: tuple[float, ...]
    windows: int


def compare(dense: Any, rivals: Sequence[Any], windows: Windows, *, progress: Progress = silent) -> list[Score]:
    """A score for each rival: loss and KL divergence over disjoint windows, every token but the first scored.

    A model without logits (an encoder) is scored by its last hidden state. Raises `NumericsError` where a model's
    outputs are not finite.
    """
    return [_score(rows, dense, windows) for rows in _rows(dense, rivals, windows, math.inf, progress)]


def race(dense: Any, rivals: Sequence[Any], windows: Windows, *, progress: Progress = silent) -> Race:
    """The rival of least divergence; one that clearly trails after a window is scored no further.

    Clearly: its divergence exceeds the leader's by `CLEAR` standard errors of the difference, paired over positions.
    Raises as `compare` does.
    """
    rows = _rows(dense, rivals, windows, CLEAR, progress)
    shared = min(map(len, rows))
    best = min((i for i in range(len(rows)) if len(rows[i]) == len(windows.ids)), key=lambda i: _divergence(rows[i]))
    return Race(best, _score(rows[best], dense, windows), tuple(_divergence(row[:shared]) for row in rows), shared)


@torch.inference_mode()
def _rows(dense: Any, rivals: Sequence[Any], windows: Windows, clear: float, progress: Progress) -> list[list[Row]]:
    rows: list[list[Row]] = [[] for _ in rivals]
    running = list(range(len(rivals)))
    for ids in progress("judge", windows.ids, len(windows.ids)):
        old = _outputs(dense, ids)
        for i in running:
            rows[i].append(_row(old, _outputs(rivals[i], ids), ids))
        leader = min(running, key=lambda i: _divergence(rows[i]))
        running = [i for i in running if i == leader or not _trails(rows[i], rows[leader], clear)]
    return rows


def _trails(rows: list[Row], leading: list[Row], clear: float) -> bool:
    behind = torch.cat([r[2] for r in rows]) - torch.cat([r[2] for r in leading])
    return len(behind) > 1 and float(behind.mean()) > clear * float(behind.std()) / math.sqrt(len(behind))


def _divergence(rows: list[Row]) -> float:
    return float(torch.cat([r[2] for r in rows]).mean())


def _outputs(model: Any, ids: Tensor) -> Any:
    return model(input_ids=ids[None].to(next(model.parameters()).device))


def _row(old: Any, new: Any, ids: Tensor) -> Row:
    if getattr(old, "logits", None) is None:
        a, b = (o.last_hidden_state[0].double() for o in (old, new))
        return None, None, (0.5 * (a - b).square().sum(-1) / a.var(dim=0).mean()).cpu()
    sums = torch.zeros(2, dtype=torch.float64)
    divergence = torch.zeros(len(ids), dtype=torch.float64)
    for start in range(0, len(ids), ROWS):
        p, q = (o.logits[0, start : start + ROWS].float() for o in (old, new))
        norms = torch.stack([p.logsumexp(-1), q.logsumexp(-1)])
        # The logits' difference and the norms': neither is rounded as two logarithms of probabilities would be.
        divergence[start : start + ROWS] = (torch.linalg.vecdot(p.softmax(-1), p - q) - norms[0] + norms[1]).cpu()
        target = ids[start + 1 : start + ROWS + 1, None].to(p.device)
        said = torch.stack([z[: len(target)].gather(1, target)[:, 0] for z in (p, q)])
        sums += (norms[:, : len(target)] - said).cpu().double().sum(1)
    scored = len(ids) - 1
    return float(sums[0]) / scored, float(sums[1]) / scored, divergence


def _score(rows: list[Row], dense: Any, windows: Windows) -> Score:
    protocol = {**windows.identity(), "dtype": str(next(dense.parameters()).dtype).removeprefix("torch.")}
    divergence = _divergence(rows)
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
        by_window=tuple(new for _, new in losses),
    )
