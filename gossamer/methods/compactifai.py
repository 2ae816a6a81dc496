"""CompactifAI: weights as tensor trains (Tomut et al. 2024, arXiv 2401.14109).

The paper measures how sensitive the layers are, spares those that are most, truncates the others to bond dimensions
that it does not publish, and heals by training. Here no layer is spared and nothing is trained; its figures are after
healing, so expect none of them. A train saves numbers and not multiply-adds: it is slower to apply than the dense
weight wherever it keeps more than a few per cent of a large one.
"""

from gossamer.methods._base import Method


class CompactifAI(Method):
    """Every weight keeps the same share of its numbers, which is the paper's plan but for the layers that it spares.

    A plan over all layers would have to know which those are, and the prices here do not: what weights lose in their
    own norms has no common unit, and to trade one for another favours the layers of large numbers, not the sensitive.
    """

    structures = ("tensor_train",)
    metric = "identity"
    allocator = "uniform"
