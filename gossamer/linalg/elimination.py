"""Which coordinates of a linear map's input to drop when those that stay may take over what they can."""

import torch
from torch import Tensor

from gossamer.linalg.cholesky import safe_cholesky


def eliminate(weight: Tensor, moment: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """(coordinates in the order of their dropping, loss after each step) for y = weight · x with E[x xᵀ] = moment.

    `weight` is (m × n), `moment` (n × n) positive definite, both float64; a step drops the `step` coordinates whose
    single loss is least, refits the others, and ends before none would be left. The loss of a whole step is exact:
    with P = moment⁻¹, dropping R costs ½ tr(W_R P_RR⁻¹ W_Rᵀ) and leaves W − W_R P_RR⁻¹ P_R (Hassibi & Stork 1993,
    "Optimal Brain Surgeon", for several coordinates and outputs at once).
    """
    n = weight.shape[1]
    inverse = torch.cholesky_inverse(safe_cholesky(moment))
    weight = weight.clone()
    present = torch.ones(n, dtype=torch.bool, device=weight.device)
    dropped, losses = [], []
    loss = 0.0
    for _ in range((n - 1) // step):
        score = weight.square().sum(0) / inverse.diagonal()
        drop = score.masked_fill(~present, torch.inf).argsort()[:step]
        rows = inverse[drop]
        solved = torch.linalg.solve(rows[:, drop], torch.cat([rows, weight[:, drop].T], 1))
        loss += 0.5 * float((weight[:, drop].T * solved[:, n:]).sum())
        weight -= weight[:, drop] @ solved[:, :n]
        inverse -= rows.T @ solved[:, :n]
        # Rounding leaves traces of what is gone; they must not come back as divisors.
        present[drop] = False
        weight[:, drop] = 0
        inverse[drop], inverse[:, drop] = 0, 0
        inverse.diagonal()[drop] = 1
        dropped.append(drop)
        losses.append(loss)
    order = torch.cat([*dropped, present.nonzero()[:, 0]])
    return order, torch.tensor(losses, dtype=torch.float64)


def refit(weight: Tensor, moment: Tensor, kept: Tensor) -> Tensor:
    """The best weight (m × k) on the coordinates `kept` alone: W C_:S C_SS⁻¹ with C = moment (n × n)."""
    root = safe_cholesky(moment[kept][:, kept])
    return torch.cholesky_solve(moment[kept] @ weight.T, root).T
