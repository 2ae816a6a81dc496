"""Scaled symmetric 32: inputs times a number each, then codes around zero, groups of 32."""

from gossamer.structures._scaled import ScaledStructure
from gossamer.structures.symmetric_32 import Symmetric32


class ScaledSymmetric32(ScaledStructure):
    """W ≈ Q diag(d) with Q as `symmetric_32`."""

    inner = Symmetric32()
