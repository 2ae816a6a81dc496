"""What weights may become and what that costs: known before anything is measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gossamer import bottlenecks, discover, expressions, sites, solvers, structures
from gossamer.bottlenecks import Bottleneck, Group
from gossamer.budgets import Together
from gossamer.checkpoints import saving
from gossamer.checkpoints.opening import Opened
from gossamer.errors import PlanError
from gossamer.metrics import TableMetric
from gossamer.structures import Structure
from gossamer.vocabulary import Cost, Curve, Option, Settings, Site


@dataclass(frozen=True)
class Joint:
    """A group of sites that one bottleneck may narrow together: for each of its sizes an option for every member."""

    kind: Bottleneck
    group: Group
    options: tuple[Together, ...]

    def find(self, size: int) -> Together:
        """The members' options at this size; raises `PlanError` where it was not priced."""
        sizes = [options[self.group.name].size for options in self.options]
        if size not in sizes:
            near = min(sizes, key=lambda s: abs(s - size), default=None)
            raise PlanError(f"{self.group.name}: no {self.kind.name} of size {size} was priced; the nearest is {near}.")
        return self.options[sizes.index(size)]


def structure(name: str) -> Structure:
    """The structure with this name."""
    return discover.load(structures, name, Structure)()  # type: ignore[type-abstract]


def narrowing(names: Sequence[str]) -> list[Bottleneck]:
    """The bottlenecks among the names of what weights may become."""
    known = discover.names(bottlenecks)
    return [discover.load(bottlenecks, name, Bottleneck)() for name in names if name in known]  # type: ignore[type-abstract]


def rewriting(names: Sequence[str]) -> list[Structure]:
    """The structures among the names of what weights may become; raises `PlanError` for a name of neither kind."""
    known = discover.names(bottlenecks)
    stranger = next((name for name in names if name not in (*known, *discover.names(structures))), None)
    if stranger is not None:
        choice = ", ".join(sorted((*discover.names(structures), *known)))
        raise PlanError(f"There is nothing named {stranger!r} in structures; choose one of: {choice}.")
    return [structure(name) for name in dict.fromkeys(names) if name not in known]


def menu(site: Site, names: Sequence[str], itemsize: int) -> list[tuple[Structure, int, Cost]]:
    """What could be written in a site's place, the dense weight first, with costs and yet without prices."""
    return [
        (form, size, _cost(form, site, size, itemsize))
        for form in (structure("dense"), *forms_for(site, names))
        for size in form.sizes(site.shape)
    ]


def forms_for(site: Site, names: Sequence[str]) -> list[Structure]:
    """The structures among the names that the site's weight may become: tables have a solver for few of them."""
    forms = rewriting(names)
    return forms if site.role != "embedding" else [form for form in forms if solvers.solvable(type(form), TableMetric)]


def _cost(form: Structure, site: Site, size: int, itemsize: int) -> Cost:
    if site.role == "embedding":
        return form.as_table(site.shape, size, itemsize, bool(site.tied))
    return form.cost(site.shape, size, itemsize)


Narrowings = Sequence[tuple[Bottleneck, Group]]


def find_groups(opened: Opened, found: Sequence[Site], settings: Settings) -> Narrowings:
    """The groups of sites that the settings' bottlenecks may narrow.

    Raises `PlanError` where two would narrow one, or one writes a module anew that is a site itself.
    """
    layers = [site for site in found if site.role == "layer"]
    groups = [(kind, group) for kind in narrowing(settings.structures) for group in kind.find(opened.model, layers)]
    first: dict[str, str] = {}
    for kind, group in groups:
        taken = next((site.name for site in found if site.name in group.beside), None)
        if taken is not None:
            raise PlanError(f"{kind.name} narrows {taken} with the layers, so leave --embeddings out.")
        if first.setdefault(group.name, kind.name) != kind.name:
            raise PlanError(f"{first[group.name]} and {kind.name} both narrow {group.name}; name one of them.")
    return groups


