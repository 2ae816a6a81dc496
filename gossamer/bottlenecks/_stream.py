"""What of a model's residual stream can be seen from outside: found by running it, with no knowledge of its code.

A layer reads the stream where it is fed by a norm, and that a module is a norm shows in what it makes of random
vectors. Between two norms the stream changes by what the layers at the ends of branches say, and by nothing else.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from gossamer.bottlenecks._base import Group
from gossamer.bottlenecks._running import run_once, same
from gossamer.errors import ModelError
from gossamer.vocabulary import Site


@dataclass(frozen=True, eq=False, kw_only=True)
class Norm:
    """x ↦ gain ⊙ x / √(mean x² + eps) + offset, of x less its mean where `centred`, and the sites that it feeds."""

    name: str
    eps: float
    centred: bool
    gain: Tensor
    offset: Tensor
    readers: tuple[Site, ...]


@dataclass(frozen=True, eq=False)
class State:
    """The stream between two branches: the norms that read it, and the sites whose sum made it from the one before."""

    norms: tuple[Norm, ...]
    writers: tuple[Site, ...]

    @property
    def reading(self) -> list[tuple[Norm, Site]]:
        return [(norm, site) for norm in self.norms for site in norm.readers]


@dataclass(frozen=True, eq=False, kw_only=True)
class Stream(Group):
    """A model's whole stream. `tables` are the embeddings that begin it, `head` reads it last and is no site.

    Numbers outside of sites, in tables, head, norms and biases: `dense` of them there were, a head that is a table
    counted once; `each` coordinate that stays needs so many, and `added` more are the bias that the head gets.
    """

    states: tuple[State, ...]
    tables: tuple[str, ...]
    head: Site
    each: int
    dense: int
    added: int

    @property
    def places(self) -> tuple[Site, ...]:
        shape = (self.width, self.width)
        names = [state.norms[0].name for state in self.states]
        return tuple(Site(name=n, kind="norm", shape=shape, bias=False, reads=n) for n in names)

    @property
    def beside(self) -> tuple[str, ...]:
        return (*self.tables, self.head.name)

    @property
    def width(self) -> int:
        return len(self.states[0].norms[0].gain)

    @property
    def centred(self) -> bool:
        return self.states[0].norms[0].centred


@dataclass(frozen=True)
class Call:
    """One call of a module without parts: what it was given and what it gave, as they were then."""

    name: str
    module: nn.Module
    given: Tensor
    gave: Tensor
    given_at: int
    gave_at: int


def find_stream(model: nn.Module, sites: Sequence[Site]) -> Stream:
    """The stream of a model in float32; raises `ModelError` where it has none of the form above."""
    calls = _calls(model)
    head = _head(model, calls)
    known = {site.name: site for site in (*sites, head)}
    norms = [(i, norm) for i, call in enumerate(calls) if (norm := _norm(call, calls, known)) is not None]
    if len(norms) < 2:
        refuse(model, "its layers are not fed by norms of it")
    if len({norm.name for _, norm in norms}) < len(norms):
        refuse(model, "it uses one of its norms more than once")
    if len({norm.centred for _, norm in norms}) > 1:
        refuse(model, "some of its norms take off a mean and others do not")
    at = [norms[0][0]]  # where each state is read first
    read = [[norms[0][1]]]
    for i, norm in norms[1:]:
        if torch.equal(calls[i].given, calls[at[-1]].given):
            read[-1].append(norm)
        else:
            at.append(i)
            read.append([norm])
    readers = {site.name for _, norm in norms for site in norm.readers}
    writers = [_writers(model, calls[i:j], calls[j], known, readers) for i, j in pairwise(at)]
    states = tuple(State(tuple(these), those) for these, those in zip(read, [(), *writers], strict=True))
    if head not in [site for _, site in states[-1].reading]:
        refuse(model, f"{head.name} does not read its last norm")
    tables = tuple(dict.fromkeys(c.name for c in calls[: at[0]] if isinstance(c.module, nn.Embedding)))
    members = [s for s in sites if s.name in readers or any(s in state.writers for state in states)]
    return Stream(
        writers=tuple(members[:-1]),
        reader=members[-1],
        states=states,
        tables=tables,
        head=head,
        **_beside(model, states, tables, head),
    )


def _calls(model: nn.Module) -> list[Call]:
    """What modules without parts do in a short run, in order: those that make one tensor from another."""
    calls: list[Call] = []
    alive: list[Tensor] = []  # keeps addresses from being used again

    def hook(name: str) -> Any:
        def seen(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                alive.extend((args[0], output))
                given, gave = args[0].detach().clone(), output.detach().clone()
                calls.append(Call(name, module, given, gave, args[0].data_ptr(), output.data_ptr()))

        return seen

    parts = [(name, m) for name, m in model.named_modules() if not any(m.children())]
    handles = [module.register_forward_hook(hook(name)) for name, module in parts]
    try:
        run_once(model)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _head(model: Any, calls: Sequence[Call]) -> Site:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    name = next((call.name for call in calls if call.module is head), None)
    if type(head) is not nn.Linear or name is None:
        refuse(model, "its predictions are not those of a linear layer behind the last norm")
    m, n = head.weight.shape
    return Site(name=name, kind="linear", shape=(m, n), bias=head.bias is not None, reads=name)


def _norm(call: Call, calls: Sequence[Call], known: Mapping[str, Site]) -> Norm | None:
    """The norm that a call was, and the sites fed by what it gave; None where it was none, or feeds none."""
    if call.name in known or call.given.shape != call.gave.shape or not call.given.is_floating_point():
        return None
    fed = [c.name for c in calls if c.given_at == call.gave_at and c.given.shape == call.gave.shape]
    readers = tuple(known[name] for name in dict.fromkeys(fed) if name in known)
    found = probe(call.module, call.given.shape[-1]) if readers else None
    return None if found is None else Norm(name=call.name, readers=readers, **found)


@torch.no_grad()
def probe(module: nn.Module, width: int) -> dict[str, Any] | None:
    """`eps`, `centred`, `gain` and `offset` of a norm over `width` coordinates, as random vectors show them.

    None for a module that is no norm.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    module = copy.deepcopy(module).float()
    x = torch.randn(32, width, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        offset = ((module(x) + module(-x)) / 2).mean(0)  # all else turns with the sign
        centred = same(module(x + 1), module(x))
        x = x - x.mean(-1, keepdim=True) if centred else x
        unit = x.double() / x.double().square().mean(-1, keepdim=True).sqrt()
        large = (module(1e3 * x) - offset).double()  # so large that ε has no say
        gain = (large * unit).sum(0) / unit.square().sum(0)
        small = (module(1e-3 * x) - offset).double()
    except (RuntimeError, TypeError, ValueError):
        return None
    ratio = (small * gain * unit).sum(-1) / (gain * unit).square().sum(-1).clamp_min(1e-300)
    square = 1e-6 * x.double().square().mean(-1)
    # To three digits, which undoes the rounding of the probe: an ε is a round number.
    eps = float(f"{float((square / ratio.square() - square).median().clamp_min(0)):.3g}")
    expected = gain * 1e-3 * x.double() / (square[:, None] + eps).sqrt()
    if not bool(gain.any()) or not (same(large, gain * unit) and same(small, expected)):
        return None
    return {"eps": eps, "centred": centred, "gain": gain.cpu(), "offset": offset.double().cpu()}


def _writers(
    model: nn.Module, branch: Sequence[Call], after: Call, known: Mapping[str, Site], readers: set[str]
) -> tuple[Site, ...]:
    """The sites of a branch whose outputs, added to what it was fed, make what the next norm is given."""
    before, width = branch[0].given, branch[0].given.shape[-1]
    inner = {call.given_at for call in branch if call.name in known}
    ends = [
        call
        for call in branch
        if call.name in known
        and call.name not in readers
        and known[call.name].shape[0] == width
        and call.gave_at not in inner
    ]
    said = sum((call.gave for call in ends), torch.zeros_like(before))
    if not ends or not same(after.given - before, said):
        refuse(
            model,
            f"what {after.name} is given is not what {branch[0].name} was given and the outputs of layers, added up "
            "(it has norms behind its layers, or scales what they say)",
        )
    return tuple(known[call.name] for call in ends)


def _beside(model: nn.Module, states: Sequence[State], tables: Sequence[str], head: Site) -> dict[str, int]:
    """`each`, `dense` and `added` of a stream."""
    begins: list[Any] = [model.get_submodule(name).weight for name in tables]
    reads = model.get_submodule(head.name).weight
    norms = [norm for state in states for norm in state.norms]
    rows = sum(table.shape[0] for table in begins) + sum(site.bias for state in states for site in state.writers)
    own = 0 if any(reads is table for table in begins) else head.shape[0]
    gains = sum(p.numel() for norm in norms for p in model.get_submodule(norm.name).parameters())
    adds = not head.bias and any(norm.offset.any() for norm in states[-1].norms)
    return {
        "each": rows + head.shape[0],
        "dense": (rows + own) * head.shape[1] + gains,
        "added": head.shape[0] if adds else 0,
    }


def refuse(model: nn.Module, why: str) -> NoReturn:
    """Raise the `ModelError` that says why a model's stream does not fit."""
    raise ModelError(f"The residual stream of {type(model).__name__} cannot be sliced: {why}; choose another method.")
