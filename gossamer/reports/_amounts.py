"""Amounts as people write them."""

from collections.abc import Mapping

from gossamer.vocabulary import Unit

SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

OPTION: Mapping[Unit, str] = {"params": "keep", "macs": "macs", "bytes": "bytes", "bits": "bits"}
"""What the command line calls a budget in this unit."""


def counts(unit: Unit, layers: str = "linear layers") -> str:
    """What a budget in this unit counts, `layers` being those that may be rewritten."""
    return {
        "params": f"parameters of the {layers} kept",
        "macs": f"multiply-adds of the {layers} kept",
        "bytes": "bytes of all weights",
        "bits": f"bits a weight of the {layers}",
    }[unit]


def axis(unit: Unit, layers: str = "linear layers") -> str:
    """The same as the title of an axis."""
    return "size of all weights, MB" if unit == "bytes" else counts(unit, layers)


def amount(unit: Unit, value: float) -> str:
    """An amount of a budget."""
    of = {"params": "of the parameters", "macs": "of the multiply-adds", "bits": "bits a weight"}
    return size(value) if unit == "bytes" else f"{value:g} {of[unit]}"


def size(count: float, like: float | None = None) -> str:
    """Bytes, in the unit that leaves few digits of `like`, by default of themselves."""
    return _scaled(count, like, "B")


def many(count: float, like: float | None = None) -> str:
    """A count of numbers or multiply-adds, in the same way."""
    return _scaled(count, like, "")


def rate(count: float) -> str:
    """So many a second."""
    return f"{count:.0f}" if count >= 100 else f"{count:.3g}"


def _scaled(count: float, like: float | None, of: str) -> str:
    for scale, name in SCALES:
        if (count if like is None else like) >= scale:
            return f"{count / scale:.2f} {name}{of}"
    return f"{count:.0f} {of}".strip()
