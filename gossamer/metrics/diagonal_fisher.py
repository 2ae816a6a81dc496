"""Diagonal Fisher: ½ Σ_ij F_ij ΔW_ij², every weight with its own Fisher information.

Source: the sensitivity of SqueezeLLM (Kim et al. 2023, arXiv 2306.07629), from Optimal Brain Damage (LeCun 1989).
"""

from collections.abc import Mapping

from torch import Tensor

from gossamer.metrics._base import Metric
from gossamer.vocabulary import Shape


class DiagonalFisher(Metric):
    """`weights` is F (m × n) in float64."""

    needs = ("fisher_diagonal",)

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    @classmethod
    def weigh(cls, shape: Shape, statistics: Mapping[str, Tensor]) -> "DiagonalFisher":
        return cls(statistics["fisher_diagonal"])

    def error(self, delta: Tensor) -> float:
        return 0.5 * float((self.weights * delta.double().square()).sum())
