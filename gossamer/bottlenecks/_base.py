"""The promise of a bottleneck, and the sites that one joins."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.metrics import Metric
from gossamer.vocabulary import Cost, Site


@dataclass(frozen=True, kw_only=True)
class Group:
    """Sites around one width: `writers` give its coordinates, `reader` takes them."""

    writers: tuple[Site, ...]
    reader: Site

    @property
    def members(self) -> tuple[Site, ...]:
        return (*self.writers, self.reader)

    @property
    def name(self) -> str:
        return self.reader.name

    @property
    def width(self) -> int:
        return self.reader.shape[1]


@dataclass(frozen=True)
class Narrowed:
    """What takes a member's place: an expression, and the rows of its bias that stay (None for all)."""

    expression: Expression
    rows: Tensor | None = None


class Bottleneck(ABC):
    """A kind of width that can shrink without a trace outside its group; the file's name is its name in plans."""

    metric: ClassVar[type[Metric]]
    """What the reader's errors must be weighed by: this class or one below it."""

    @abstractmethod
    def find(self, model: Any, sites: Sequence[Site]) -> list[Group]:
        """The model's groups of this kind, each proven on the model itself to be one. No site is in two of them."""

    @abstractmethod
    def sizes(self, group: Group) -> list[int]:
        """The widths worth offering, ascending, all below the present one."""

    @abstractmethod
    def cost(self, group: Group, size: int, itemsize: int) -> dict[str, Cost]:
        """What each member costs at this width."""

    @abstractmethod
    def prepare(self, group: Group, weight: Tensor, metric: Metric) -> dict[str, Tensor]:
        """The work that every size shares, to keep on disk; `weight` is the reader's (m × width, float64)."""

    @abstractmethod
    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        """The metric's error for each size."""

    @abstractmethod
    def solve(
        self, group: Group, weights: Mapping[str, Tensor], size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> dict[str, Narrowed]:
        """What takes each member's place, from the weights of all of them (float64)."""

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]
