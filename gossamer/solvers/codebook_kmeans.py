"""Codebook k-means: each row's levels by weighted k-means, the largest and the most sensitive entries stored apart.

Source: SqueezeLLM (Kim et al. 2023, arXiv 2306.07629). Levels are the optimum of Σ F (w − level)² in place of the
paper's Lloyd iterations from random starts; the entries stored apart are left out of it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.kmeans import nearest, weighted_kmeans
from gossamer.linalg.quotes import quoted
from gossamer.metrics import Metric
from gossamer.metrics.diagonal_fisher import DiagonalFisher
from gossamer.metrics.identity import Identity
from gossamer.solvers._base import Solver
from gossamer.solvers._estimate import estimated
from gossamer.structures import Structure
from gossamer.structures.codebook import CodebookStructure

SENSITIVE = 1 / 9
"""Of the entries stored apart, those of the largest Fisher information (0.05 % of all); the others are the largest."""


class CodebookKMeans(Solver):
    """The best levels for every row, up to their format and, for rows of more than 128 entries, a local optimum."""

    exact = False

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, CodebookStructure) and issubclass(metric, DiagonalFisher | Identity)

    def kept_as(self, structure: Structure) -> str:
        return f"{self.name}-{structure.name}"

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes` the structure offers for this weight, and their `errors`."""
        assert isinstance(structure, CodebookStructure)
        pull = _pull(weight, metric)
        apart = _apart(weight, pull, structure)

        def rounding(part: Tensor, rows: Tensor, bits: int) -> Tensor:
            codes, levels = _fitted(part, pull[rows].masked_fill(apart[rows], 0.0), bits)
            return torch.where(apart[rows], part, levels.gather(1, codes))

        return estimated(weight, pull, structure.sizes((weight.shape[0], weight.shape[1])), rounding)

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return quoted(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, CodebookStructure)
        pull = _pull(weight, metric)
        apart = _apart(weight, pull, structure)
        codes, levels = _fitted(weight, pull.masked_fill(apart, 0.0), size)
        return structure.express(weight, codes, levels, apart)


def _pull(weight: Tensor, metric: Metric) -> Tensor:
    """What a squared error of each entry counts."""
    return metric.weights if isinstance(metric, DiagonalFisher) else torch.ones_like(weight)


def _apart(weight: Tensor, pull: Tensor, structure: CodebookStructure) -> Tensor:
    """The entries to store as numbers (m × n, booleans)."""
    count = structure.kept((weight.shape[0], weight.shape[1]))
    chosen = torch.zeros_like(weight, dtype=torch.bool).view(-1)
    chosen[pull.reshape(-1).topk(round(count * SENSITIVE)).indices] = True
    rest = weight.abs().reshape(-1).masked_fill(chosen, -1.0)
    chosen[rest.topk(count - int(chosen.sum())).indices] = True
    return chosen.view(weight.shape)


def _fitted(weight: Tensor, pull: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(codes, levels as they will be stored)."""
    levels = weighted_kmeans(weight, pull, 2**bits).to(torch.bfloat16).to(weight.dtype)
    return nearest(weight, levels), levels
