"""COMPOT: orthogonal dictionaries and thresholded codes, uniform budgets (Makhov et al. 2026, arXiv 2602.15200).

The paper's own allocation by singular values is not part of it.
"""

from gossamer.methods._base import Method


class COMPOT(Method):
    """What CoSpaDi fits, found in closed steps."""

    structures = ("orthogonal_dictionary",)
    metric = "activation"
    allocator = "uniform"
