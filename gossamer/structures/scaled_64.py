"""Scaled 64: inputs times a number each, then codes with a zero point, groups of 64."""

from gossamer.structures._scaled import ScaledStructure
from gossamer.structures.asymmetric_64 import Asymmetric64


class Scaled64(ScaledStructure):
    """W ≈ Q diag(d) with Q as `asymmetric_64`."""

    inner = Asymmetric64()
