"""Structure and bits: every weight quantized at any depth, corrected by low rank, or of low rank, in one plan."""

from gossamer.methods._base import Method


class StructureAndBits(Method):
    """For budgets in bytes or bits, where what one weight becomes is traded against what another does."""

    structures = ("trellis_256", "normal_64", "normal_128", "normal_256", "corrected_64", "pivoted_low_rank")
    metric = "kronecker_fisher"
    allocator = "knapsack"
