"""Pivoted: the two-sided metric and one global plan, over low rank in its cheapest form (arXiv 2501.19090)."""

from gossamer.methods._base import Method


class Pivoted(Method):
    """The same matrices as `two_sided` at r² fewer numbers each, so higher ranks at the same budget."""

    structures = ("pivoted_low_rank",)
    metric = "kronecker_fisher"
    allocator = "knapsack"
