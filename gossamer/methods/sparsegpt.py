"""SparseGPT: pruning whose errors the weights that stay make good (Frantar & Alistarh 2023, arXiv 2301.00774).

The paper prunes block by block, each on the outputs of those pruned before it; here all see the dense model. Its joint
rounding of what stays is left out.
"""

from gossamer.methods._base import Method


class SparseGPT(Method):
    """With `--structures n_of_4` or `n_of_8` the paper's N:M patterns."""

    structures = ("sparse",)
    metric = "activation"
    allocator = "uniform"
