"""GPTQ: later columns make good what rounding loses, at one depth (Frantar et al. 2022, arXiv 2210.17323).

Scales are those of least squared error among shrunken ranges, refitted to their codes, which is better than the
extremes of the authors' code; every layer sees the dense model's inputs, not those behind compressed blocks.
"""

from gossamer.methods._base import Method


class GPTQ(Method):
    """Groups of 64 with zero points and scales fixed before, columns in the order of falling second moment."""

    structures = ("asymmetric_64",)
    metric = "activation"
    allocator = "uniform"
