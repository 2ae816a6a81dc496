"""What solvers of sparse structures that fit what stays share: prices of all sizes from a few that are fitted."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

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
        """`sizes`, a few of those on offer, their `errors`, and `dense_size`, at which nothing would go."""
        assert isinstance(structure, SparseStructure) and isinstance(metric, KroneckerMetric)
        offered = structure.sizes(metric.shape)
        picked = offered
        if len(offered) > FEW:
            picked = [offered[i * (len(offered) - 1) // (POINTS - 1)] for i in range(POINTS)]
        errors = self._errors(weight, structure, picked[::-1], metric)
        # A size may come out worse than a smaller one, which is then quoted as much.
        falling = torch.tensor(errors, dtype=torch.float64).cummax(0).values.flip(0) if errors else torch.zeros(0)
        return {
            "sizes": torch.tensor(picked, dtype=torch.float64),
            "errors": falling.clamp_max(metric.error(weight)),
            "dense_size": torch.tensor(weight.numel() / max(1, structure.kept(metric.shape, 1)), dtype=torch.float64),
        }

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        if not sizes:
            return []
        # Errors are nearly a power of what goes. The root is interpolated, no logarithm, as an error may be zero:
        # that of a weight which was sparse before.
        gone = prepared["dense_size"].numpy() - np.asarray(sizes)
        known = (prepared["dense_size"] - prepared["sizes"]).flip(0).numpy()
        roots = prepared["errors"].flip(0).pow(1 / POWER).numpy()
        return [float(root) ** POWER for root in np.interp(gone, known, roots)]
