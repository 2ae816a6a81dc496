"""The promise of a bottleneck, and the sites that one joins."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gossamer import sites
from gossamer.expressions import Expression
from gossamer.linalg.cholesky import safe_cholesky
from gossamer.metrics import KroneckerMetric, Metric
from gossamer.vocabulary import Cost, Site


@dataclass(frozen=True, kw_only=True)
class Group:
    """Sites around one width: `writers` give its coordinates, `reader` takes them.

    Where they share something else than a width, the last stands for the group as its reader. `places` are where the
    metric is needed: modules by their names, of which not all need be sites.
    """

    writers: tuple[Site, ...]
    reader: Site

    @property
    def members(self) -> tuple[Site, ...]:
        return (*self.writers, self.reader)

    @property
    def places(self) -> tuple[Site, ...]:
        return (self.reader,)

    @property
    def beside(self) -> tuple[str, ...]:
        """Modules that are written anew too and are no members: they can be no sites at the same time."""
        return ()

    @property
    def name(self) -> str:
        return self.reader.name

    @property
    def width(self) -> int:
        return self.reader.shape[1]


@dataclass(frozen=True)
class Narrowed:
    """What takes a member's place: an expression, and what becomes of its bias (None where that stays as it is)."""

    expression: Expression
    bias: Callable[[Tensor], Tensor] | None = None


STEPS = 48
"""Sizes offered: few enough to be quick, and on language models multiples of 32 or so, which kernels like."""


def step(width: int) -> int:
    """By how much the sizes of a width differ."""
    return max(1, width // STEPS)


def widths(width: int) -> list[int]:
    """The sizes worth offering below a width."""
    return sorted(range(width - step(width), 0, -step(width)))


def seen(weight: Tensor, metric: KroneckerMetric) -> tuple[Tensor, Tensor]:
    """A weight as a metric sees it: (R W with Rᵀ R the metric's output side, the second moment A of its inputs).

    The metric's error is then ½ tr((R ΔW) A (R ΔW)ᵀ).
    """
    felt = weight if metric.output is None else safe_cholesky(metric.output).T @ weight
    return felt, moment_of(weight, metric)


def moment_of(weight: Tensor, metric: KroneckerMetric) -> Tensor:
    """The second moment of a weight's inputs (n × n), the identity where the metric has none."""
    return torch.eye(weight.shape[1], dtype=weight.dtype) if metric.input is None else metric.input


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
        """What each member costs at this width.

        What changes outside of sites, in bytes, is an entry of its own, under a name that no site has.
        """

    def weigh(self, group: Group, place: Site, weigh: Callable[[Site], Metric]) -> Metric:
        """What the group's errors at a place are counted in, given how single places are weighed."""
        return weigh(place)

    @abstractmethod
    def prepare(self, group: Group, weights: Mapping[str, Tensor], metric: Metric) -> dict[str, Tensor]:
        """The work that every size shares, to keep on disk, from the members' weights (float64), at one place."""

    @abstractmethod
    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        """The metric's error at a place, for each size."""

    @abstractmethod
    def install(
        self,
        model: Any,
        group: Group,
        weights: Mapping[str, Tensor],
        size: int,
        metric: Metric,
        prepared: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        """Narrow the group in `model`, from the members' weights (float64), the reader's metric, and what was prepared
        at each place, by its name."""

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]


class Local(Bottleneck):
    """A bottleneck with one place, its reader, and nothing to narrow but its members."""

    @abstractmethod
    def solve(
        self, group: Group, weights: Mapping[str, Tensor], size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> dict[str, Narrowed]:
        """What takes each member's place, from the weights of all of them (float64)."""

    def matrix(
        self, group: Group, weights: Mapping[str, Tensor], size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Tensor | None:
        """The weight that would do in the reader's place what narrowing does, None where no matrix does."""
        return None

    def install(
        self,
        model: Any,
        group: Group,
        weights: Mapping[str, Tensor],
        size: int,
        metric: Metric,
        prepared: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        put(model, group.members, self.solve(group, weights, size, metric, prepared[group.name]))


def put(model: Any, members: Sequence[Site], parts: Mapping[str, Narrowed]) -> None:
    """Replace members by their parts in `model`."""
    for site in members:
        sites.replace(model, site, parts[site.name].expression, parts[site.name].bias)
