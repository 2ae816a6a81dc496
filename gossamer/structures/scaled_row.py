"""Scaled row: inputs times a number each, then codes with a zero point, one scale a row."""

from gossamer.structures._scaled import ScaledStructure
from gossamer.structures.asymmetric_row import AsymmetricRow


class ScaledRow(ScaledStructure):
    """W ≈ Q diag(d) with Q as `asymmetric_row`."""

    inner = AsymmetricRow()
