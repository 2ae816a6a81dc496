"""Prices of all sizes from a few that are fitted, for solvers that would take too long to fit each."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

POINTS = 5
"""Sizes that are fitted for their prices where more than `FEW` are on offer; the others are interpolated."""

FEW = 24

POWER = 3.5
"""Of what goes, that errors grow as: 3.1 to 3.7 on SmolLM2-135M."""


def fitted_prices(
    offered: Sequence[int], dense_size: float, whole: float, errors: Callable[[Sequence[int]], list[float]]
) -> dict[str, Tensor]:
    """`sizes`, a few of those on offer, their `errors`, and `dense_size`, at which nothing would go.

    `errors` gives those of sizes in descending order; `whole` is what the loss of everything costs.
    """
    picked = offered
    if len(offered) > FEW:
        picked = [offered[i * (len(offered) - 1) // (POINTS - 1)] for i in range(POINTS)]
    found = errors(picked[::-1])
    # A size may come out worse than a smaller one, which is then quoted as much.
    falling = torch.tensor(found, dtype=torch.float64).cummax(0).values.flip(0) if found else torch.zeros(0)
    return {
        "sizes": torch.tensor(picked, dtype=torch.float64),
        "errors": falling.clamp_max(whole),
        "dense_size": torch.tensor(dense_size, dtype=torch.float64),
    }


def interpolated(prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
    """The errors of these sizes, by those that were fitted."""
    if not sizes:
        return []
    # Errors are nearly a power of what goes. The root is interpolated, no logarithm, as an error may be zero: that of a
    # weight which was sparse before.
    gone = prepared["dense_size"].numpy() - np.asarray(sizes)
    known = (prepared["dense_size"] - prepared["sizes"]).flip(0).numpy()
    roots = prepared["errors"].flip(0).pow(1 / POWER).numpy()
    return [float(root) ** POWER for root in np.interp(gone, known, roots)]
