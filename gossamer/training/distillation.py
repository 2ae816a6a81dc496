"""Distillation: the divergence of a compressed model from its dense teacher, and its gradient at the outputs.

Source: Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), at temperature
one: mean KL(dense ‖ compressed) over positions, the very quantity that plans predict and `evaluation/` reports.
"""

from typing import Any

import torch
from torch import Tensor

from gossamer.sites import output_of

ROWS = 128
"""Positions whose probabilities are held in float32 at once."""


@torch.no_grad()
def divergence(teacher: Any, student: Any) -> tuple[float, Tensor]:
    """(mean divergence in nats per position, its gradient at the student's output, of that output's shape and dtype).

    For a model without logits the teacher predicts a vector with Gaussian noise of its outputs' own variance, as in
    the statistics: half the squared distance over that variance.
    """
    old, new = output_of(teacher), output_of(student)
    if getattr(student, "logits", None) is None:
        a, b = old.float().flatten(0, -2), new.float().flatten(0, -2)
        variance = a.var(dim=0).mean().clamp_min(1e-12)
        apart = b - a
        value = float(0.5 * apart.square().sum(-1).mean() / variance)
        return value, (apart / (variance * len(apart))).view_as(new).to(new.dtype)
    old, flat = old.reshape(-1, old.shape[-1]), new.reshape(-1, new.shape[-1])
    gradient = torch.empty_like(flat)
    total = 0.0
    for start in range(0, len(flat), ROWS):
        here = slice(start, start + ROWS)
        p, q = old[here].float().log_softmax(-1), flat[here].float().log_softmax(-1)
        chances = p.exp()
        total += float((chances * (p - q)).sum(dtype=torch.float64))
        gradient[here] = (q.exp_() - chances) / len(flat)
    return total / len(flat), gradient.view_as(new)
