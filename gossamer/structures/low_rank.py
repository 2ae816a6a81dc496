"""Low rank: two dense factors, r(m + n) numbers.

The form of SVD, FWSVD, SVD-LLM and LoRD; a rank below mn / (m + n) saves.
"""

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.dense import Dense
from gossamer.expressions.product import Product
from gossamer.structures._base import RankStructure, balanced, rank_grid
from gossamer.vocabulary import Cost, Shape


class LowRank(RankStructure):
    """W ≈ B A with B (m × r) and A (r × n)."""

    def sizes(self, shape: Shape) -> list[int]:
        m, n = shape
        return rank_grid(shape, (m * n - 1) // (m + n))

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        numbers = size * sum(shape)
        return Cost(params=numbers, bytes=numbers * itemsize, macs=numbers)

    def express(self, left: Tensor, right: Tensor) -> Expression:
        return Product([Dense(factor) for factor in balanced(left, right)])
