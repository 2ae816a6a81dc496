"""Pivoted low rank: r columns of the weight, and the others as combinations of them: r(m + n − r) numbers.

The same matrices as `low_rank`, exactly, with r² fewer numbers and multiply-adds: two factors B A stay the same
product under any invertible r × r matrix between them, and that freedom is spent on making r columns of A the
identity. Every rank below min(m, n) saves, where two dense factors need a rank below mn / (m + n).
Source: Zhao et al. 2025, "Pivoting Factorization" (arXiv 2501.19090).
"""

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.dense import Dense
from gossamer.expressions.product import Product
from gossamer.expressions.skeleton import Skeleton
from gossamer.linalg.skeleton import skeleton
from gossamer.structures._base import RankStructure, rank_grid
from gossamer.vocabulary import Cost, Shape


class PivotedLowRank(RankStructure):
    """W ≈ B [I, C] Pᵀ with B (m × r), C (r × (n − r)) and a column order of n 32-bit indices."""

    def sizes(self, shape: Shape) -> list[int]:
        return rank_grid(shape, min(shape) - 1)

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        numbers = size * (sum(shape) - size)
        return Cost(params=numbers, bytes=numbers * itemsize + 4 * shape[1], macs=numbers)

    def express(self, left: Tensor, right: Tensor) -> Expression:
        order, coefficients = skeleton(right)
        columns = left @ right[:, order[: right.shape[0]]]
        return Product([Dense(columns), Skeleton(coefficients, order)])
