"""What the sparse structures share: which entries are compared with which, and what the kept ones cost."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.expressions.sparse import Sparse, mask_bytes
from gossamer.structures._base import Structure
from gossamer.vocabulary import Cost, Shape


class SparseStructure(Structure):
    """Some entries of the weight and a bit for each of its places, counted as 16-bit words among the numbers."""

    together: ClassVar[int]
    """How many columns have their entries chosen at once where columns are gone through in order."""

    @abstractmethod
    def kept(self, shape: Shape, size: int) -> int:
        """How many entries are kept in all."""

    @abstractmethod
    def rivals(self, scores: Tensor) -> Tensor:
        """The scores of all entries (m × n), those that are compared where rows are looked at alone in one row each.

        Of each of these rows the `size` highest are kept.
        """

    def in_rows(self, scores: Tensor, size: int) -> Tensor:
        """The entries to keep (m × n booleans) by their scores, compared with rivals of their own row."""
        return highest(self.rivals(scores), size).view_as(scores)

    @abstractmethod
    def in_columns(self, scores: Tensor, size: int, start: int, columns: int) -> Tensor:
        """The same for some columns from `start` on (scores m × width), whole groups of `together`, of a weight with so
        many; the whole weight at once is one such part.

        The entries kept in all such parts add up to `kept`, as they do in rows.
        """

    def sizes(self, shape: Shape) -> list[int]:
        numbers = shape[0] * shape[1]
        return [size for size in self.possible(shape) if self.cost(shape, size, 2).params < numbers]

    @abstractmethod
    def possible(self, shape: Shape) -> list[int]:
        """The sizes that there are, ascending, be they worth it or not."""

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        numbers, mask = self.kept(shape, size), shape[0] * mask_bytes(shape[1])
        return Cost(params=numbers + -(-mask // 2), bytes=numbers * itemsize + mask, macs=numbers)

    def express(self, weight: Tensor, support: Tensor) -> Expression:
        """The entries of `weight` (m × n) that `support` (m × n booleans) keeps."""
        return Sparse.of(weight, support)


def highest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` highest scores of each row are (booleans of the scores' shape)."""
    places = scores.topk(count, dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, places, True)
