"""OATS: every weight as a product plus a few entries, with columns scaled by their inputs' root mean square.

Source: Zhang & Papyan 2024, "OATS: Outlier-aware pruning through sparse and low rank decomposition", arXiv 2409.13652.
"""

from gossamer.methods._base import Method


class OATS(Method):
    """A quarter of the numbers in the product; 80 steps of least squares for as many truncations; every layer seen
    dense."""

    structures = ("low_rank_and_sparse",)
    metric = "mean_square"
    allocator = "uniform"
