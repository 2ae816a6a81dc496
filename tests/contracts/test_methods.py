"""Every method: a choice of what exists, that a solver can carry out, with its source."""

import re
import sys

import pytest

from gossamer import Settings, bottlenecks, budgets, discover, methods, metrics, structures
from gossamer.bottlenecks import Bottleneck
from gossamer.budgets import Allocator
from gossamer.errors import PlanError
from gossamer.methods import Method, method
from gossamer.metrics import Metric
from gossamer.solvers import choose
from gossamer.structures import Structure

METHODS = discover.catalogue(methods, Method)
OWN = {"mixed", "quantized", "structure_and_bits", "structure_and_zeros"}
"""Methods of this project, with no paper to cite."""

each_method = pytest.mark.parametrize("name", METHODS)


@each_method
def test_it_names_structures_a_metric_and_an_allocator_that_exist(name):
    chosen = METHODS[name]
    assert isinstance(chosen.structures, tuple) and chosen.structures
    assert set(chosen.structures) <= {*discover.names(structures), *discover.names(bottlenecks)} - {"dense"}
    assert chosen.metric in discover.names(metrics)
    assert issubclass(discover.load(budgets, chosen.allocator, Allocator), Allocator)


@each_method
def test_a_solver_exists_for_each_of_its_structures_in_its_metric(name):
    ruler = discover.load(metrics, METHODS[name].metric, Metric)
    kinds = discover.catalogue(bottlenecks, Bottleneck)
    for structure in METHODS[name].structures:
        if structure in kinds:
            assert issubclass(ruler, kinds[structure].metric)
            continue
        form = discover.load(structures, structure, Structure)
        assert choose(form, ruler).accepts(form, ruler)


@each_method
def test_its_file_cites_a_source_unless_it_is_the_projects_own(name):
    said = sys.modules[METHODS[name].__module__].__doc__
    cited = re.search(r"arXiv \d{4}\.\d{5}|\b(19|20)\d\d\b", said)
    assert bool(cited) != (name in OWN), said


def test_no_two_methods_but_those_known_to_be_equal_are_the_same_choice():
    choices = {}
    for name, chosen in METHODS.items():
        choices.setdefault((chosen.structures, chosen.metric, chosen.allocator), set()).add(name)
    assert [same for same in choices.values() if len(same) > 1] == [{"lord", "svd_llm"}]


def test_a_method_is_found_by_its_name_and_an_unknown_one_is_a_plan_error():
    assert all(method(name) is chosen for name, chosen in METHODS.items())
    with pytest.raises(PlanError, match="asvd"):
        method("nonsense")


def test_the_default_settings_are_a_method():
    assert methods.settings("mixed") == Settings()
