"""Sequential calibration: block after block, every weight fitted anew to what reaches it in the compressed model.

A plan is priced and solved on the inputs of the dense model. In the compressed one a layer is fed x̃ instead of x, by
layers before it that have changed. The weight on x̃ that comes closest to what W says of x is W C Ã⁻¹ with C = E[x x̃ᵀ]
and Ã = E[x̃ x̃ᵀ], and what it loses besides is weighed by Ã: so each expression is solved once more, for that weight and
in the metric with Ã. Where x̃ = x nothing changes. Gradients' moments stay those of the dense model, as do all sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gossamer import discover, metrics, sites, solvers
from gossamer.errors import ModelError, PlanError
from gossamer.expressions.dense import Dense
from gossamer.metrics import KroneckerMetric, Metric
from gossamer.recipes.pricing import Priced, rewriting, weight_of
from gossamer.sites import block_of
from gossamer.vocabulary import Option, Plan, Progress, Settings, Site, silent

INPUT = "input_second_moment"
Call = tuple[tuple[Any, ...], dict[str, Any]]


def can_refit(settings: Settings) -> None:
    """Raise `PlanError` where the metric does not weigh by the inputs' second moment, which this replaces."""
    metric = discover.load(metrics, settings.metric, Metric)  # type: ignore[type-abstract]
    if not issubclass(metric, KroneckerMetric) or INPUT not in metric.needs:
        raise PlanError(
            f"Calibrating in order needs a metric by the inputs' second moment, and {settings.metric} is none; use "
            "kronecker_fisher or activation."
        )


@torch.no_grad()
def refit_in_order(priced: Priced, plan: Plan, small: Any, *, progress: Progress = silent) -> None:
    """Refit the expressions of `small` (see `build`), in place.

    Raises as `can_refit` does, and `ModelError` where the model's blocks do not follow one another.
    """
    can_refit(priced.settings)
    dense, windows = priced.opened.model, priced.read.ids
    blocks: dict[str, list[Site]] = {}
    for site in priced.sites:
        blocks.setdefault(block_of(dense, site.name), []).append(site)
    blocks.pop("", None)
    calls = _calls(dense, list(blocks), windows)
    hidden = [_hidden(call) for call in calls[next(iter(blocks))]]
    clean = list(hidden)
    for name, inside in progress("in order", blocks.items(), len(blocks)):
        before, after = dense.get_submodule(name), small.get_submodule(name)
        seen = _Seen(dense, small, inside)
        for i, call in enumerate(calls[name]):
            clean[i] = _replay(before, call, clean[i])
            _replay(after, call, hidden[i])
            seen.add()
        seen.close()
        for site in inside:
            _refit(priced, plan.choices[site.name], small, site, seen)
        hidden = [_replay(after, call, x) for call, x in zip(calls[name], hidden, strict=True)]


def _calls(model: nn.Module, blocks: Sequence[str], windows: Tensor) -> dict[str, list[Call]]:
    """What each block is called with for each window; of later blocks without the hidden states, which flow anew."""
    calls: dict[str, list[Call]] = {name: [] for name in blocks}
    last: list[Tensor] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = (args, kwargs)
            if last and not torch.equal(last[0], _hidden(call)):
                raise ModelError(f"{name} is not fed by the block before it, so calibration cannot go in order.")
            calls[name].append(call if name == blocks[0] else _with(call, torch.empty(0)))

        return hook

    def done(_module: nn.Module, _args: Any, output: Any) -> None:
        last[:] = [_first(output)]

    handles: list[Any] = []
    for name in blocks:
        block = model.get_submodule(name)
        handles.append(block.register_forward_pre_hook(note(name), with_kwargs=True))
        handles.append(block.register_forward_hook(done))
    try:
        for window in windows:
            last.clear()
            sites.run(model, window[None])
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _hidden(call: Call) -> Tensor:
    args, kwargs = call
    found: Tensor = args[0] if args else next(iter(kwargs.values()))
    return found


