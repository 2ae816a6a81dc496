"""The promise of a statistic: a tensor that batches are added to."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from gossamer.vocabulary import Shape


class Statistic(ABC):
    """A sum over tokens of a function of a layer's input x (n) and of the loss's gradient g (m) at its output.

    `reads` says which of the two the sum needs. One that reads inputs alone is the same for all layers fed by one
    tensor, and is kept once for them. All sums are float32.
    """

    reads: ClassVar[frozenset[str]]

    @staticmethod
    @abstractmethod
    def extent(shape: Shape) -> tuple[int, ...]:
        """The shape that `add` keeps the sum in, for a weight of shape (m, n)."""

    @staticmethod
    @abstractmethod
    def add(total: Tensor, inputs: Tensor | None, gradients: Tensor | None) -> None:
        """Add a batch in place: inputs (tokens × n), gradients (tokens × m), whichever `reads` names."""

    @staticmethod
    def finished(total: Tensor, shape: Shape) -> Tensor:
        """The sum as a metric wants it, from the form that `add` keeps it in."""
        return total


INPUTS = frozenset({"inputs"})
GRADIENTS = frozenset({"gradients"})
BOTH = INPUTS | GRADIENTS
