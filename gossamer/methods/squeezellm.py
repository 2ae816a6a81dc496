"""SqueezeLLM: a codebook for every row by Fisher information, and 0.45 % of the entries apart (arXiv 2306.07629).

The Fisher information is that of labels drawn from the model, token by token, where the paper squares the gradient of a
text's own loss. Entries apart are stored as what they have beyond their level, in 16 bits.
"""

from gossamer.methods._base import Method


class SqueezeLLM(Method):
    """Kim et al. 2023: weighted k-means, every weight at one depth of 2 to 4 bits."""

    structures = ("dense_and_sparse",)
    metric = "diagonal_fisher"
    allocator = "uniform"
