"""Mixed: one plan in which every MLP may become narrower and every weight low rank. The default."""

from gossamer.methods._base import Method


class Mixed(Method):
    """Structures of both kinds are priced in one unit, so the plan may narrow one block and factor another."""

    structures = ("pivoted_low_rank", "neurons")
    metric = "kronecker_fisher"
    allocator = "knapsack"
