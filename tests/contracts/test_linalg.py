"""The linear algebra under everything: grams, roots and skeletons."""

import signal

import pytest
import torch
from contract_cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.errors import NumericsError
from gossamer.linalg import congruence as by_halves
from gossamer.linalg.cholesky import lifted_cholesky, safe_cholesky
from gossamer.linalg.congruence import congruence
from gossamer.linalg.gram import PANEL, add_gram, from_panels, panels_numel
from gossamer.linalg.skeleton import skeleton

SIZES = [1, 7, PANEL - 1, PANEL, PANEL + 1, 2 * PANEL, 2 * PANEL + 83]


def integers(seed: int, *shape: int) -> torch.Tensor:
    """Small whole numbers, whose products float32 sums without rounding."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("n", SIZES)
def test_the_panels_hold_the_full_product_of_all_batches(n, dtype):
    total = torch.zeros(panels_numel(n))
    batches = [integers(seed, tokens, n) for seed, tokens in enumerate((5, 1, 12))]
    for rows in batches:
        add_gram(total, rows.to(dtype))
    full = from_panels(total, n)
    assert torch.equal(full, sum(rows.T @ rows for rows in batches))
    assert torch.equal(full, full.T)


def test_a_gram_of_no_tokens_adds_nothing():
    total = torch.ones(panels_numel(4))
    add_gram(total, torch.zeros(0, 4))
    assert torch.equal(from_panels(total, 4), torch.ones(4, 4))


@pytest.mark.parametrize("n", SIZES)
def test_panels_hold_every_pair_and_little_more(n):
    assert n * (n + 1) // 2 <= panels_numel(n) <= n * (n + PANEL) // 2 + PANEL**2


@pytest.mark.parametrize("panel", [1, 4, 7, 8, 19, 20, 768])
def test_a_congruence_by_halves_is_the_congruence(panel, monkeypatch):
    """To the last digit: these sums are of whole numbers and halves."""
    monkeypatch.setattr(by_halves, "PANEL", panel)
    weight, rows = integers(0, 5, 19).double(), integers(1, 40, 19).double()
    side = rows.T @ rows
    found = congruence(weight, side)
    assert torch.equal(found, weight @ side @ weight.T)
    assert torch.equal(congruence(weight, side.diagonal()), weight @ side.diagonal().diag() @ weight.T)
    assert torch.equal(congruence(weight, None), weight @ weight.T)


@given(n=st.integers(1, 12), rank=st.integers(1, 12), scale=st.floats(-12, 12), seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=50)
def test_the_root_of_a_second_moment_is_triangular_and_squares_to_it(n, rank, scale, seed):
    rows = normal(seed, rank, n) * 10**scale
    matrix = rows.T @ rows
    root = safe_cholesky(matrix)
    assert torch.isfinite(root).all()
    assert torch.equal(root, root.tril())
    assert (root.diagonal() > 0).all()
    assert (root @ root.T - matrix).norm() <= 1e-11 * matrix.norm()


def test_a_well_conditioned_matrix_gets_no_jitter():
    rows = normal(0, 100, 6)
    matrix = rows.T @ rows
    assert torch.equal(safe_cholesky(matrix), torch.linalg.cholesky(matrix))


def test_what_was_added_before_a_root_was_found_is_told():
    rows = normal(1, 4, 10)
    for matrix in (rows.T @ rows - 0.01 * torch.eye(10), (rows.T @ rows).float().double()):
        root, lifted = lifted_cholesky(matrix)
        needed = -float(torch.linalg.eigvalsh(matrix)[0] / matrix.diagonal().mean())
        assert 0 < needed <= lifted <= 12 * needed
        added = lifted * matrix.diagonal().mean() * torch.eye(10, dtype=torch.float64)
        assert (root @ root.T - matrix - added).norm() <= 1e-12 * matrix.norm()
    assert lifted_cholesky(torch.eye(3, dtype=torch.float64))[1] == 0


def test_the_root_of_zero_is_small_and_invertible():
    root = safe_cholesky(torch.zeros(5, 5, dtype=torch.float64))
    assert (root.diagonal() > 0).all()
    assert root.norm() < 1e-5
    assert torch.isfinite(torch.linalg.inv(root)).all()


def test_a_moment_made_indefinite_by_rounding_has_a_root_near_by():
    rows = normal(1, 4, 10)
    matrix = (rows.T @ rows).float().double()
    assert torch.linalg.eigvalsh(matrix)[0] < 0
    root = safe_cholesky(matrix)
    assert (root @ root.T - matrix).norm() <= 1e-5 * matrix.norm()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_matrix_that_is_not_finite_is_refused_and_not_retried_for_ever(value):
    def ring(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(NumericsError):
            safe_cholesky(torch.full((3, 3), value, dtype=torch.float64))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@given(n=st.integers(1, 16), part=st.floats(0, 1), scale=st.floats(-8, 8), seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_a_skeleton_gives_the_rows_back_with_bounded_coefficients(n, part, scale, seed):
    r = 1 + round(part * (n - 1))
    rows = normal(seed, r, n) * 10**scale
    order, coefficients = skeleton(rows)
    assert sorted(order.tolist()) == list(range(n))
    assert coefficients.shape == (r, n - r)
    sorted_rows = rows[:, order]
    back = sorted_rows[:, :r] @ torch.cat([torch.eye(r, dtype=rows.dtype), coefficients], 1)
    assert (back - sorted_rows).norm() <= 1e-10 * rows.norm()
    # Multipliers of at most one bound what substitution can make of them.
    assert coefficients.numel() == 0 or float(coefficients.abs().max()) <= 2 ** (r - 1) * (1 + 1e-9)


@pytest.mark.parametrize(("r", "n"), [(20, 60), (60, 80), (100, 101)])
def test_the_coefficients_of_random_rows_are_moderate(r, n):
    _, coefficients = skeleton(normal(r, r, n))
    assert float(coefficients.abs().max()) < 50


def test_a_skeleton_of_a_single_row_pivots_on_its_largest_entry():
    order, coefficients = skeleton(torch.tensor([[1.0, -4.0, 2.0]], dtype=torch.float64))
    assert order[0] == 1
    assert coefficients.abs().max() <= 1


def test_a_skeleton_pivots_away_from_zero_columns():
    rows = normal(2, 3, 8)
    rows[:, :4] = 0
    order, coefficients = skeleton(rows)
    assert set(order[:3].tolist()) <= {4, 5, 6, 7}
    back = rows[:, order[:3]] @ coefficients
    torch.testing.assert_close(back, rows[:, order[3:]], rtol=1e-10, atol=1e-10)
