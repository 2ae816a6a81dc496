"""The options of a curve that no mixture of others beats."""

from collections.abc import Sequence

from gossamer.vocabulary import Option, Unit


def hull(options: Sequence[Option], unit: Unit) -> list[int]:
    """Indices of the lower convex hull of (cost, error), by ascending cost and falling error."""
    found: list[int] = []
    for i in sorted(range(len(options)), key=lambda i: (options[i].cost.of(unit), options[i].error)):
        if found and options[i].error >= options[found[-1]].error:
            continue
        while len(found) > 1 and slope(options, found[-2], found[-1], unit) <= slope(options, found[-1], i, unit):
            found.pop()
        found.append(i)
    return found


def slope(options: Sequence[Option], a: int, b: int, unit: Unit) -> float:
    """Loss saved per unit spent in going from option a to option b."""
    return (options[a].error - options[b].error) / (options[b].cost.of(unit) - options[a].cost.of(unit))
