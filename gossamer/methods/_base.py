"""The promise of a method."""

from typing import Any, ClassVar

from gossamer import discover
from gossamer.vocabulary import Settings


class Method:
    """A named choice of structures, metric and allocator; the file's name is the method's."""

    structures: ClassVar[tuple[str, ...]]
    metric: ClassVar[str]
    allocator: ClassVar[str]


def method(name: str) -> type[Method]:
    """The method with this name."""
    import gossamer.methods as room

    return discover.load(room, name, Method)


def settings(name: str, **others: Any) -> Settings:
    """The settings of the method with this name; `others` set what it leaves open, or override it."""
    chosen = method(name)
    named = {"structures": chosen.structures, "metric": chosen.metric, "allocator": chosen.allocator}
    return Settings(**{**named, **others})
