"""Scaled 128: inputs times a number each, then codes with a zero point, groups of 128."""

from gossamer.structures._scaled import ScaledStructure
from gossamer.structures.asymmetric_128 import Asymmetric128


class Scaled128(ScaledStructure):
    """W ≈ Q diag(d) with Q as `asymmetric_128`."""

    inner = Asymmetric128()
