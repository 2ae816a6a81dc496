"""Low rank and sparse: W ≈ B A + S, the product with a quarter of the numbers that are kept.

The form of OATS (Zhang & Papyan 2024, arXiv 2409.13652), and of robust principal components. The size is how many
entries a row of S keeps; the rank follows from it.
"""

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.sparse import Sparse
from gossamer.expressions.sum import Sum
from gossamer.structures._base import Structure
from gossamer.structures.low_rank import LowRank
from gossamer.structures.sparse import SparseEntries
from gossamer.vocabulary import Cost, Shape

SHARE = 0.25
"""Of the numbers, masks aside, that the product has: a rank ratio of the paper's."""


class LowRankAndSparse(Structure):
    """A mask of one bit for each place is counted, as that of `sparse` is."""

    product = LowRank()
    rest = SparseEntries()

    def rank(self, shape: Shape, size: int) -> int:
        """The rank beside `size` entries in a row."""
        m, n = shape
        return max(1, round(SHARE / (1 - SHARE) * m * size / (m + n)))

    def sizes(self, shape: Shape) -> list[int]:
        numbers = shape[0] * shape[1]
        return [size for size in self.rest.possible(shape) if self.cost(shape, size, 2).params < numbers]

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        return self.product.cost(shape, self.rank(shape, size), itemsize) + self.rest.cost(shape, size, itemsize)

    def express(self, left: Tensor, right: Tensor, rest: Tensor, size: int) -> Expression:
        """left (m × r) times right (r × n), plus the `size` largest entries in each row of `rest` (m × n)."""
        return Sum([self.product.express(left, right), Sparse.largest(rest, size)])
