"""SVD: every weight truncated to the same share of itself in its own norm (Eckart & Young 1936). No calibration."""

from gossamer.methods._base import Method


class SVD(Method):
    """The oldest baseline; collapses on language models already where little is removed."""

    structures = ("low_rank",)
    metric = "identity"
    allocator = "uniform"