def _with(call: Call, hidden: Tensor) -> Call:
    args, kwargs = call
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): hidden})


def _replay(block: nn.Module, call: Call, hidden: Tensor) -> Tensor:
    args, kwargs = _with(call, hidden)
    return _first(block(*args, **kwargs))


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


class _Seen:
    """C and Ã of the inputs of a block's sites, one pair for sites that share theirs."""

    def __init__(self, dense: nn.Module, small: nn.Module, inside: Sequence[Site]) -> None:
        self.cross: dict[str, Tensor] = {}
        self.moment: dict[str, Tensor] = {}
        self.tokens = 0
        self._now: dict[str, list[Tensor]] = {}
        readers = list(dict.fromkeys(site.reads for site in inside))
        self._handles: list[Any] = [
            model.get_submodule(reader).register_forward_pre_hook(self._hook(reader))
            for model in (dense, small)
            for reader in readers
        ]

    def _hook(self, reader: str) -> Any:
        return lambda _module, args: self._now.setdefault(reader, []).append(args[0].flatten(0, -2))

    def add(self) -> None:
        """Take in one window, which both models have just run."""
        for reader, (x, changed) in self._now.items():
            self.cross[reader] = self.cross.get(reader, 0) + x.float().T @ changed.float()
            self.moment[reader] = self.moment.get(reader, 0) + changed.float().T @ changed.float()
        self.tokens += len(next(iter(self._now.values()))[0])
        self._now.clear()

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def _refit(priced: Priced, option: Option, small: Any, site: Site, seen: _Seen) -> None:
    forms = {form.name: form for form in rewriting(priced.settings.structures)}
    weight = weight_of(priced.opened, site)
    module = small.get_submodule(site.name)
    moment = seen.moment[site.reads].double() / seen.tokens
    cross = seen.cross[site.reads].double() / seen.tokens
    ruler = _ruler(priced, site, moment, seen.tokens)
    if option.structure in forms:
        form = forms[option.structure]
        wanted = _wanted(weight, weight, cross, moment, ruler)
        solver = solvers.choose(type(form), priced.metric)
        solution = solver.solve(wanted, form, option.size, ruler, solver.prepare(wanted, form, ruler))
        module.expression = solution.to(weight.device, next(module.parameters()).dtype)
    elif option.structure == "dense":
        # In a module of its own: the one that is there shares its parameters with the dense model.
        sites.replace(small, site, Dense(_wanted(weight, weight, cross, moment, ruler)))
    elif isinstance(module.expression, Dense):
        # A member of a narrowed group: a writer says what it said, the reader what the dense one says of all.
        own = module.expression.weight.detach().double()
        aim = weight if own.shape != weight.shape and own.shape[0] == weight.shape[0] else own
        module.expression.weight.copy_(_wanted(aim, own, cross, moment, ruler))


def _ruler(priced: Priced, site: Site, moment: Tensor, tokens: int) -> KroneckerMetric:
    """The site's metric with the inputs of the compressed model."""
    given: Mapping[str, Tensor] = priced.sums.moments(site, priced.metric.needs)
    found: Metric = priced.metric(site.shape, _Replaced(given, moment), tokens)
    assert isinstance(found, KroneckerMetric)
    return found


@dataclass(frozen=True)
class _Replaced(Mapping[str, Tensor]):
    given: Mapping[str, Tensor]
    moment: Tensor

    def __getitem__(self, name: str) -> Tensor:
        return self.moment if name == INPUT else self.given[name]

    def __iter__(self) -> Any:
        return iter(self.given)

    def __len__(self) -> int:
        return len(self.given)


def _wanted(aim: Tensor, own: Tensor, cross: Tensor, moment: Tensor, ruler: KroneckerMetric) -> Tensor:
    """The weight on x̃ that says best what `aim` says of x, as a change of `own`, which few tokens make smaller."""
    assert ruler.input is not None
    change: Tensor = torch.linalg.solve(ruler.input, (aim @ cross - own @ moment).T).T
    return own + change
