"""Dense and sparse: codebooks for most entries, and 0.45 % of them stored beside their codes.

The form of SqueezeLLM (Kim et al. 2023, arXiv 2306.07629), which names two shares, outliers and sensitive entries, and
gives 0.45 % for one or for both; here it is both, 0.40 and 0.05.
"""

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.scattered import WIDEST, Scattered
from gossamer.expressions.sum import Sum
from gossamer.structures.codebook import CodebookStructure
from gossamer.vocabulary import Cost, Shape

SHARE = 0.0045


class DenseAndSparse(CodebookStructure):
    """A codebook plus what it leaves of a few entries, in 16 bits with a 16-bit column each."""

    def kept(self, shape: Shape) -> int:
        return max(1, round(SHARE * shape[0] * shape[1]))

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        k = self.kept(shape)
        return super().cost(shape, size, itemsize) + Cost(params=k, bytes=4 * k + 2 * shape[0], macs=k)

    def unfit(self, shape: Shape) -> str | None:
        if shape[1] > WIDEST:
            return f"its {shape[1]:,} inputs are more than 16 bits can number; choose the structure codebook"
        return None

    def sizes(self, shape: Shape) -> list[int]:
        return [] if self.unfit(shape) else super().sizes(shape)

    def express(self, weight: Tensor, codes: Tensor, levels: Tensor, support: Tensor) -> Expression:
        book = super().express(weight, codes, levels, support)
        return Sum([book, Scattered.of(weight - book.dense().detach(), support)])