def absent(groups: Narrowings, names: Sequence[str]) -> tuple[str, ...]:
    """A note for every bottleneck among the structures `names` that the model has nowhere."""
    there = {kind.name for kind, _ in groups}
    return tuple(
        f"Nothing in this model can be narrowed as {kind.name}, so what it would have written stays dense or is "
        "written otherwise."
        for kind in narrowing(names)
        if kind.name not in there
    )


def fallen_back(found: Sequence[Site], names: Sequence[str]) -> tuple[str, ...]:
    """A note for every structure among `names` and every reason for which it is another one at some sites."""
    fallen: dict[tuple[str, str], list[str]] = {}
    for site in found:
        for form in forms_for(site, names):
            if why := form.fallback(site.shape):
                fallen.setdefault((form.name, why), []).append(site.name)
    return tuple(f"Instead of {name} weights become {why} {some(at)}" for (name, why), at in fallen.items())


def some(names: Sequence[str]) -> str:
    """How many, and the first few by name."""
    return f"({len(names)}): {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"


def all_fit(found: Sequence[Site], names: Sequence[str]) -> None:
    """Raise `PlanError` where a structure cannot be had at a site, or no structure at a table that was asked for."""
    for site in found:
        forms = forms_for(site, names)
        for form in forms:
            if why := form.unfit(site.shape):
                raise PlanError(f"{site.name} cannot become {form.name}: {why}.")
        if not forms and site.role == "embedding":
            raise PlanError(
                f"{site.name} is a table of embeddings, which cannot become {', '.join(names)}; name low_rank "
                "or a quantized form as normal_64 too, or leave --embeddings out."
            )


def unpriced(
    opened: Opened, found: Sequence[Site], groups: Narrowings, settings: Settings
) -> tuple[tuple[Curve, ...], tuple[Joint, ...]]:
    """Curves and joints whose errors are all zero: what can be known before anything is measured."""
    itemsize = itemsize_of(opened)
    curves = tuple(
        Curve(
            site=site.name,
            options=tuple(
                Option(structure=form.name, size=size, cost=cost, error=0.0)
                for form, size, cost in menu(site, settings.structures, itemsize)
            ),
        )
        for site in found
    )
    joints = tuple(
        Joint(kind, group, together(kind, group, [0.0] * len(kind.sizes(group)), itemsize)) for kind, group in groups
    )
    return curves, joints


def together(kind: Bottleneck, group: Group, errors: Sequence[float], itemsize: int) -> tuple[Together, ...]:
    """The members' options for every size; the whole error is put down to the reader."""
    found = []
    for size, error in zip(kind.sizes(group), errors, strict=True):
        costs = kind.cost(group, size, itemsize)
        found.append(
            {
                name: Option(structure=kind.name, size=size, cost=cost, error=error if name == group.name else 0.0)
                for name, cost in costs.items()
            }
        )
    return tuple(found)


def total_cost(model: Any) -> Cost:
    """The whole model: all its numbers once, its tensors' bytes, and the multiply-adds of its linear layers.

    Attention's own multiply-adds depend on the length of the context and are not counted.
    """
    kinds = discover.catalogue(sites, sites.Host)  # type: ignore[type-abstract]
    params, macs = sum(p.numel() for p in model.parameters()), 0
    for module in model.modules():
        if isinstance(module, expressions.Expression):
            params += module.packed()
        if isinstance(module, sites.Carrier | sites.TiedHead):
            macs += module.macs()
        elif any(kind.matches(module) and not kind.looked_up for kind in kinds.values()):
            macs += module.weight.numel()
    return Cost(params=params, bytes=saving.weights_bytes(model), macs=macs)


def itemsize_of(opened: Opened) -> int:
    """Bytes of one of the model's numbers."""
    return int(next(opened.model.parameters()).dtype.itemsize)
