"""A = E[x xᵀ] over a layer's inputs (n × n)."""

from torch import Tensor

from gossamer.linalg.gram import add_gram, pack, unpack
from gossamer.statistics._base import INPUTS, Statistic
from gossamer.vocabulary import Shape


class InputSecondMoment(Statistic):
    """Shared by all layers that the same tensor feeds."""

    reads = INPUTS

    @staticmethod
    def extent(shape: Shape) -> tuple[int, ...]:
        return (shape[1], shape[1])

    @staticmethod
    def add(total: Tensor, inputs: Tensor | None, gradients: Tensor | None) -> None:
        assert inputs is not None
        add_gram(total, inputs)

    pack = staticmethod(pack)
    unpack = staticmethod(unpack)
