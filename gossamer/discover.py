"""A room's catalogue is its folder: every module without a leading underscore is one method, named as its file."""

import functools
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import TypeVar

from gossamer.errors import PlanError

T = TypeVar("T")


def names(room: ModuleType) -> list[str]:
    """The methods of a room, in alphabetical order."""
    return list(_files(tuple(room.__path__)))


@functools.cache
def _files(folder: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folder) if not m.name.startswith("_")))


def load(room: ModuleType, name: str, kind: type[T]) -> type[T]:
    """The one class of `kind` that the room's file `name` defines.

    Raises `PlanError` for a name the room does not have; an import error inside the file is passed on as it is.
    """
    if name not in names(room):
        noun = room.__name__.rpartition(".")[2]
        raise PlanError(f"There is nothing named {name!r} in {noun}; choose one of: {', '.join(names(room))}.")
    module = importlib.import_module(f"{room.__name__}.{name}")
    found = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__ and issubclass(member, kind) and not inspect.isabstract(member)
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {kind.__name__}, it defines {len(found)}")
    return found[0]


def catalogue(room: ModuleType, kind: type[T]) -> dict[str, type[T]]:
    """Every method of a room by name."""
    return {name: load(room, name, kind) for name in names(room)}
