"""Low rank: two dense factors, r(m + n) numbers.

The form of SVD, FWSVD, SVD-LLM and LoRD; a rank below mn / (m + n) saves.
"""

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.dense import Dense
from gossamer.expressions.product import Product
from gossamer.structures._base import RankStructure, rank_grid
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
        # The same length for column i of the one and row i of the other: half-precision formats then hold both.
        balance = (right.norm(dim=1) / left.norm(dim=0).clamp_min(1e-300)).clamp_min(1e-300).sqrt()
        return Product([Dense(left * balance), Dense(right / balance[:, None])])
