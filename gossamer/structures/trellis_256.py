"""Trellis 256: codes whose heights depend on codes before them, one scale for 256 entries of a row: b + 16/256 bits a
weight.

Trellis coded quantization (Tseng et al. 2024, QTIP, arXiv 2406.11235): heights are as many as there are states, not as
there are codes.
"""

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.trellis import Trellis
from gossamer.structures._quantized import GroupedStructure
from gossamer.vocabulary import Shape


class Trellis256(GroupedStructure):
    """The size is b, the bits of a code: with more than five the ten bits of a state hold too few codes."""

    group = 256

    def every(self, shape: Shape) -> list[int]:
        return [1, 2, 3, 4, 5]

    def express(self, codes: Tensor, scales: Tensor, bits: int) -> Expression:
        """Codes (m × n) and scales (m × groups, exact in bfloat16)."""
        m, n = codes.shape
        return Trellis.along(codes, scales, bits=bits, group=self.length((m, n)))
