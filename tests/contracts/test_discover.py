"""A room's catalogue is its folder."""

from types import ModuleType

import pytest

from gossamer import budgets, discover, expressions, methods, metrics, sites, solvers, statistics, structures
from gossamer.budgets import Allocator
from gossamer.errors import PlanError
from gossamer.expressions import Expression
from gossamer.methods import Method
from gossamer.metrics import Metric
from gossamer.sites import Host
from gossamer.solvers import Solver
from gossamer.statistics import Statistic
from gossamer.structures import Structure

ROOMS = [
    (budgets, Allocator),
    (expressions, Expression),
    (methods, Method),
    (metrics, Metric),
    (sites, Host),
    (solvers, Solver),
    (statistics, Statistic),
    (structures, Structure),
]

each_room = pytest.mark.parametrize(("room", "kind"), ROOMS, ids=[r.__name__ for r, _ in ROOMS])


@each_room
def test_every_file_of_a_room_is_one_method_with_a_docstring(room, kind):
    found = discover.catalogue(room, kind)
    assert list(found) == sorted(found) == discover.names(room)
    assert found
    for method in found.values():
        assert issubclass(method, kind)
        assert method.__doc__ and method.__module__.startswith(room.__name__)


@each_room
def test_a_name_the_room_does_not_have_is_a_plan_error_that_lists_those_it_has(room, kind):
    for name in ("nonsense", "_base", "", "../linear"):
        with pytest.raises(PlanError) as caught:
            discover.load(room, name, kind)
        assert all(known in str(caught.value) for known in discover.names(room))


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A function: file name → text ↦ a room with these files."""
    import importlib

    def build(name, **files) -> ModuleType:
        folder = tmp_path / name
        folder.mkdir()
        for file, text in {"__init__": "", **files}.items():
            (folder / f"{file}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module(name)

    return build


def test_a_new_file_is_a_new_method_and_an_underscore_hides_it(room):
    made = room("room_one", zebra="class Zebra(int): pass", ant="class Ant(int): pass", _base="class Base(int): pass")
    assert list(discover.catalogue(made, int)) == ["ant", "zebra"]


def test_a_file_with_none_or_two_methods_is_a_mistake_of_its_author(room):
    made = room("room_two", none="X = 1", two="class A(int): pass\nclass B(int): pass")
    for name in ("none", "two"):
        with pytest.raises(TypeError, match="exactly one int"):
            discover.load(made, name, int)


def test_an_import_error_inside_a_method_is_passed_on(room):
    made = room("room_three", broken="import a_module_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        discover.load(made, "broken", int)
