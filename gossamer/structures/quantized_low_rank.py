"""Quantized low rank: two factors in codes of 4 bits, a scale for each 64 of a row; the size is the rank.

What low rank saves and what fewer bits save are multiplied; the form of LPLR (Saha, Srivastava & Pilanci 2023, arXiv
2310.11028).
"""

from gossamer.expressions import Expression
from gossamer.expressions.product import Product
from gossamer.structures._base import Structure, rank_grid
from gossamer.structures._quantized import QuantizedStructure
from gossamer.structures.normal_64 import Normal64
from gossamer.vocabulary import Cost, Shape

BITS = 4


class QuantizedLowRank(Structure):
    """W ≈ L R with L (m × r) and R (r × n): numbers that are fewer and shorter. Scales and levels count as numbers,
    and ranks are on offer up to where the numbers are as many as the weight's: a little over four bits for each."""

    shortens = True
    factors: QuantizedStructure = Normal64()

    def sizes(self, shape: Shape) -> list[int]:
        numbers = shape[0] * shape[1]
        return [rank for rank in rank_grid(shape, min(shape)) if self.cost(shape, rank, 2).params < numbers]

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        m, n = shape
        left, right = (self.factors.cost(side, BITS, itemsize) for side in ((m, size), (size, n)))
        return left + right

    def express(self, left: Expression, right: Expression) -> Expression:
        """The product of two factors."""
        return Product([left, right])
