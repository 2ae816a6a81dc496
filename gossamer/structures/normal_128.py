"""Normal 128: codes for normal heights, one scale for 128 entries of a row: b + 16/128 bits a weight."""

from gossamer.structures._quantized import NormalStructure


class Normal128(NormalStructure):
    """Levels s Φ⁻¹(…), as many below zero as above it."""

    group = 128
