"""Shared dictionary: layers of one type in neighbouring blocks, sparse codes of their own and one dictionary for all.

Source: the grouped form of CoSpaDi (Makhov et al. 2025, arXiv 2509.22075). The rows of all members are coded side by
side, as `structures/dictionary.py` codes those of one weight, in the metric of the mean of the members' input moments.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gossamer.bottlenecks._base import Group, Local, Narrowed
from gossamer.expressions.dense import Dense
from gossamer.expressions.product import Product
from gossamer.expressions.sparse import Sparse
from gossamer.linalg.dictionary import best_dictionary, sparse_codes, start_error
from gossamer.linalg.principal import principal_rows
from gossamer.linalg.quotes import quoted, quotes
from gossamer.metrics import InputMetric, Metric
from gossamer.sites import block_of
from gossamer.structures._base import balanced
from gossamer.structures._dictionary import kept
from gossamer.structures.dictionary import Dictionary
from gossamer.vocabulary import Cost, Shape, Site

MEMBERS = 2
"""Blocks whose layers share; what is left at the end of a model shares with nobody."""


class SharedDictionary(Local):
    """Sites of one name and shape in blocks of one list, in order, by twos; the size is the number of atoms."""

    metric = InputMetric

    def find(self, model: Any, sites: Sequence[Site]) -> list[Group]:
        alike: dict[tuple[str, str, Shape], list[Site]] = {}
        for site in sites:
            block = block_of(model, site.name)
            if block:
                key = (block.rpartition(".")[0], site.name.removeprefix(block), site.shape)
                alike.setdefault(key, []).append(site)
        parts = [found[i : i + MEMBERS] for found in alike.values() for i in range(0, len(found), MEMBERS)]
        return [Group(writers=tuple(part[:-1]), reader=part[-1]) for part in parts]

    def sizes(self, group: Group) -> list[int]:
        return Dictionary().sizes(_stacked(group))

    def cost(self, group: Group, size: int, itemsize: int) -> dict[str, Cost]:
        m, n = group.reader.shape
        alone = Dictionary().cost((m, n), size, itemsize)
        atoms = size * n
        codes = Cost(params=alone.params - atoms, bytes=alone.bytes - atoms * itemsize, macs=alone.macs)
        return {site.name: codes for site in group.writers} | {group.name: alone}

    def weigh(self, group: Group, place: Site, weigh: Callable[[Site], Metric]) -> Metric:
        """The metric of the mean of all members' statistics."""
        rulers = [weigh(site) for site in group.members]
        means = {name: torch.stack([ruler.statistics[name] for ruler in rulers]).mean(0) for name in rulers[0].needs}
        return type(rulers[0])(group.reader.shape, means, rulers[0].tokens)

    def prepare(self, group: Group, weights: Mapping[str, Tensor], metric: Metric) -> dict[str, Tensor]:
        """`sizes`, and upper bounds of their `errors` (see `solvers/_dictionary.py`)."""
        assert isinstance(metric, InputMetric)
        rows, sizes = principal_rows(_rows(group, weights), metric.input), self.sizes(group)
        return quotes(sizes, [start_error(rows, size, kept(size)) for size in sizes])

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return quoted(prepared, sizes)

    def solve(
        self, group: Group, weights: Mapping[str, Tensor], size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> dict[str, Narrowed]:
        assert isinstance(metric, InputMetric)
        rows = _rows(group, weights)
        codes = sparse_codes(principal_rows(rows, metric.input), size, kept(size))
        left, right = balanced(codes, best_dictionary(codes, rows))
        dictionary = Dense(right)
        parts = left.split(group.reader.shape[0])
        return {
            site.name: Narrowed(Product([Sparse.largest(part, kept(size)), dictionary]))
            for site, part in zip(group.members, parts, strict=True)
        }


def _stacked(group: Group) -> Shape:
    m, n = group.reader.shape
    return len(group.members) * m, n


def _rows(group: Group, weights: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([weights[site.name] for site in group.members])
