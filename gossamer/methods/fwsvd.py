"""FWSVD: input features weighted by their Fisher information (Hsu et al. 2022, arXiv 2207.00112).

The paper fine-tunes the factors on the labelled task that gave the Fisher information; here labels are drawn from the
model and nothing is trained, which on a language model is far from enough.
"""

from gossamer.methods._base import Method


class FWSVD(Method):
    """One number a feature; the other side of the weight is not weighted."""

    structures = ("low_rank",)
    metric = "row_fisher"
    allocator = "uniform"
