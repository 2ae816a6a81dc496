"""Dense: the weight as it is, the choice that every site has."""

from gossamer.structures._base import Structure
from gossamer.vocabulary import Cost, Shape


class DenseStructure(Structure):
    """All m × n numbers; its one size is the smaller side."""

    def sizes(self, shape: Shape) -> list[int]:
        return [min(shape)]

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        numbers = shape[0] * shape[1]
        return Cost(params=numbers, bytes=numbers * itemsize, macs=numbers)
