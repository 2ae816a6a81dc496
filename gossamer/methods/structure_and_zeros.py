"""Structure and zeros: every MLP narrower, every weight of low rank or sparse, in one plan."""

from gossamer.methods._base import Method


class StructureAndZeros(Method):
    """For budgets in bytes or parameters, where the layers that stay sparse need no less time than dense ones."""

    structures = ("pivoted_low_rank", "neurons", "sparse")
    metric = "kronecker_fisher"
    allocator = "knapsack"
