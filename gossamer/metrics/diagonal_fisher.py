"""Diagonal Fisher: ½ Σ_ij F_ij ΔW_ij², every weight with its own Fisher information.

Source: the sensitivity of SqueezeLLM (Kim et al. 2023, arXiv 2306.07629), from Optimal Brain Damage (LeCun 1989).
"""

from torch import Tensor

from gossamer.metrics._base import Metric


class DiagonalFisher(Metric):
    """Not a Kronecker product, so no closed form truncates in it."""

    needs = ("fisher_diagonal",)

    @property
    def weights(self) -> Tensor:
        """F (m × n)."""
        return self.statistics["fisher_diagonal"]

    def error(self, delta: Tensor) -> float:
        return 0.5 * float((self.weights * delta.double().square()).sum())
