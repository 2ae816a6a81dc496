"""From plans to models: every layer solved and put in place."""

import copy
from collections.abc import Sequence
from typing import Any

from gossamer import sites
from gossamer.checkpoints.store import read_tensors
from gossamer.expressions import Expression
from gossamer.recipes._at_once import at_once
from gossamer.recipes.menus import Joint, rewriting
from gossamer.recipes.prices import Weights, factors_path, weight_of
from gossamer.recipes.pricing import Priced, expression
from gossamer.vocabulary import Plan, Progress, Site, silent

Built = tuple[Plan, Any]
"""A plan and the model that it made."""


def build(
    priced: Priced, plans: Sequence[Plan], *, like: Sequence[Built] = (), progress: Progress = silent
) -> list[Any]:
    """A model for each plan, with its expressions in place.

    What none rewrites they share with the dense model, and what several write alike with each other, and with the
    models `like` these.
    """
    model = priced.opened.model
    built = [copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())}) for _ in plans]
    rewritten = [s for s in priced.sites if any(p.choices[s.name].structure != "dense" for p in plans)]
    joints = {joint.group.name: joint for joint in priced.joints}
    forms = {form.name for form in rewriting(priced.settings.structures)}

    def write(site: Site) -> None:
        weight, ruler = weight_of(priced.opened, site), priced.weigh(site)
        solved: dict[tuple[str, int], Expression] = {
            asked(done, site): model.get_submodule(site.name).expression
            for done, model in like
            if done.choices[site.name].structure in forms
        }
        for small, plan in zip(built, plans, strict=True):
            option = plan.choices[site.name]
            if site.name in joints and option.structure == joints[site.name].kind.name:
                _narrow(small, priced, joints[site.name], option.size)
            if option.structure in forms:  # else dense, or narrowed when its group's reader comes
                if asked(plan, site) not in solved:
                    solved[asked(plan, site)] = expression(priced, site, option, weight, ruler)
                sites.replace(small, site, solved[asked(plan, site)])

    for _ in progress("solve", at_once(write, rewritten), len(rewritten)):
        pass
    return built


def _narrow(small: Any, priced: Priced, joint: Joint, size: int) -> None:
    """Put a narrowed group in place."""
    weights = Weights(priced.opened, joint.group.members)
    paths = {place.name: factors_path(priced.factors, place, joint.kind.name) for place in joint.group.places}
    prepared = {name: read_tensors(path)[0] for name, path in paths.items()}
    ruler = joint.kind.weigh(joint.group, joint.group.reader, priced.weigh)
    joint.kind.install(small, joint.group, weights, size, ruler, prepared)


def asked(plan: Plan, site: Site) -> tuple[str, int]:
    """What the plan makes of the site, whatever it is promised to cost."""
    return plan.choices[site.name].structure, plan.choices[site.name].size
