"""Neurons: an MLP's hidden width, narrowed by dropping neurons and refitting the layer that reads them.

Writers (gate and up, or one layer) keep the rows of the neurons that stay; the reader's weight on these becomes the one
that is best in its metric, W C_:S C_SS⁻¹ with C the second moment of the neurons. What stays is smaller dense layers,
with nothing added. Source of the structure and the refit: MoDeGPT's type I, the Nyström approximation (Lin et al.
2024, arXiv 2408.09632). Neurons are chosen here not by ridge leverage but by what dropping them costs in the two-sided
metric, a few at a time (see `linalg/elimination.py`).
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gossamer import sites as hosts
from gossamer.bottlenecks._base import Bottleneck, Group, Narrowed
from gossamer.expressions.dense import Dense
from gossamer.linalg.cholesky import safe_cholesky
from gossamer.linalg.elimination import elimination_losses, elimination_order, refit
from gossamer.metrics import KroneckerMetric, Metric
from gossamer.vocabulary import Cost, Site

STEPS = 48
"""Widths offered: few enough to be quick, and on language models multiples of 32 or so, which kernels like."""


class Neurons(Bottleneck):
    """Any run of layers of one width whose outputs meet, coordinate by coordinate, at the input of one layer."""

    metric = KroneckerMetric

    def find(self, model: Any, sites: Sequence[Site]) -> list[Group]:
        alike: dict[Any, list[Group]] = {}
        for group in _candidates(_in_order(model, sites)):
            form = tuple((site.name.rpartition(".")[2], site.shape) for site in group.members)
            alike.setdefault(form, []).append(group)
        # Blocks repeat: the first group of a form speaks for the others, which are then proven in one run.
        proven = [groups for groups in alike.values() if _narrow_alike(model, groups[:1])]
        return [group for groups in proven if _narrow_alike(model, groups) for group in groups]

    def sizes(self, group: Group) -> list[int]:
        step = _step(group.width)
        return sorted(range(group.width - step, 0, -step))

    def cost(self, group: Group, size: int, itemsize: int) -> dict[str, Cost]:
        numbers = {s.name: size * s.shape[1] for s in group.writers} | {group.name: size * group.reader.shape[0]}
        return {name: Cost(params=n, bytes=n * itemsize, macs=n) for name, n in numbers.items()}

    def prepare(self, group: Group, weight: Tensor, metric: Metric) -> dict[str, Tensor]:
        """`order`, the neurons with the last to be dropped first, and `errors` by how many of them stay."""
        assert isinstance(metric, KroneckerMetric)
        felt = weight if metric.output is None else safe_cholesky(metric.output).T @ weight
        moment = _moment(metric, weight)
        order = elimination_order(felt, moment, _step(group.width))
        return {"order": order, "errors": elimination_losses(felt, moment, order)}

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return [float(prepared["errors"][size]) for size in sizes]

    def solve(
        self, group: Group, weights: Mapping[str, Tensor], size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> dict[str, Narrowed]:
        assert isinstance(metric, KroneckerMetric)
        kept = prepared["order"][:size].sort().values
        small = {s.name: Narrowed(Dense(weights[s.name][kept].clone()), kept) for s in group.writers}
        reader = weights[group.name]
        return small | {group.name: Narrowed(Dense(refit(reader, _moment(metric, reader), kept)))}


def _moment(metric: KroneckerMetric, weight: Tensor) -> Tensor:
    return torch.eye(weight.shape[1], dtype=weight.dtype) if metric.input is None else metric.input


def _step(width: int) -> int:
    return max(1, width // STEPS)


def _in_order(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """The sites as a run of the model reaches them."""
    reached: list[Site] = []
    handles = [
        model.get_submodule(s.name).register_forward_pre_hook(lambda _m, _a, s=s: reached.append(s)) for s in sites
    ]
    _run(model)
    for handle in handles:
        handle.remove()
    return list(dict.fromkeys(reached))


def _candidates(order: Sequence[Site]) -> list[Group]:
    """Every site that alone reads its input, with the sites just before it whose outputs are as many as its inputs."""
    readers = Counter(site.reads for site in order)
    groups = []
    for i, reader in enumerate(order):
        j = i
        while j and order[j - 1].shape[0] == reader.shape[1] and order[j - 1].reads == order[i - 1].reads:
            j -= 1
        if j < i and readers[reader.reads] == 1:
            groups.append(Group(writers=tuple(order[j:i]), reader=reader))
    return groups


@torch.no_grad()
def _narrow_alike(model: nn.Module, groups: Sequence[Group]) -> bool:
    """Whether leaving out coordinates on both sides does what zeros at the readers' inputs do."""
    kept = {
        g.name: torch.randperm(g.width, generator=torch.Generator().manual_seed(0))[: -(-g.width // 2)] for g in groups
    }
    handles = [model.get_submodule(g.name).register_forward_pre_hook(_mask(kept[g.name], g.width)) for g in groups]
    try:
        expected = _run(model)
    finally:
        for handle in handles:
            handle.remove()
    small = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    for group in groups:
        rows = kept[group.name]
        for site in group.writers:
            weight = hosts.host(site.kind).weight(model.get_submodule(site.name)).detach()
            hosts.replace(small, site, Dense(weight[rows.to(weight.device)]), rows=rows)
        weight = hosts.host(group.reader.kind).weight(model.get_submodule(group.name)).detach()
        hosts.replace(small, group.reader, Dense(weight[:, rows.to(weight.device)]))
    try:
        found = _run(small)
    except (RuntimeError, ValueError, IndexError):
        return False  # the width is written into the model's code, as that of attention heads is
    apart = (found - expected).abs().max()
    return bool(apart <= 1e-3 * expected.abs().max())


def _mask(kept: Tensor, width: int) -> Any:
    mask = torch.zeros(width).index_fill(0, kept, 1.0)
    return lambda _module, args: (args[0] * mask.to(args[0]), *args[1:])


def _run(model: nn.Module) -> Tensor:
    device = next(model.parameters()).device
    with torch.no_grad():
        return hosts.output_of(hosts.run(model, torch.arange(8, device=device)[None])).float()
