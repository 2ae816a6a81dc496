"""Every structure: the sizes it offers, what they cost, and that what it builds is what it was given."""

from dataclasses import replace

import pytest
import torch
from contract_cases import OTHER_STRUCTURES, RANK_STRUCTURES, SHORTER, STRUCTURES, metrics_for, normal, sample, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.expressions.shared_row import SharedRow
from gossamer.vocabulary import Cost

SMALL = [(1, 1), (1, 2), (1, 40), (40, 1), (2, 2), (3, 2)]
SHAPES = [*SMALL, (8, 8), (5, 17), (17, 5), (4, 100), (130, 129), (128, 400), (400, 128)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", STRUCTURES)
def test_sizes_ascend_and_are_positive(name, shape):
    sizes = STRUCTURES[name]().sizes(shape)
    assert sizes == sorted(set(sizes))
    assert all(isinstance(s, int) and s >= 1 for s in sizes)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RANK_STRUCTURES)
def test_sizes_of_a_rank_structure_are_possible_ranks(name, shape):
    assert all(size <= min(shape) for size in STRUCTURES[name]().sizes(shape))


@pytest.mark.parametrize("name", OTHER_STRUCTURES)
def test_a_structure_that_takes_no_factors_has_a_solver_in_some_metric(name):
    assert metrics_for(name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", sorted(set(STRUCTURES) - {"dense"}))
def test_every_size_offered_is_cheaper_than_the_dense_weight(name, shape):
    form, dense = STRUCTURES[name](), STRUCTURES["dense"]()
    whole = dense.cost(shape, min(shape), 2)
    for size in form.sizes(shape):
        cost = form.cost(shape, size, 2)
        # What saves by the length of its numbers has as many.
        assert (cost.params < whole.params) != (name in SHORTER)
        # An order of columns in four bytes each may outweigh the few numbers that the largest ranks save.
        assert cost.bytes < whole.bytes or name == "pivoted_low_rank"
        # Two factors take a multiply-add for each number. Other forms may save numbers and cost time, as tensor trains
        # do; allocators leave out what is dearer than the dense weight in the budget's unit.
        if name in RANK_STRUCTURES:
            assert cost.macs < whole.macs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", STRUCTURES)
def test_costs_rise_with_size(name, shape):
    form = STRUCTURES[name]()
    costs = [form.cost(shape, size, 2) for size in form.sizes(shape)]
    for unit in ("params", "bytes", "macs"):
        if name in SHORTER and unit != "bytes":
            continue  # of these the numbers may stay as many, and only become longer
        ladder = [c.of(unit) for c in costs]
        assert ladder == sorted(set(ladder))


@pytest.mark.parametrize("shape", [(8, 8), (5, 17), (17, 5), (130, 129)], ids=str)
@pytest.mark.parametrize("name", sorted(set(STRUCTURES) - {"dense"}))
def test_a_weight_of_ordinary_size_is_offered_at_least_one_size(name, shape):
    form = STRUCTURES[name]()
    short = (name, shape) == ("dense_and_sparse", (17, 5))  # levels for rows of five, and entries apart
    assert form.sizes(shape) or form.unfit(shape) or short


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_is_offered_once_and_costs_all_its_numbers(shape):
    dense = STRUCTURES["dense"]()
    numbers = shape[0] * shape[1]
    assert dense.sizes(shape) == [min(shape)]
    assert dense.cost(shape, min(shape), 4) == Cost(params=numbers, bytes=4 * numbers, macs=numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", sorted(set(STRUCTURES) - {"dense"}))
def test_the_cost_quoted_is_the_cost_built(name, shape, dtype):
    form = STRUCTURES[name]()
    sizes = form.sizes(shape)
    for size in {*sizes[:2], *sizes[-1:]}:
        expression = sample(name, shape, size).to(dtype)
        assert form.cost(shape, size, dtype.itemsize) == stored(expression)
        assert expression.shape == shape


@pytest.mark.parametrize("name", RANK_STRUCTURES)
@given(m=st.integers(1, 12), n=st.integers(1, 12), part=st.floats(0, 1), seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_the_expression_of_two_factors_is_their_product(name, m, n, part, seed):
    r = 1 + round(part * (min(m, n) - 1))
    left, right = normal(seed, m, r), normal(seed + 1, r, n)
    expression = RANK_STRUCTURES[name]().express(left, right)
    product = left @ right
    assert expression.shape == (m, n)
    assert (expression.dense() - product).norm() <= 1e-9 * product.norm()


@pytest.mark.parametrize("name", RANK_STRUCTURES)
def test_the_parameters_of_an_expression_are_float64_and_no_views_of_the_factors(name):
    left, right = normal(0, 6, 3), normal(1, 3, 9)
    before = left.clone(), right.clone()
    expression = RANK_STRUCTURES[name]().express(left, right)
    with torch.no_grad():
        for parameter in expression.parameters():
            assert parameter.dtype == torch.float64
            parameter.zero_()
    assert torch.equal(left, before[0]) and torch.equal(right, before[1])


@pytest.mark.parametrize("name", RANK_STRUCTURES)
@pytest.mark.parametrize("shape", [(40, 60, 30), (60, 40, 39), (64, 64, 63)], ids=str)
def test_the_numbers_of_random_factors_stay_finite_and_moderate(name, shape):
    m, n, r = shape
    left, right = normal(5, m, r), normal(6, r, n)
    largest = max(float(left.abs().max()), float(right.abs().max()), float((left @ right).abs().max()))
    for parameter in RANK_STRUCTURES[name]().express(left, right).parameters():
        assert torch.isfinite(parameter).all()
        assert float(parameter.detach().abs().max()) <= 10 * largest


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("name", RANK_STRUCTURES)
def test_half_precision_holds_a_product_however_its_size_is_shared_between_the_factors(name, scale):
    left, right = normal(7, 10, 4), normal(8, 4, 12)
    sizes = torch.tensor([scale, 1.0, 1 / scale, 1.0], dtype=torch.float64)
    expression = RANK_STRUCTURES[name]().express(left * sizes, right / sizes[:, None]).to(torch.float16)
    product = left @ right
    assert (expression.dense().double() - product).norm() <= 5e-3 * product.norm()


@pytest.mark.parametrize("name", RANK_STRUCTURES)
@pytest.mark.parametrize("lost", ["right", "left", "both", "all"])
def test_factors_that_have_lost_rank_are_still_expressed(name, lost):
    left, right = normal(9, 8, 5), normal(10, 5, 11)
    if lost in ("right", "both"):
        right[3:] = 0
    if lost in ("left", "both"):
        left[:, 1] = left[:, 0]
    if lost == "all":
        right = torch.zeros_like(right)
    product = left @ right
    dense = RANK_STRUCTURES[name]().express(left, right).dense()
    assert torch.isfinite(dense).all()
    assert (dense - product).norm() <= 1e-9 * product.norm()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", sorted({*RANK_STRUCTURES, "affine_low_rank"}))
def test_the_cost_of_a_table_is_that_of_what_takes_its_place(name, tied):
    form, shape = STRUCTURES[name](), (40, 12)
    for size in form.sizes(shape)[::3]:
        linear = sample("low_rank" if name == "affine_low_rank" else name, shape, size)
        table = SharedRow(linear, normal(0, 12)) if name == "affine_low_rank" else linear
        macs = table.row_macs() + (table.macs() if tied else 0)
        assert form.as_table(shape, size, 8, tied) == replace(stored(table), macs=macs)


@pytest.mark.parametrize("tied", [False, True])
def test_a_dense_table_is_multiplied_only_where_it_is_a_head_too(tied):
    assert STRUCTURES["dense"]().as_table((40, 12), 12, 4, tied) == Cost(
        params=480, bytes=1920, macs=480 if tied else 0
    )
