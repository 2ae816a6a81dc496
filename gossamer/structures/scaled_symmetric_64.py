"""Scaled symmetric 64: inputs times a number each, then codes around zero, groups of 64."""

from gossamer.structures._scaled import ScaledStructure
from gossamer.structures.symmetric_64 import Symmetric64


class ScaledSymmetric64(ScaledStructure):
    """W ≈ Q diag(d) with Q as `symmetric_64`."""

    inner = Symmetric64()
