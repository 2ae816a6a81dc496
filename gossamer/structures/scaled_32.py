"""Scaled 32: inputs times a number each, then codes with a zero point, groups of 32."""

from gossamer.structures._scaled import ScaledStructure
from gossamer.structures.asymmetric_32 import Asymmetric32


class Scaled32(ScaledStructure):
    """W ≈ Q diag(d) with Q as `asymmetric_32`."""

    inner = Asymmetric32()
