"""What solvers of sparse structures that fit what stays share: prices of all sizes from a few that are fitted."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import exp

import numpy as np
import torch
from torch import Tensor

from gossamer.metrics import KroneckerMetric, Metric
from gossamer.solvers._base import Solver
from gossamer.structures import SparseStructure, Structure

POINTS = 4
"""Sizes that are fitted for their prices where more than `FEW` are on offer; the others are interpolated."""

FEW = 24


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
        """`sizes`, a few of those on offer, their `errors`, and the size that would be `all` of the weight."""
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
            "all": torch.tensor(weight.numel() / max(1, structure.kept(metric.shape, 1)), dtype=torch.float64),
        }

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        if not sizes:
            return []
        whole, logs = prepared["all"].numpy(), prepared["errors"].clamp_min(1e-300).log().numpy()
        # Errors grow as the third to fourth power of what goes, so in logarithms of both the line is nearly straight.
        kept, known = (-np.log(whole - np.asarray(each)) for each in (sizes, prepared["sizes"]))
        return [exp(log) for log in np.interp(kept, known, logs)]
