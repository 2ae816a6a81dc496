"""Scaled symmetric row: inputs times a number each, then codes around zero, one scale a row."""

from gossamer.structures._scaled import ScaledStructure
from gossamer.structures.symmetric_row import SymmetricRow


class ScaledSymmetricRow(ScaledStructure):
    """W ≈ Q diag(d) with Q as `symmetric_row`."""

    inner = SymmetricRow()
