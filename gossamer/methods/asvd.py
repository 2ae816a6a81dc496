"""ASVD: input features weighted by the root of their mean magnitude (Yuan et al. 2023, arXiv 2312.05821).

With uniform ranks and the full SVD. The paper also searches ranks by measuring the perplexity with one layer compressed
at a time, every layer at six ratios; methods with a global plan decide the same from curves. Its authors' code
truncates by a randomized SVD, which depends on the seed.
"""

from gossamer.methods._base import Method


class ASVD(Method):
    """The power 1/2 of the paper."""

    structures = ("low_rank",)
    metric = "absolute_mean"
    allocator = "uniform"
