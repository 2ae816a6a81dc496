"""CoSpaDi and COMPOT: dictionaries and sparse codes, against what mathematics says of them."""

import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.func import functional_call

from gossamer import budgets, discover, metrics, solvers, structures
from gossamer import sites as sites_module
from gossamer.bottlenecks import Group
from gossamer.bottlenecks.shared_dictionary import SharedDictionary
from gossamer.budgets import Allocator
from gossamer.expressions import read
from gossamer.expressions.dense import Dense
from gossamer.expressions.product import Product
from gossamer.expressions.sparse import Sparse, packed, unpacked
from gossamer.linalg.dictionary import (
    best_atoms,
    best_dictionary,
    better_orthonormal,
    nearest_orthonormal,
    orthogonal_codes,
    orthonormal_atoms,
    start_error,
)
from gossamer.linalg.principal import principal_rows
from gossamer.linalg.pursuit import largest, pursue
from gossamer.methods import method
from gossamer.metrics import InputMetric, Metric
from gossamer.metrics.activation import Activation
from gossamer.metrics.identity import Identity
from gossamer.metrics.kronecker_fisher import KroneckerFisher
from gossamer.solvers import choose
from gossamer.solvers.dictionary_pursuit import DictionaryPursuit
from gossamer.solvers.dictionary_thresholding import DictionaryThresholding
from gossamer.structures import Structure
from gossamer.structures._dictionary import kept
from gossamer.structures.dictionary import Dictionary
from gossamer.structures.low_rank import LowRank
from gossamer.structures.orthogonal_dictionary import OrthogonalDictionary
from gossamer.vocabulary import NO_COST, Site

PAIRS = {"pursuit": (DictionaryPursuit, Dictionary), "thresholding": (DictionaryThresholding, OrthogonalDictionary)}
SHAPES = [(12, 20), (20, 12), (16, 16)]

each_pair = pytest.mark.parametrize(("solver", "form"), PAIRS.values(), ids=PAIRS.keys())
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
seeds = st.integers(0, 10_000)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Moment(InputMetric):
    """A metric of any second moment, singular ones included."""

    def __init__(self, shape, moment):
        super().__init__(shape, {})
        self.moment = moment

    @property
    def input(self):
        return self.moment


def layer(m, n, seed=0):
    """(weight, its activation metric) with correlated inputs of uneven sizes."""
    inputs = normal(seed + 1, 4 * n, n) @ normal(seed + 2, n, n) * torch.logspace(-1, 1, n, dtype=torch.float64)
    return normal(seed, m, n), Activation((m, n), {"input_second_moment": inputs.T @ inputs / len(inputs)})


