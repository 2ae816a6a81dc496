"""Residual stream: the width of the whole model, narrowed by turning every state of it and dropping coordinates.

Between a norm and the next the stream may be written in any orthogonal basis Q of its own, once the norm's gain is
folded into its readers (and its mean, where it takes one off, into what writes the stream), since turning a vector does
not change its length: readers become W diag(gain) Q, writers Qᵀ W, and what passes by a branch changes basis by
M = Q'ᵀ Q, a shortcut of its own. Q are the eigenvectors of the stream's second moment at the norm; the coordinates of
least eigenvalue go. Source: SliceGPT (Ashkboos et al. 2024, arXiv 2401.15024).

In training, a dropout of the model's own between a branch and its sum thins the shortcut too.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gossamer import sites as hosts
from gossamer.bottlenecks._base import Bottleneck, Group
from gossamer.bottlenecks._running import run_once, same
from gossamer.bottlenecks._stream import Norm, Stream, find_stream, refuse
from gossamer.expressions import Expression
from gossamer.expressions.affine import Affine
from gossamer.expressions.dense import Dense
from gossamer.metrics import KroneckerMetric, Metric
from gossamer.metrics.activation import Activation
from gossamer.sites import frozen_twin
from gossamer.structures._base import rank_grid
from gossamer.vocabulary import Cost, Site


class ResidualStream(Bottleneck):
    """The size is the number of coordinates that stay, the same for all states, since the model's code adds them.

    The error is half of what the stream loses of its squared length, summed over its norms.
    """

    metric = Activation

    def find(self, model: Any, sites: Sequence[Site]) -> list[Group]:
        """The one stream; raises `ModelError` where it does not fit, in a sentence that says why."""
        twin = frozen_twin(model, torch.float32)
        stream = find_stream(twin, sites)
        generator = torch.Generator().manual_seed(0)
        square = torch.randn(stream.width, stream.width, generator=generator).double()
        turns = [torch.linalg.qr(square.roll(i, 0)).Q for i in range(len(stream.states))]
        kept = -(-stream.width // 2)
        stays = torch.arange(stream.width) < kept
        if not same(_run_in(twin, stream, turns), run_once(twin)):
            refuse(model, "its predictions change when the stream is turned")
        try:
            narrow = _run_in(twin, stream, [turn[:, :kept] for turn in turns])
        except (RuntimeError, ValueError, IndexError):
            refuse(model, "its width is written into the model's code")
        if not same(narrow, _run_in(twin, stream, [turn * stays for turn in turns])):
            refuse(model, "a coordinate that is gone is something else to it than one that is zero")
        return [stream]

    def sizes(self, group: Group) -> list[int]:
        return rank_grid((group.width, group.width), group.width - 1)

    def cost(self, group: Group, size: int, itemsize: int) -> dict[str, Cost]:
        stream = _stream(group)
        costs = {}
        for state in stream.states:
            for site in state.writers:
                numbers = size * site.shape[1] + (size * size if site == state.writers[-1] else 0)
                costs[site.name] = Cost(params=numbers, bytes=numbers * itemsize, macs=numbers)
            for norm, site in state.reading:
                numbers, added = size * site.shape[0], site.shape[0] if _adds_bias(norm, site) else 0
                costs[site.name] = Cost(params=numbers + added, bytes=(numbers + added) * itemsize, macs=numbers)
        # The head is no site, so what becomes of it counts only where bytes are asked for, as of the tables.
        beside = stream.each * size + stream.added - stream.dense
        return costs | {stream.head.name: Cost(params=0, bytes=beside * itemsize, macs=0)}

    def prepare(self, group: Group, weights: Mapping[str, Tensor], metric: Metric) -> dict[str, Tensor]:
        """`basis` (d × d), the first column to go last, and `errors` by how many coordinates stay."""
        assert isinstance(metric, KroneckerMetric) and metric.input is not None
        moment = metric.input
        if _stream(group).centred:
            moment = _centred(_centred(moment).T)
        values, vectors = torch.linalg.eigh(moment)
        lost = torch.cat([values.new_zeros(1), values.clamp_min(0)]).cumsum(0)
        return {"basis": vectors.flip(1), "errors": 0.5 * lost.flip(0)}

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return [float(prepared["errors"][size]) for size in sizes]

    def install(
        self,
        model: Any,
        group: Group,
        weights: Mapping[str, Tensor],
        size: int,
        metric: Metric,
        prepared: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        write_in(model, _stream(group), [prepared[place.name]["basis"][:, :size] for place in group.places])


def write_in(model: Any, stream: Stream, bases: Sequence[Tensor]) -> None:
    """Write every state of the stream of `model` in a basis (d × k, float64) of its own, in place."""
    for state, basis in zip(stream.states, bases, strict=True):
        for norm, site in state.reading:
            hosts.replace(model, site, *_reader(_weight(model, site), norm, site, basis))
        back = _centred(basis).T if stream.centred else basis.T
        for site in state.writers:
            hosts.replace(model, site, Dense(back @ _weight(model, site)), partial(_turned, back))
    tables = {name: model.get_submodule(name).weight.detach() for name in stream.tables}
    layout = _layout(stream, bases[0].shape[1])
    hosts.lay(model, layout)
    first = _centred(bases[0]) if stream.centred else bases[0]
    with torch.no_grad():
        for name, table in tables.items():
            model.get_submodule(name).weight.copy_(table.double() @ first.to(table.device))
        for state, (old, new) in zip(stream.states[1:], pairwise(bases), strict=True):
            change = new.T @ old - torch.eye(old.shape[1], dtype=old.dtype)
            model.get_submodule(state.writers[-1].name).shortcut.weight.copy_(change)
    # One matrix cannot be written in the bases of the first and of the last state.
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _layout(stream: Stream, width: int) -> hosts.Layout:
    return hosts.Layout(
        width=width,
        norms={norm.name: (stream.width, norm.eps) for state in stream.states for norm in state.norms},
        shortcuts={state.writers[-1].name: before.norms[0].name for before, state in pairwise(stream.states)},
        tables=list(stream.tables),
    )


def _reader(
    weight: Tensor, norm: Norm, site: Site, basis: Tensor
) -> tuple[Expression, Callable[[Tensor], Tensor] | None]:
    """What reads a state in its basis, with the norm's gain and offset: an expression, and what becomes of the bias."""
    read, added = Dense(weight @ (norm.gain[:, None] * basis)), weight @ norm.offset
    if _adds_bias(norm, site):
        return Affine(read, added), None
    return read, lambda bias: (bias.double() + added.to(bias.device)).to(bias)


def _adds_bias(norm: Norm, site: Site) -> bool:
    """Whether a reader without a bias gets one, to hold what the norm's offset comes to."""
    return bool(norm.offset.any()) and not site.bias


def _turned(back: Tensor, bias: Tensor) -> Tensor:
    return (back.to(bias.device) @ bias.double()).to(bias)


def _centred(columns: Tensor) -> Tensor:
    """H X with H = I − 1 1ᵀ/d, which takes the mean off every column."""
    return columns - columns.mean(0)


def _weight(model: nn.Module, site: Site) -> Tensor:
    """The weight in float64, where the moments are."""
    return hosts.host(site.kind).weight(model.get_submodule(site.name)).detach().double().cpu()


def _run_in(model: nn.Module, stream: Stream, bases: Sequence[Tensor]) -> Tensor:
    """What the model predicts with its stream in these bases."""
    turned = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    write_in(turned, stream, bases)
    return run_once(turned)


def _stream(group: Group) -> Stream:
    assert isinstance(group, Stream)
    return group
