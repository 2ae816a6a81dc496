"""The promise of a structure."""

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.vocabulary import Cost, Shape


class Structure(ABC):
    """A family of expressions of one form, indexed by an integer size.

    `shortens` says that its numbers take fewer bytes than the dense weight's.
    """

    shortens: ClassVar[bool] = False

    @abstractmethod
    def sizes(self, shape: Shape) -> list[int]:
        """The sizes worth offering for a weight of this shape, ascending: less than the dense weight in some unit."""

    @abstractmethod
    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        """What the member of this size costs, numbers being stored in `itemsize` bytes."""

    def as_table(self, shape: Shape, size: int, itemsize: int, tied: bool) -> Cost:
        """What it costs as a table (vocabulary × width), for one row looked up and, where tied, one product.

        A row is read where the table would be multiplied.
        """
        cost = self.cost(shape, size, itemsize)
        return replace(cost, macs=cost.macs - shape[0] * size + (cost.macs if tied else 0))

    def unfit(self, shape: Shape) -> str | None:
        """Why no weight of this shape can be written so, in words that follow the layer's name; None where one can."""
        return None

    def fallback(self, shape: Shape) -> str | None:
        """What weights of this shape become instead, and why, in words that follow "become"; None where nothing."""
        return None

    def told(self, size: int) -> str:
        """What a weight of this size is called where weights of one kind are counted."""
        return self.name

    @cached_property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]


class RankStructure(Structure):
    """A structure whose size is a rank and whose members express any product of two factors of that rank."""

    @abstractmethod
    def express(self, left: Tensor, right: Tensor) -> Expression:
        """The expression equal to left (m × r) times right (r × n), both of full rank."""


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product of left (m × r) and right (r × n), each column of the one as long as its row of the other.

    Half-precision formats then hold both.
    """
    balance = (right.norm(dim=1) / left.norm(dim=0).clamp_min(1e-300)).clamp_min(1e-300).sqrt()
    return left * balance, right / balance[:, None]


def rank_grid(shape: Shape, most: int) -> list[int]:
    """Ranks up to `most`: every one for small weights, multiples of eight (which kernels like) for large ones."""
    step = 8 if min(shape) >= 128 else 1
    return sorted({1, *range(step, most + 1, step)} - set(range(most + 1, 2)))
