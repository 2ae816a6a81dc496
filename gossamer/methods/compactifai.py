"""CompactifAI: weights as tensor trains (Tomut et al. 2024, arXiv 2401.14109).

The paper measures how sensitive the layers are, spares those that are most, truncates the others to bond dimensions
that it does not publish, and heals by training. Here what is measured of one layer at a time decides as in ASVD's
search (`budgets/sensitivity.py`), and nothing is trained; the paper's figures are after healing, so expect none of
them. A train saves numbers and not multiply-adds: it is slower to apply than the dense weight wherever it keeps more
than a few per cent of a large one. Plain low rank, a train whose second core is trivial, is not searched.
"""

from gossamer.methods._base import Method


class CompactifAI(Method):
    """What weights lose in their own norms has no common unit, so how the loss rises is measured with each alone."""

    structures = ("tensor_train",)
    metric = "identity"
    allocator = "sensitivity"
