"""MoDeGPT: pairs of layers narrowed where they meet (Lin et al. 2024, arXiv 2408.09632).

MLPs by Nyström with ridge leverage, queries and keys by column selection, values and what reads them by a singular
value decomposition; what is stored are smaller dense layers. Blocks that change little of what passes through them
give more. Values are weighed by the second moment of what attention hands on, where the paper takes that of the
block's input; coordinates of values, and pairs of queries and keys, compete over all heads of a block and not within
each.
"""

from gossamer.methods._base import Method


class MoDeGPT(Method):
    """Nothing but narrowing, by the second moments of inputs."""

    structures = ("leverage_neurons", "value_output", "query_key")
    metric = "activation"
    allocator = "block_influence"
