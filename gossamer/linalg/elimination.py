"""Which coordinates of a linear map's input to drop when those that stay may take over what they can."""

import torch
from torch import Tensor

from gossamer.linalg.cholesky import safe_cholesky

ROUND = 8
"""Steps after which what was dropped is taken out of the working matrices; until then it lies there as zeros."""


def elimination_order(weight: Tensor, moment: Tensor, step: int) -> Tensor:
    """The coordinates of x in y = weight · x, the last to be dropped first, where E[x xᵀ] = moment.

    `weight` is (m × n), `moment` (n × n) positive definite, both float64. A step drops the `step` coordinates whose
    single loss is least and refits the others: with P = moment⁻¹, dropping R leaves W − W_R P_RR⁻¹ P_R (Hassibi & Stork
    1993, "Optimal Brain Surgeon", for several coordinates and outputs at once). The steps are done in float32, since
    they only rank; `elimination_losses` says exactly what an order costs.
    """
    scale = moment.diagonal().mean().clamp_min(1e-300)
    inverse = torch.cholesky_inverse(safe_cholesky(moment / scale)).float()
    weight = (weight / weight.abs().max().clamp_min(1e-300)).float()
    names = torch.arange(weight.shape[1], device=weight.device)
    present = torch.ones_like(names, dtype=torch.bool)
    dropped: list[Tensor] = []
    for at in range((len(names) - 1) // step):
        if at % ROUND == 0:
            names, weight, inverse = names[present], weight[:, present], inverse[present][:, present]
            present = present[present]
        score = weight.square().sum(0) / inverse.diagonal()
        drop = score.masked_fill(~present, torch.inf).argsort()[:step]
        rows = inverse[drop]
        solved = torch.linalg.solve(rows[:, drop], rows)
        weight -= weight[:, drop] @ solved
        inverse -= rows.T @ solved
        # Rounding leaves traces of what is gone; they must not come back as divisors.
        present[drop] = False
        weight[:, drop] = 0
        inverse[drop], inverse[:, drop] = 0, 0
        inverse.diagonal()[drop] = 1
        dropped.append(names[drop])
    return torch.cat([names[present], *reversed(dropped)])


def elimination_losses(weight: Tensor, moment: Tensor, order: Tensor) -> Tensor:
    """½ tr(ΔW moment ΔWᵀ) when only the first k coordinates of `order` are kept and refitted, for k = 0 … n − 1.

    With moment = L Lᵀ in that order, the residual of the coordinates from k on has the factor L[k:, k:], so the loss is
    half the squared length of the columns from k on of W L: one factorization prices every k.
    """
    root = safe_cholesky(moment[order][:, order])
    energy = (weight[:, order] @ root).square().sum(0)
    return 0.5 * energy.flip(0).cumsum(0).flip(0)


def refit(weight: Tensor, moment: Tensor, kept: Tensor) -> Tensor:
    """The best weight (m × k) on the coordinates `kept` alone: W C_:S C_SS⁻¹ with C = moment (n × n).

    That is W_S + W_R C_RS C_SS⁻¹ with R the coordinates that go, which are the fewer.
    """
    gone = torch.ones(len(moment), dtype=torch.bool, device=moment.device)
    gone[kept] = False
    columns = moment[:, kept]
    root = safe_cholesky(columns[kept])
    return weight[:, kept] + torch.cholesky_solve((weight[:, gone] @ columns[gone]).T, root).T
