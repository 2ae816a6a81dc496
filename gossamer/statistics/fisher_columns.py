"""r_i = Σ_j F_ij = E[g_i² ‖x‖²], the diagonal Fisher summed over inputs (m)."""

from torch import Tensor

from gossamer.statistics._base import BOTH, Statistic
from gossamer.vocabulary import Shape


class FisherColumns(Statistic):
    """One number an output feature; a token id stands for a vector of length one."""

    reads = BOTH

    @staticmethod
    def extent(shape: Shape) -> tuple[int, ...]:
        return (shape[0],)

    @staticmethod
    def add(total: Tensor, inputs: Tensor | None, gradients: Tensor | None) -> None:
        assert inputs is not None and gradients is not None
        squares = gradients.float().square()
        total.add_(inputs.float().square().sum(1) @ squares if inputs.is_floating_point() else squares.sum(0))
