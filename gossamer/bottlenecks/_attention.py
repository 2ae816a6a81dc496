"""What of a model's attention can be seen from outside: found by running it, with no knowledge of its code.

Attention mixes tokens, never the coordinates of a value: with every value set to one vector c, what it hands on is c
again, since its weights sum to one. So a module whose output is set to distinct numbers shows, number by number, which
of its rows arrive where at the input of the layer that reads attention. With values that differ from token to token and
agree over coordinates, coordinates of one head arrive alike and those of different heads apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.bottlenecks._base import Group
from gossamer.bottlenecks._running import form, in_order, run_once, sole_readers
from gossamer.vocabulary import Site


@dataclass(frozen=True)
class Head:
    """One head of values: its rows at the writer, and for each head of queries the reader's columns they arrive at."""

    rows: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Attention(Group):
    """The layer that writes values, the one that reads what attention made of them, and the heads between."""

    heads: tuple[Head, ...]

    @property
    def writer(self) -> Site:
        return self.writers[0]


def find_attention(model: Any, sites: Sequence[Site]) -> list[Attention]:
    """Every reader alone on its input to which attention carries the rows of one site shortly before."""
    order = in_order(model, sites)
    pairs: dict[Any, list[Pair]] = {}
    for reader in sole_readers(order):
        before = order[: order.index(reader)]
        for writer in before:
            if writer.reads == before[-1].reads:
                pairs.setdefault(form(writer, reader), []).append((writer, reader))
    # Blocks repeat: pairs of one form are tried in one run, since what a value is does not depend on what came before.
    return [group for alike in pairs.values() for group in _joined(model, alike)]


Pair = tuple[Site, Site]


def _joined(model: nn.Module, pairs: Sequence[Pair]) -> list[Attention]:
    """Those of the pairs that attention joins, and nothing but attention."""
    rows = pairs[0][0].shape[0]
    marks = 2 * torch.randperm(rows, generator=torch.Generator().manual_seed(0)).float() / rows - 1
    arrived = _arrived(model, pairs, [lambda out: marks.to(out).expand_as(out)] * len(pairs))
    carried = [_carried(seen, marks) for seen in arrived]
    joined = [(pair, rows) for pair, rows in zip(pairs, carried, strict=True) if rows is not None]
    if not joined:
        return []
    seen = _arrived(model, [pair for pair, _ in joined], [_by_token(rows.unique()) for _, rows in joined])
    groups = []
    for ((writer, reader), rows_of), pattern in zip(joined, seen, strict=True):
        heads = () if pattern is None else _grouped(rows_of.tolist(), pattern.T)
        if heads:
            groups.append(Attention(writers=(writer,), reader=reader, heads=heads))
    return groups


def _carried(seen: Tensor | None, marks: Tensor) -> Tensor | None:
    """For each column the row whose mark arrived there; None where something else did."""
    if seen is None:
        return None
    apart = (seen[0][:, None] - marks).abs()
    slack = 0.1 / len(marks)
    if float((seen - seen[0]).abs().max()) > slack or float(apart.min(1).values.max()) > slack:
        return None
    return apart.argmin(1)


def _by_token(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """Values that differ from token to token and agree over `rows`."""

    def change(out: Tensor) -> Tensor:
        steps = torch.linspace(-1, 1, out.shape[-2]).square().sub(0.3).to(out)
        return out.index_copy(-1, rows.to(out.device), steps[:, None].expand(*out.shape[:-1], len(rows)))

    return change


def _arrived(
    model: nn.Module, pairs: Sequence[Pair], changes: Sequence[Callable[[Tensor], Tensor]]
) -> list[Tensor | None]:
    """What reaches each reader (tokens × columns) when the output of its writer is changed."""
    kept: dict[str, Tensor] = {}
    handles: list[Any] = []
    for (writer, reader), change in zip(pairs, changes, strict=True):
        at, to = model.get_submodule(writer.name), model.get_submodule(reader.name)
        handles.append(at.register_forward_hook(lambda _m, _i, out, change=change: change(out)))
        handles.append(to.register_forward_pre_hook(lambda _m, a, name=reader.name: kept.setdefault(name, a[0])))
    try:
        run_once(model)
    finally:
        for handle in handles:
            handle.remove()
    found = [kept.get(reader.name) for _, reader in pairs]
    return [None if x is None else x.detach().float().flatten(0, -2).cpu() for x in found]


def _grouped(carried: list[int], seen: Tensor) -> tuple[Head, ...]:
    """Columns that arrive alike belong to one head of queries; rows that arrive at the same ones to one of values."""
    queries: list[list[int]] = []
    scale = 1e-5 * float(seen.abs().max())
    for column, pattern in enumerate(seen):
        mine = next((q for q in queries if float((seen[q[0]] - pattern).abs().max()) <= scale), None)
        if mine is None:
            queries.append(mine := [])
        mine.append(column)
    values: dict[frozenset[int], list[list[int]]] = {}
    for query in queries:
        values.setdefault(frozenset(carried[c] for c in query), []).append(query)
    if sum(map(len, values)) != len({row for rows in values for row in rows}):
        return ()  # heads that share some rows and not others: nothing that could be narrowed alone
    heads = []
    for rows, readers in values.items():
        listed = sorted(rows)
        if any(len(query) != len(listed) for query in readers):
            return ()
        columns = tuple(tuple(sorted(query, key=lambda c: carried[c])) for query in readers)
        heads.append(Head(rows=tuple(listed), columns=columns))
    return tuple(heads)
