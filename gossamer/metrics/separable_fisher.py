"""Separable Fisher: ½ Σ_ij r_i f_j ΔW_ij² / Σ F, the diagonal Fisher by the sums of its rows and columns.

Source: FWSVD (Hsu et al. 2022, arXiv 2207.00112) with both sides of a weight, of which the paper counts one. Of all
r_i f_j that add up as F does over rows and over columns this is the one, and truncation in it is exact.
"""

from functools import cached_property

from torch import Tensor

from gossamer.metrics._base import KroneckerMetric, regularized

DAMPING = 1e-5


class SeparableFisher(KroneckerMetric):
    """One number for each input and each output feature: diagonal A and G."""

    needs = ("fisher_rows", "fisher_columns")
    tables = False

    @cached_property
    def input(self) -> Tensor:
        return regularized(self.statistics["fisher_rows"] / self.shape[0], DAMPING).diag()

    @cached_property
    def output(self) -> Tensor:
        columns = self.statistics["fisher_columns"]
        return regularized(columns / columns.mean().clamp_min(1e-300), DAMPING).diag()
