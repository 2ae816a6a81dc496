"""Quantized low rank: two factors in codes of 4 bits, every weight to one share.

LPLR (Saha, Srivastava & Pilanci 2023, arXiv 2310.11028) is of this form, and the corrections of CALDERA are.
"""

from gossamer.methods._base import Method


class QuantizedLowRank(Method):
    """Its idea in the two-sided metric."""

    structures = ("quantized_low_rank",)
    metric = "kronecker_fisher"
    allocator = "uniform"
