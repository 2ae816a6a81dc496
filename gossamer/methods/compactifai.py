"""CompactifAI: weights as tensor trains, cut where it hurts least (Tomut et al. 2024, arXiv 2401.14109).

The paper truncates one layer at a time, measures the loss, plans by that profile and heals by training. Here nothing is
trained, and the profile is the curves: what cutting each weight alone costs in its own norm, which no text has weighed.
The paper's numbers are after healing; expect none of them here. It publishes no bond dimensions; those offered here
cost less than the dense weight to store and to apply, which leaves a few per cent of a large weight's numbers.
"""

from gossamer.methods._base import Method


class CompactifAI(Method):
    """A plan over all layers, because the paper spares the sensitive ones; which those are is our measure, not its.

    Uniform is farther from the paper: trains as small as these are would cut every layer to the same few per cent.
    """

    structures = ("tensor_train",)
    metric = "identity"
    allocator = "knapsack"
