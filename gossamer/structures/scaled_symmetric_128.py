"""Scaled symmetric 128: inputs times a number each, then codes around zero, groups of 128."""

from gossamer.structures._scaled import ScaledStructure
from gossamer.structures.symmetric_128 import Symmetric128


class ScaledSymmetric128(ScaledStructure):
    """W ≈ Q diag(d) with Q as `symmetric_128`."""

    inner = Symmetric128()
