"""Normal 256: codes for normal heights, one scale for 256 entries of a row: b + 16/256 bits a weight."""

from gossamer.structures._quantized import NormalStructure


class Normal256(NormalStructure):
    """Levels s Φ⁻¹(…), as many below zero as above it."""

    group = 256
