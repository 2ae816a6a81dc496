"""What the quantized structures share: numbers that are shorter than the dense weight's, not fewer."""

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions._packing import packed_bytes
from gossamer.expressions.lookup import Lookup
from gossamer.expressions.quantized import Quantized
from gossamer.linalg.grid import Levels, NormalLevels, normal_heights
from gossamer.structures._base import Structure
from gossamer.vocabulary import Cost, Shape

DEPTHS = range(2, 9)
SHORT = 2
"""Bytes of a scale or level, and of a number in half precision: what does not save against that is not offered."""


class ShorterStructure(Structure):
    """Codes of a few bits instead of numbers.

    Every code, scale, zero point and level counts as one number among the parameters, and every code takes a
    multiply-add: a budget in those units never chooses such a weight. What it saves is bytes.
    """

    shortens = True

    @abstractmethod
    def every(self, shape: Shape) -> list[int]:
        """The sizes there are, ascending, whether or not they save."""

    def told(self, size: int) -> str:
        return f"{self.name} of {size} bit{'s' * (size != 1)}"

    def sizes(self, shape: Shape) -> list[int]:
        least, found = 0, []
        for size in self.every(shape):
            taken = self.cost(shape, size, SHORT).bytes
            if least < taken < shape[0] * shape[1] * SHORT:
                least = taken
                found.append(size)
        return found


class GroupedStructure(ShorterStructure):
    """Codes of b bits, which is the size; `group` is how many entries of a row share a scale (None: all of them) and
    `zeros` whether they share a zero point of b bits too."""

    group: ClassVar[int | None]
    zeros: ClassVar[bool] = False

    def length(self, shape: Shape) -> int:
        """Entries that share a scale in a weight of this shape; the last of a row may be fewer."""
        return min(self.group or shape[1], shape[1])

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        m, n = shape
        groups = m * -(-n // self.length(shape))
        points = groups if self.zeros else 0
        stored = packed_bytes(m * n, size) + groups * SHORT + packed_bytes(points, size)
        return Cost(params=m * n + groups + points, bytes=stored, macs=m * n)


class QuantizedStructure(GroupedStructure):
    """Codes that each stand for a level, at equal distances unless `levels` says otherwise."""

    def every(self, shape: Shape) -> list[int]:
        return list(DEPTHS)

    def as_table(self, shape: Shape, size: int, itemsize: int, tied: bool) -> Cost:
        cost = self.cost(shape, size, itemsize)
        return cost if tied else replace(cost, macs=0)

    def levels(self, bits: int) -> Levels:
        """What the codes stand for."""
        return Levels(bits)

    def express(self, codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Expression:
        """Codes (m × n), scales (m × groups, exact in bfloat16), and zero points of the same shape where it has any."""
        m, n = codes.shape
        return Quantized.of(codes, scales, zeros if self.zeros else None, bits=bits, group=self.length((m, n)))


class NormalStructure(QuantizedStructure):
    """Levels that are close where normal numbers are many, in one table a weight; one bit is worth having."""

    def every(self, shape: Shape) -> list[int]:
        return [1, *DEPTHS]

    def levels(self, bits: int) -> Levels:
        return NormalLevels(bits)

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        return super().cost(shape, size, itemsize) + Cost(params=2**size, bytes=2**size * SHORT, macs=0)

    def express(self, codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int) -> Expression:
        m, n = codes.shape
        return Lookup.at(codes, scales, normal_heights(bits).to(scales), group=self.length((m, n)))
