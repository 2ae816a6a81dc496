"""F_ij = E[g_i² x_j²], the diagonal of the Fisher (m × n), every token a sample."""

from torch import Tensor

from gossamer.statistics._base import BOTH, Statistic
from gossamer.vocabulary import Shape


class FisherDiagonal(Statistic):
    """One number a weight."""

    reads = BOTH

    @staticmethod
    def extent(shape: Shape) -> tuple[int, ...]:
        return shape

    @staticmethod
    def add(total: Tensor, inputs: Tensor | None, gradients: Tensor | None) -> None:
        assert inputs is not None and gradients is not None
        total.addmm_(gradients.float().square().T, inputs.float().square())
