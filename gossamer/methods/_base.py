"""The promise of a method."""

from typing import ClassVar

from gossamer import discover


class Method:
    """A named choice of structures, metric and allocator; the file's name is the method's."""

    structures: ClassVar[tuple[str, ...]]
    metric: ClassVar[str]
    allocator: ClassVar[str]


def method(name: str) -> type[Method]:
    """The method with this name."""
    import gossamer.methods as room

    return discover.load(room, name, Method)
