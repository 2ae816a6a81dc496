"""LoRD: the principal directions of the outputs, uniform ranks (Kaushal et al. 2023, arXiv 2309.14021).

Without a mean taken off, the projection onto the outputs' leading eigenvectors is the same matrix as SVD-LLM's: one
solver, two names. Meant for text of one programming language.
"""

from gossamer.methods._base import Method


class LoRD(Method):
    """Output features without their mean removed; `feature_mimicking` removes it."""

    structures = ("low_rank",)
    metric = "activation"
    allocator = "uniform"
