"""Prices from a sample of rows, for solvers that round every row much as any other."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gossamer.linalg.quotes import quotes

SAMPLED = 32
"""Rows that are rounded to price a size."""

Rounding = Callable[[Tensor, Tensor, int], Tensor]
"""(some rows, their indices, the size) → the rows as they would be stored."""


RUN = 8
"""Rows that are sampled together where what one loses depends on its neighbours."""


def sampled(energy: Tensor, count: int = SAMPLED) -> tuple[Tensor, Tensor]:
    """(indices, factors) of rows that, times their factors, lose together about what all rows lose; `energy` is (m).

    Picked at equal distances of the summed energy, largest first: systematic sampling with probabilities proportional
    to size (Madow 1949). Few rows may have most of the energy, and these are all seen. A row may be picked again; each
    stands for one part of the energy in `count`. Few rows are all taken as they are.
    """
    if len(energy) <= count:
        return torch.arange(len(energy), device=energy.device), torch.ones_like(energy)
    order = energy.argsort(descending=True)
    summed = energy[order].cumsum(0)
    part = summed[-1] / count
    marks = part * (torch.arange(count, device=energy.device) + 0.5)
    picked = order[torch.searchsorted(summed, marks)]
    return picked, (part / energy[picked].clamp_min(1e-300)).sqrt()


def sampled_runs(energy: Tensor) -> tuple[Tensor, Tensor]:
    """(indices, shares) of rows in runs of neighbours: a row's loss times its share, summed, is what all rows lose.

    Runs are picked as `sampled` picks rows. Twice as many rows, since they come together; `energy` is (m).
    """
    count = len(energy) // RUN
    if len(energy) <= 2 * SAMPLED:
        return torch.arange(len(energy), device=energy.device), torch.ones_like(energy)
    picked, factors = sampled(energy[: count * RUN].view(count, RUN).sum(1), 2 * SAMPLED // RUN)
    rows = picked[:, None] * RUN + torch.arange(RUN, device=energy.device)
    beyond = energy.sum() / energy[: count * RUN].sum().clamp_min(1e-300)
    return rows.flatten(), (factors.square() * beyond).repeat_interleave(RUN)


def estimated(weight: Tensor, costs: Tensor, sizes: Sequence[int], rounding: Rounding) -> dict[str, Tensor]:
    """The errors of `sizes`: half Σ costs · error² over all entries, from what rounding loses of a sample of rows."""
    picked, factors = sampled((costs * weight.square()).sum(1))
    rows, costs = weight[picked] * factors[:, None], costs[picked]
    return quotes(sizes, [0.5 * float((costs * (rows - rounding(rows, picked, z)).square()).sum()) for z in sizes])
