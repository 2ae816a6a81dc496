"""Two-sided: inputs and gradients both weigh, and one plan for all layers shares out the budget.

Two plain factors a weight; the Kronecker-factored Fisher as in GFWSVD (arXiv 2505.17974) with a global plan.
"""

from gossamer.methods._base import Method


class TwoSided(Method):
    """What pivoted factors are measured against."""

    structures = ("low_rank",)
    metric = "kronecker_fisher"
    allocator = "knapsack"
