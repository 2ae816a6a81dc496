"""What the scaled structures share: inputs times a number each, then codes.

The form of AWQ (Lin et al. 2023, arXiv 2306.00978), which hides the numbers for the inputs in the layer before; here
they are stored and counted.
"""

from typing import ClassVar

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.diagonal import Diagonal
from gossamer.expressions.product import Product
from gossamer.structures._quantized import SHORT, QuantizedStructure, ShorterStructure
from gossamer.vocabulary import Cost, Shape


class ScaledStructure(ShorterStructure):
    """W ≈ Q diag(d) with Q quantized as `inner`; the size is b."""

    inner: ClassVar[QuantizedStructure]

    def every(self, shape: Shape) -> list[int]:
        return self.inner.every(shape)

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        n = shape[1]
        return self.inner.cost(shape, size, itemsize) + Cost(params=n, bytes=n * SHORT, macs=n)

    def express(self, codes: Tensor, scales: Tensor, zeros: Tensor | None, factors: Tensor, bits: int) -> Expression:
        """As `inner`, and the numbers d (n) for the inputs, exact in bfloat16."""
        return Product([self.inner.express(codes, scales, zeros, bits), Diagonal(factors)])
