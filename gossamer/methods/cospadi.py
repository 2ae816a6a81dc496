"""CoSpaDi: a dictionary and sparse codes for every weight, uniform budgets (Makhov et al. 2025, arXiv 2509.22075).

One dictionary a layer (`cospadi_shared` has one for two), found as in the paper's variant MOD, in 20 rounds for its 60,
with hard thresholding pursuit for orthogonal matching pursuit. The support of the codes is stored and counted, where
the paper hides its bits in the codes' mantissas.
"""

from gossamer.methods._base import Method


class CoSpaDi(Method):
    """Rows in a union of subspaces, by pursuit and least squares on whitened weights."""

    structures = ("dictionary",)
    metric = "activation"
    allocator = "uniform"