def union_of_subspaces(m, n, seed):
    """(weight, metric): after whitening, every row lies near one of eight subspaces of eight dimensions."""
    _, metric = layer(m, n, seed)
    groups = [normal(seed + 10 + i, m // 8, 8) @ normal(seed + 20 + i, 8, n) for i in range(8)]
    white = torch.cat(groups) + 0.3 * normal(seed + 30, m, n)
    root = torch.linalg.cholesky(metric.input)
    return torch.linalg.solve_triangular(root, white, upper=False, left=False), metric


def random_start(rows, count, seed=0):
    """(atoms, codes) as the paper starts: random rows of length one, and no codes yet."""
    picks = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
    atoms = rows[picks] / rows[picks].norm(dim=1, keepdim=True)
    return atoms, rows.new_zeros(len(rows), count)


def residual(rows, atoms, codes):
    """Half the squared distance, the unit of the metrics."""
    return 0.5 * float((rows - codes @ atoms).square().sum())


def svd_llm_error(weight, metric, bytes_):
    """The error of the best low-rank weight of at least so many bytes at 16 bit."""
    rank = -(-bytes_ // (2 * sum(weight.shape)))
    return start_of_rank(principal_rows(weight, metric.input), rank)


def start_of_rank(rows, rank):
    return 0.5 * float(rows[:, rank:].square().sum())


def solve(solver, form, weight, metric, size):
    return solver().solve(weight, form(), size, metric, {})


# The pursuit


def one_round(rows, atoms, codes, sparsity):
    """(atoms, codes) after new codes for all rows and new atoms for all codes."""
    return best_atoms(rows, pursue(rows, atoms, codes, sparsity))


@given(m=st.integers(1, 9), d=st.integers(1, 12), k=st.integers(1, 16), part=st.floats(0, 1), seed=seeds)
@settings(deadline=None, max_examples=60)
def test_a_pursuit_leaves_nothing_along_the_atoms_it_took(m, d, k, part, seed):
    rows, atoms = normal(seed, m, d), torch.nn.functional.normalize(normal(seed + 1, k, d), dim=1)
    sparsity = 1 + round(part * (min(k, max(1, d // 2)) - 1))
    codes = pursue(rows, atoms, torch.zeros(m, k, dtype=torch.float64), sparsity, refits=100)
    assert ((codes != 0).sum(1) <= sparsity).all()
    left = ((rows - codes @ atoms) @ atoms.T)[codes != 0]
    assert left.abs().max() <= 1e-8 * rows.norm(dim=1).max()


@given(m=st.integers(1, 9), d=st.integers(1, 12), k=st.integers(1, 16), part=st.floats(0, 1), seed=seeds)
@example(m=5, d=5, k=13, part=0.0, seed=5)
@settings(deadline=None, max_examples=60)
def test_no_row_is_coded_worse_than_before(m, d, k, part, seed):
    rows, atoms = normal(seed, m, d), torch.nn.functional.normalize(normal(seed + 1, k, d), dim=1)
    sparsity = 1 + round(part * (k - 1))
    before = largest(normal(seed + 2, m, k), sparsity)
    for _ in range(4):
        after = pursue(rows, atoms, before, sparsity)
        assert ((after != 0).sum(1) <= sparsity).all()
        assert ((rows - after @ atoms).norm(dim=1) <= (rows - before @ atoms).norm(dim=1)).all()
        before = after


def test_a_pursuit_of_all_rows_is_the_pursuit_of_each():
    rows, atoms = normal(0, 7, 10), torch.nn.functional.normalize(normal(1, 15, 10), dim=1)
    nothing = torch.zeros(7, 15, dtype=torch.float64)
    for row, code in zip(rows, pursue(rows, atoms, nothing, 4, refits=30), strict=True):
        support = (atoms @ row).abs().topk(4).indices
        expected = torch.zeros(15, dtype=torch.float64)
        expected[support] = torch.linalg.lstsq(atoms[support].T, row[:, None]).solution[:, 0]
        torch.testing.assert_close(code, expected, rtol=1e-9, atol=1e-12)


def test_pursuits_one_after_another_find_codes_that_one_does_not():
    atoms = torch.nn.functional.normalize(normal(1, 30, 40), dim=1)
    true = largest(normal(2, 50, 30), 6)
    codes, found = torch.zeros_like(true), []
    for _ in range(10):
        codes = pursue(true @ atoms, atoms, codes, 6, refits=20)
        found.append(int(((codes != 0) == (true != 0)).all(1).sum()))
    assert found[0] < 25
    assert found[-1] > 45


def test_atoms_that_occur_twice_or_are_zero_are_no_obstacle():
    atoms = torch.nn.functional.normalize(normal(1, 4, 6), dim=1)
    rows = normal(0, 5, 6)
    doubled = torch.cat([atoms, atoms, torch.zeros(2, 6, dtype=torch.float64)])
    codes = torch.zeros(5, 10, dtype=torch.float64)
    for _ in range(20):
        codes = pursue(rows, doubled, codes, 9, refits=20)
    assert torch.isfinite(codes).all()
    best = torch.linalg.lstsq(atoms.T, rows.T).solution
    torch.testing.assert_close(codes @ doubled, best.T @ atoms, rtol=1e-7, atol=1e-9)
    assert not pursue(torch.zeros_like(rows), doubled, torch.zeros_like(codes), 3).any()


@given(m=st.integers(1, 6), k=st.integers(1, 9), part=st.floats(0, 1), seed=seeds)
@settings(deadline=None, max_examples=40)
def test_for_orthogonal_atoms_thresholding_and_pursuit_are_the_same(m, k, part, seed):
    rows, sparsity = normal(seed, m, 9), 1 + round(part * (k - 1))
    atoms = nearest_orthonormal(normal(seed + 1, k, 9))
    found = pursue(rows, atoms, rows.new_zeros(m, k), sparsity)
    torch.testing.assert_close(found, largest(rows @ atoms.T, sparsity), rtol=1e-8, atol=1e-10)


# The alternation


@given(m=st.integers(3, 14), d=st.integers(1, 14), part=st.floats(0, 1), seed=seeds)
@settings(deadline=None, max_examples=30)
def test_no_round_raises_the_error(m, d, part, seed):
    rows = normal(seed, m, d)
    count = 1 + round(part * (m - 1))
    atoms, codes = random_start(rows, count, seed)
    errors = [residual(rows, atoms, codes)]
    for _ in range(6):
        atoms, codes = one_round(rows, atoms, codes, kept(count))
        assert ((codes != 0).sum(1) <= kept(count)).all()
        errors.append(residual(rows, atoms, codes))
    assert all(after <= before + 1e-12 * errors[0] for before, after in pairwise(errors))


@given(m=st.integers(2, 14), d=st.integers(2, 14), part=st.floats(0, 1), seed=seeds)
@settings(deadline=None, max_examples=30)
def test_neither_closed_form_of_thresholding_raises_the_error(m, d, part, seed):
    rows = normal(seed, m, d)
    count = 1 + round(part * (min(m, d) - 1))
    atoms = nearest_orthonormal(normal(seed + 1, count, d))
    before = math.inf
    for _ in range(6):
        codes = largest(rows @ atoms.T, kept(count))
        coded = residual(rows, atoms, codes)
        atoms = better_orthonormal(rows, atoms, kept(count))
        torch.testing.assert_close(atoms @ atoms.T, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-10)
        turned = residual(rows, atoms, codes)
        assert coded <= before * (1 + 1e-12) + 1e-12
        assert turned <= coded + 1e-12 * residual(rows, atoms, torch.zeros_like(codes))
        before = turned


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_orthogonal_codes_found_mostly_in_float32_are_as_good_as_those_of_float64(size):
    weight, metric = layer(60, 40)
    rows = size * principal_rows(weight, metric.input)
    codes = orthogonal_codes(rows, 24, 12, 20)
    exact = largest(rows @ orthonormal_atoms(rows, 24, 12, 20).T, 12)
    assert codes.dtype == torch.float64 and int((codes != 0).sum(1).max()) <= 12

    def left(found):
        return float((rows / size - found @ best_dictionary(found, rows / size)).square().sum())

    assert left(codes) == pytest.approx(left(exact), rel=0.02)


def test_orthonormal_atoms_exist_for_codes_that_have_lost_rank():
    codes, rows = normal(0, 9, 5), normal(1, 9, 7)
    codes[:, 2:] = 0
    atoms = nearest_orthonormal(codes.T @ rows)
    torch.testing.assert_close(atoms @ atoms.T, torch.eye(5, dtype=torch.float64))


def test_without_sparsity_the_rounds_come_down_to_the_truncated_svd_and_never_below_it():
    weight, metric = layer(24, 30)
    rows = principal_rows(weight, metric.input)
    count, errors = 8, []
    least = start_of_rank(rows, count)
    atoms, codes = random_start(rows, count)
    for _ in range(20):
        atoms, codes = one_round(rows, atoms, codes, count)
        errors.append(residual(rows, atoms, codes) / least)
    assert all(error >= 1 - 1e-9 for error in errors)
    assert errors[0] > 1.01
    assert errors[9] <= 1.02
    assert errors[19] <= 1.01


def test_an_atom_that_no_row_uses_becomes_a_badly_coded_row():
    rows = normal(0, 8, 5)
    rows[3] *= 100
    atoms, codes = random_start(rows, 4)
    codes[:, 0] = rows @ atoms[0]
    codes[3] = 0
    updated, _ = best_atoms(rows, codes)
    torch.testing.assert_close(updated[1], rows[3] / rows[3].norm())
    assert not torch.allclose(updated[2], updated[1]), "two atoms that are not used become different rows"


# The best dictionary for given codes


@each_shape
def test_the_last_step_lowers_the_error_in_every_metric(shape):
    weight, metric = layer(*shape)
    rows = principal_rows(weight, metric.input)
    for count in (3, 6, 9):
        atoms, codes = random_start(rows, count)
        for _ in range(3):
            atoms, codes = one_round(rows, atoms, codes, kept(count))
            polished = metric.error(weight - codes @ best_dictionary(codes, weight))
            assert polished <= residual(rows, atoms, codes) * (1 + 1e-9)


@each_shape
def test_the_dictionary_is_the_best_for_its_codes_whatever_the_metric(shape):
    weight, _ = layer(*shape)
    codes = largest(normal(5, shape[0], 8), 4)
    dictionary = best_dictionary(codes, weight)
    for metric in (Identity(shape, {}), layer(*shape)[1], Moment(shape, torch.ones(shape[1], shape[1]).double())):
        least = metric.error(weight - codes @ dictionary)
        for seed in range(20):
            step = 10.0 ** -(seed % 5) * normal(seed, 8, shape[1])
            assert metric.error(weight - codes @ (dictionary + step)) >= least * (1 - 1e-10)


def test_codes_that_have_lost_rank_get_a_dictionary_of_moderate_numbers():
    weight, codes = normal(0, 12, 7), largest(normal(1, 12, 6), 3)
    codes[:, 1] = codes[:, 0] * (1 + 1e-13)
    codes[:, 2] = 0
    dictionary = best_dictionary(codes, weight)
    assert dictionary.norm() <= 10 * weight.norm()
    projection = codes @ torch.linalg.pinv(codes, rtol=1e-9) @ weight
    torch.testing.assert_close(codes @ dictionary, projection)


@each_pair
@each_shape
def test_the_error_in_whitened_space_is_the_error_in_the_metric_of_what_is_exported(solver, form, shape):
    weight, metric = layer(*shape)
    root = torch.linalg.cholesky(metric.input)
    for size in form().sizes(shape):
        expression = solve(solver, form, weight, metric, size)
        codes, dictionary = (factor.dense().detach() for factor in expression.factors)
        white = 0.5 * float((weight @ root - codes @ (dictionary @ root)).square().sum())
        assert metric.error(weight - expression.dense().detach()) == pytest.approx(white, rel=1e-6)
        rows = principal_rows(weight, metric.input)
        best = torch.linalg.lstsq(codes, rows, driver="gelsd").solution
        assert residual(rows, best, codes) == pytest.approx(white, rel=1e-6)


@given(m=st.integers(1, 9), n=st.integers(1, 9), rank=st.integers(1, 9), seed=seeds)
@settings(deadline=None, max_examples=40)
def test_principal_rows_keep_every_product_in_the_metric(m, n, rank, seed):
    weight, inputs = normal(seed, m, n), normal(seed + 1, rank, n)
    moment = inputs.T @ inputs
    rows = principal_rows(weight, moment)
    assert rows.shape == (m, min(m, n))
    inner = weight @ moment @ weight.T
    assert (rows @ rows.T - inner).norm() <= 1e-10 * inner.norm()
    lengths = rows.norm(dim=0)
    assert (lengths.diff() <= 1e-7 * lengths[0]).all()
    across = rows.T @ rows - lengths.square().diag()
    assert across.norm() <= 1e-10 * lengths[0] ** 2


# Prices and solutions


@each_pair
@each_shape
def test_no_solution_costs_more_than_its_price_which_is_that_of_thresholded_principal_coordinates(solver, form, shape):
    weight, metric = layer(*shape)
    prepared = solver().prepare(weight, form(), metric)
    sizes = form().sizes(shape)
    _, _, axes = torch.linalg.svd(weight @ torch.linalg.cholesky(metric.input), full_matrices=False)
    rows = weight @ torch.linalg.cholesky(metric.input)
    for size, price in zip(sizes, solver().prices(prepared, sizes), strict=True):
        atoms = axes[:size]
        assert price == pytest.approx(residual(rows, atoms, largest(rows @ atoms.T, kept(size))), rel=1e-9)
        paid = metric.error(weight - solve(solver, form, weight, metric, size).dense().detach())
        assert paid <= price * (1 + 1e-9)


@each_pair
def test_a_scale_of_the_metric_changes_no_solution(solver, form):
    weight, metric = layer(16, 12)
    one = solve(solver, form, weight, metric, 6).dense()
    many = solve(solver, form, weight, Moment((16, 12), 1e6 * metric.input), 6).dense()
    torch.testing.assert_close(one, many, rtol=1e-6, atol=1e-8)


@each_pair
def test_the_metric_matters(solver, form):
    weight, metric = layer(16, 12)
    seeing, blind = (solve(solver, form, weight, m, 6).dense().detach() for m in (metric, Identity((16, 12), {})))
    assert metric.error(weight - seeing) < 0.9 * metric.error(weight - blind)


@each_pair
def test_rows_in_a_union_of_subspaces_are_kept_better_than_by_svd_llm_at_equal_bytes_mask_and_all(solver, form):
    shape, wins = (64, 96), 0
    for seed in range(5):
        weight, metric = union_of_subspaces(*shape, 100 * seed)
        size = next(k for k in form().sizes(shape) if form().cost(shape, k, 2).bytes >= 0.45 * 2 * 64 * 96)
        paid = metric.error(weight - solve(solver, form, weight, metric, size).dense().detach())
        wins += paid < svd_llm_error(weight, metric, form().cost(shape, size, 2).bytes)
    assert wins >= 4


def test_one_round_from_random_rows_loses_to_svd_llm_and_so_does_pursuit_without_atom_updates():
    for seed in range(5):
        weight, metric = union_of_subspaces(64, 96, 100 * seed)
        rows = principal_rows(weight, metric.input)
        count = 29
        rival = svd_llm_error(weight, metric, Dictionary().cost((64, 96), count, 2).bytes)
        atoms, codes = random_start(rows, count)
        assert residual(rows, atoms, pursue(rows, atoms, codes, kept(count))) > rival
        atoms, codes = one_round(rows, atoms, codes, kept(count))
        assert residual(rows, atoms, codes) > rival
        for _ in range(19):
            atoms, codes = one_round(rows, atoms, codes, kept(count))
        assert residual(rows, atoms, codes) < rival


def test_the_start_alone_is_worse_than_what_either_solver_makes_of_it():
    weight, metric = union_of_subspaces(64, 96, 0)
    start = start_error(principal_rows(weight, metric.input), 29, kept(29))
    for solver, form in PAIRS.values():
        assert metric.error(weight - solve(solver, form, weight, metric, 29).dense().detach()) < 0.8 * start


def test_a_dictionary_may_have_more_atoms_than_the_rows_have_dimensions():
    weight, metric = layer(160, 20)
    size = Dictionary().sizes((160, 20))[-1]
    assert size > 20
    codes, _ = solve(DictionaryPursuit, Dictionary, weight, metric, size).factors
    assert (codes.dense() != 0).any(0).sum() > 20


MOMENTS = {
    "of one token": lambda n: torch.outer(normal(1, n), normal(1, n)),
    "with dead inputs": lambda n: (torch.arange(n) % 3 != 0).double().diag(),
    "of scales far apart": lambda n: torch.logspace(-12, 4, n, dtype=torch.float64).diag(),
    "of nothing": lambda n: torch.zeros(n, n, dtype=torch.float64),
}
WEIGHTS = {
    "any": lambda m, n: normal(0, m, n),
    "zero": lambda m, n: torch.zeros(m, n, dtype=torch.float64),
    "of rank two": lambda m, n: normal(0, m, 2) @ normal(1, 2, n),
    "with zero rows": lambda m, n: normal(0, m, n) * (torch.arange(m) % 2)[:, None],
    "with equal rows": lambda m, n: normal(0, 1, n).expand(m, n).clone(),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
@each_pair
def test_singular_moments_and_poor_weights_are_solved_within_the_price(solver, form, weight, moment):
    for shape in SHAPES:
        w, metric = weight(*shape), Moment(shape, moment(shape[1]))
        prepared, sizes = solver().prepare(w, form(), metric), form().sizes(shape)
        for size, price in zip(sizes, solver().prices(prepared, sizes), strict=True):
            dense = solver().solve(w, form(), size, metric, prepared).dense().detach()
            assert torch.isfinite(dense).all()
            assert dense.norm() <= w.norm() * (1 + 1e-6)
            # A jitter of 1e-14 of the mean diagonal may stand in for the root of a singular moment.
            slack = 1e-6 * metric.error(w) + 1e-12 * float(w.square().sum()) * float(metric.moment.trace())
            assert metric.error(w - dense) <= price + slack + 1e-300


@each_pair
def test_a_weight_that_is_a_sparse_combination_of_few_rows_is_found_exactly(solver, form):
    weight = normal(0, 3, 20).repeat_interleave(4, dim=0) * normal(1, 12, 1)
    dense = solve(solver, form, weight, Identity((12, 20), {}), 6).dense()
    torch.testing.assert_close(dense, weight)


# Costs and storage


@pytest.mark.parametrize("form", [Dictionary, OrthogonalDictionary])
@pytest.mark.parametrize("shape", [(64, 64), (192, 576), (576, 192), (1536, 576), (130, 129)], ids=str)
def test_sizes_are_a_modest_grid_that_saves_in_every_unit_and_uses_its_shares(form, shape):
    m, n = shape
    sizes = form().sizes(shape)
    assert 8 <= len(sizes) <= 14
    assert sizes[-1] <= (m if form is Dictionary else min(shape))
    for size in sizes:
        cost = form().cost(shape, size, 2)
        assert cost.params < m * n and cost.bytes < 2 * m * n and cost.macs < m * n
    for share in (0.5, 0.6, 0.8):
        within = [c.params for c in (form().cost(shape, size, 2) for size in sizes) if c.params <= share * m * n]
        near = max(within)
        assert near >= share * m * n - (n + 2 * m)


@pytest.mark.parametrize("size", [8, 16, 13])
def test_the_file_holds_16_bits_for_each_number_and_one_for_each_place(size, tmp_path):
    m, n = 24, 40
    weight, metric = layer(m, n)
    expression = solve(DictionaryPursuit, Dictionary, weight, metric, size).to(torch.bfloat16)
    save_file(expression.state_dict(), tmp_path / "w.safetensors")
    raw = (tmp_path / "w.safetensors").read_bytes()
    bits = 8 * (len(raw) - 8 - int.from_bytes(raw[:8], "little"))
    assert bits == 16 * (size * n + kept(size) * m) + 8 * -(-size // 8) * m
    cost = Dictionary().cost((m, n), size, 2)
    assert cost.bytes == bits // 8
    assert cost.params == bits // 16
    if size % 8 == 0:
        assert bits == 16 * (size * n + kept(size) * m) + size * m


@given(m=st.integers(1, 5), k=st.integers(1, 40), seed=seeds)
@settings(deadline=None, max_examples=60)
def test_bits_are_unpacked_as_they_were_packed(m, k, seed):
    support = normal(seed, m, k) > 0
    bits = packed(support)
    assert bits.dtype == torch.uint8 and bits.shape == (m, math.ceil(k / 8))
    assert torch.equal(unpacked(bits, k), support)


@given(m=st.integers(1, 5), k=st.integers(1, 20), part=st.floats(0, 1), seed=seeds)
@settings(deadline=None, max_examples=60)
def test_sparse_codes_are_the_largest_entries_and_nothing_else(m, k, part, seed):
    codes, sparsity = normal(seed, m, k), 1 + round(part * (k - 1))
    leaf = Sparse.largest(codes, sparsity)
    assert torch.equal(leaf.dense(), largest(codes, sparsity))
    assert leaf.values.shape == (m * sparsity,) and leaf.macs() == m * sparsity
    fresh = read(leaf.tree())
    assert unpacked(fresh.mask, k).sum() == m * sparsity


def test_a_mask_of_another_width_is_refused():
    with pytest.raises(ValueError, match="mask"):
        Sparse(normal(0, 6), torch.zeros(3, 1, dtype=torch.uint8), 9)
    with pytest.raises(ValueError, match="mask"):
        Sparse(normal(0, 12), torch.zeros(3, 1, dtype=torch.uint8), 3)


def test_gradients_of_values_are_right_and_no_dense_copy_is_kept():
    leaf = Sparse.largest(normal(0, 5, 11), 4)
    x = normal(1, 2, 3, 11)
    assert torch.autograd.gradcheck(
        lambda v: functional_call(leaf, {"values": v}, (x,)), leaf.values.detach().requires_grad_()
    )
    leaf(x)
    assert {name: tuple(t.shape) for name, t in leaf.state_dict().items()} == {"values": (20,), "mask": (5, 2)}
    assert not [t for t in vars(leaf).values() if torch.is_tensor(t)]


@each_pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_is_read_again_is_the_same_to_the_bit(solver, form, dtype):
    weight, metric = layer(16, 20)
    expression = solve(solver, form, weight, metric, 9)
    mask = expression.factors[0].mask.clone()
    expression.to(dtype)
    assert torch.equal(expression.factors[0].mask, mask)
    again = read(json.loads(json.dumps(expression.tree()))).to(dtype)
    again.load_state_dict(expression.state_dict(), strict=True)
    x = normal(3, 2, 5, 20).to(dtype)
    assert torch.equal(again(x), expression(x))
    assert torch.equal(again.dense(), expression.dense())


@each_pair
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_costs_little(solver, form, dtype):
    for weight, metric in (layer(48, 64), union_of_subspaces(64, 96, 0)):
        shape = tuple(weight.shape)
        for size in form().sizes(shape)[::4]:
            expression = solve(solver, form, weight, metric, size)
            exact = metric.error(weight - expression.dense().detach())
            rough = metric.error(weight - expression.to(dtype).dense().detach().double())
            assert rough <= exact * 1.02 + 1e-4 * metric.error(weight)


def test_an_expression_has_factors_of_equal_lengths():
    weight, metric = layer(16, 20)
    codes, dictionary = solve(DictionaryPursuit, Dictionary, 1e-6 * weight, metric, 8).factors
    assert isinstance(codes, Sparse) and isinstance(dictionary, Dense)
    torch.testing.assert_close(codes.dense().norm(dim=0), dictionary.weight.norm(dim=1))


# One dictionary for several weights

SHARED = SharedDictionary()


def sites_of(*blocks, shape=(12, 20)):
    """A site for each block."""
    return [Site(name=f"layers.{b}.up", kind="linear", shape=shape, bias=False, reads=f"layers.{b}.up") for b in blocks]


def group_of_two(seed=0):
    """(group, weights, how its sites are weighed)."""
    members = sites_of(0, 1)
    made = {site.name: layer(12, 20, seed + 10 * i) for i, site in enumerate(members)}
    group = Group(writers=(members[0],), reader=members[1])
    return group, {name: weight for name, (weight, _) in made.items()}, lambda site: made[site.name][1]


def test_layers_of_one_name_and_shape_share_by_twos_in_the_order_of_their_blocks():
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Module() for _ in range(5))
    for i, block in enumerate(model.layers):
        block.up, block.down = torch.nn.Linear(4, 6 if i < 4 else 7), torch.nn.Linear(6, 4)
    model.head = torch.nn.Linear(4, 9)
    found = SHARED.find(model, sites_module.find(model))
    members = [[site.name for site in group.members] for group in found]
    assert sorted(members) == sorted(
        [
            ["layers.0.up", "layers.1.up"],
            ["layers.2.up", "layers.3.up"],
            ["layers.4.up"],
            ["layers.0.down", "layers.1.down"],
            ["layers.2.down", "layers.3.down"],
            ["layers.4.down"],
        ]
    )


def test_a_group_is_weighed_by_the_mean_of_its_members_moments():
    group, _, weigh = group_of_two()
    delta = normal(7, 12, 20)
    each = [weigh(site).error(delta) for site in group.members]
    assert SHARED.weigh(group, group.reader, weigh).error(delta) == pytest.approx(sum(each) / 2, rel=1e-5)


def test_a_shared_dictionary_is_that_of_the_stacked_rows_and_never_costs_more_than_its_price():
    group, weights, weigh = group_of_two()
    metric = SHARED.weigh(group, group.reader, weigh)
    prepared, sizes = SHARED.prepare(group, weights, metric), SHARED.sizes(group)
    stacked = torch.cat([weights[site.name] for site in group.members])
    for size, price in zip(sizes, SHARED.prices(prepared, sizes), strict=True):
        parts = SHARED.solve(group, weights, size, metric, prepared)
        expressions = [parts[site.name].expression for site in group.members]
        assert expressions[0].factors[1] is expressions[1].factors[1]
        whole = torch.cat([e.dense().detach() for e in expressions])
        assert metric.error(stacked - whole) <= price * (1 + 1e-9)
        one = solve(DictionaryPursuit, Dictionary, stacked, Moment(tuple(stacked.shape), metric.input), size)
        torch.testing.assert_close(whole, one.dense().detach())


@pytest.mark.parametrize("itemsize", [2, 4])
def test_the_cost_of_a_group_counts_the_dictionary_once(itemsize):
    group, weights, weigh = group_of_two()
    metric = SHARED.weigh(group, group.reader, weigh)
    for size in SHARED.sizes(group):
        costs = SHARED.cost(group, size, itemsize)
        total = sum(costs.values(), NO_COST)
        parts = SHARED.solve(group, weights, size, metric, {})
        both = torch.nn.ModuleList(parts[site.name].expression for site in group.members)
        numbers = sum(p.numel() for p in both.parameters())
        masks = sum(b.numel() for b in both.buffers())
        assert total.bytes == numbers * itemsize + masks
        assert total.params == numbers + -(-masks // 2)
        assert total.macs == sum(parts[name].expression.macs() for name in costs)


# How they are found


def test_each_structure_has_its_solver_in_the_metrics_of_inputs_alone():
    for name, metric in discover.catalogue(metrics, Metric).items():
        for solver, form in PAIRS.values():
            accepted = solver().accepts(form, metric)
            assert (
                accepted
                == (
                    name
                    in {"absolute_mean", "activation", "identity", "mean_square", "row_fisher", "scaled_activation"}
                )
                == issubclass(metric, InputMetric)
            )
    assert type(choose(Dictionary, Activation)) is DictionaryPursuit
    assert type(choose(OrthogonalDictionary, Activation)) is DictionaryThresholding
    assert not any(solver().accepts(LowRank, Activation) for solver, _ in PAIRS.values())
    assert not any(solver().accepts(form, KroneckerFisher) for solver, form in PAIRS.values())


@pytest.mark.parametrize("name", ["cospadi", "compot"])
def test_a_method_names_what_exists_and_can_be_solved(name):
    found = method(name)
    metric = discover.load(metrics, found.metric, Metric)
    discover.load(budgets, found.allocator, Allocator)
    for structure in found.structures:
        form = discover.load(structures, structure, Structure)
        assert choose(form, metric).name in discover.names(solvers)


def test_a_product_of_sparse_rows_and_a_dictionary_counts_its_own_multiplications():
    product = Product([Sparse.largest(normal(0, 6, 4), 2), Dense(normal(1, 4, 9))])
    assert product.macs() == 6 * 2 + 4 * 9 == Dictionary().cost((6, 9), 4, 2).macs
