"""Places of rows or columns, as they come from a file."""

from torch import Tensor


def distinct(places: Tensor, below: int) -> None:
    """Raise `ValueError` unless every one of `places` is below `below`, none is negative, and no two are the same."""
    found = places.long().sort().values
    if len(found) and (int(found[0]) < 0 or int(found[-1]) >= below or not bool(found.diff().gt(0).all())):
        raise ValueError(f"its {len(found)} places are not distinct ones of {below}")
