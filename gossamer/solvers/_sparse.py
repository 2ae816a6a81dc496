"""What solvers share whose sizes are too many to fit each for its price: a few are, and the others are interpolated."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gossamer.metrics import KroneckerMetric, Metric
from gossamer.solvers._base import Solver
from gossamer.structures import SparseStructure, Structure

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


class SparseSolver(Solver):
    """Not exact: which entries go is chosen before it is known what the others can make good."""

    exact = False
    fed_back = True

    def kept_as(self, structure: Structure) -> str:
        return f"{self.name}-{structure.name}"

    @abstractmethod
    def _errors(
        self, weight: Tensor, structure: SparseStructure, sizes: Sequence[int], metric: KroneckerMetric
    ) -> list[float]:
        """The metric's errors of these sizes, descending."""

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """What `fitted_prices` gives."""
        assert isinstance(structure, SparseStructure) and isinstance(metric, KroneckerMetric)
        return fitted_prices(
            structure.sizes(metric.shape),
            weight.numel() / max(1, structure.kept(metric.shape, 1)),
            metric.error(weight),
            lambda sizes: self._errors(weight, structure, sizes, metric),
        )

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return interpolated(prepared, sizes)
