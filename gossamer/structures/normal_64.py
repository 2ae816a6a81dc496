"""Normal 64: codes for normal heights, one scale for 64 entries of a row: b + 16/64 bits a weight."""

from gossamer.structures._quantized import NormalStructure


class Normal64(NormalStructure):
    """Levels s Φ⁻¹(…), as many below zero as above it."""

    group = 64
