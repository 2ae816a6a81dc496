"""Corrected 64: a quantized weight of 2 or 3 bits plus a low-rank correction with factors of 8 bits.

The idea of SVDQuant (Li et al. 2024, arXiv 2411.05007), EoRA (Liu et al. 2024, arXiv 2410.21271) and CALDERA (Saha et
al. 2024, arXiv 2405.18886).
"""

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.product import Product
from gossamer.expressions.sum import Sum
from gossamer.linalg.grid import codes_on, row_grid, spread
from gossamer.structures._quantized import QuantizedStructure, ShorterStructure
from gossamer.structures.normal_64 import Normal64
from gossamer.structures.symmetric_64 import Symmetric64
from gossamer.vocabulary import Cost, Shape

DEPTHS = (2, 3)
SHARES = (1 / 32, 1 / 16, 1 / 8)
"""Ranks on offer, of the smaller side."""
FACTOR_BITS = 8
PLACE = 1_000_000
"""A size is the depth of the base in millions and the rank."""


class Corrected64(ShorterStructure):
    """W ≈ Q + L R with Q of b bits in groups of 64; a size of 3,000,036 is 3 bits and rank 36."""

    base: QuantizedStructure = Normal64()
    factors: QuantizedStructure = Symmetric64()

    def every(self, shape: Shape) -> list[int]:
        ranks = sorted({max(1, round(share * min(shape))) for share in SHARES})
        return [bits * PLACE + rank for bits in DEPTHS for rank in ranks]

    def parts(self, size: int) -> tuple[int, int]:
        """(the bits of the base, the rank of the correction)."""
        return divmod(size, PLACE)

    def told(self, size: int) -> str:
        return super().told(self.parts(size)[0])

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        bits, rank = self.parts(size)
        m, n = shape
        sides = [self.factors.cost(side, FACTOR_BITS, itemsize) for side in ((m, rank), (rank, n))]
        return self.base.cost(shape, bits, itemsize) + sides[0] + sides[1]

    def factor(self, matrix: Tensor) -> Expression:
        """A factor rounded to nearest."""
        m, n = matrix.shape
        length, levels = self.factors.length((m, n)), self.factors.levels(FACTOR_BITS)
        scales, points = row_grid(matrix, matrix.new_ones(n), length, levels, zeros=False)
        codes = codes_on(matrix, spread(scales, length, n), spread(points, length, n), levels)
        return self.factors.express(codes, scales, None, FACTOR_BITS)

    def express(self, base: Expression, left: Expression, right: Expression) -> Expression:
        """The sum of a quantized base and the product of two factors."""
        return Sum([base, Product([left, right])])
