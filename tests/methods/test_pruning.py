"""Wanda, SparseGPT and zeros fitted on both sides, in rows and N:M patterns, against their promises and brute force."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer import discover, metrics, structures
from gossamer.expressions import Expression
from gossamer.methods import method
from gossamer.metrics import Metric
from gossamer.metrics.activation import Activation
from gossamer.metrics.kronecker_fisher import KroneckerFisher
from gossamer.solvers import choose, sparse_least_squares
from gossamer.solvers._interpolated import FEW
from gossamer.solvers.error_feedback import DAMPING
from gossamer.structures import SparseStructure, Structure
from gossamer.structures.n_of_4 import NOfFour
from gossamer.structures.n_of_8 import NOfEight
from gossamer.structures.sparse import SparseEntries

PATTERNS = {"n_of_4": (NOfFour, 2), "n_of_8": (NOfEight, 4), "sparse": (SparseEntries, 12)}
"""Each at half of 24 inputs."""

each_pattern = pytest.mark.parametrize("pattern", PATTERNS)
seeds = st.integers(0, 10_000)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(m: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, A, G): correlated on both sides, inputs of uneven scales."""
    mixed = normal(seed + 1, 8 * n, n) @ (torch.eye(n).double() + 0.4 * normal(seed + 2, n, n))
    inputs = mixed * torch.logspace(-0.7, 0.7, n).double()[normal(seed + 5, n).argsort()]
    gradients = normal(seed + 3, 8 * m, m) @ (torch.eye(m).double() + 0.4 * normal(seed + 4, m, m))
    return normal(seed, m, n), inputs.T @ inputs / len(inputs), gradients.T @ gradients / len(gradients)


def fit(kind: type[Metric], weight: Tensor, statistics: dict[str, Tensor], form: Structure, size: int) -> Tensor:
    return fitted(kind, weight, statistics, form, size).dense().detach()


def fitted(kind: type[Metric], weight: Tensor, statistics: dict[str, Tensor], form: Structure, size: int) -> Expression:
    ruler = kind((weight.shape[0], weight.shape[1]), statistics)
    solver = choose(type(form), kind)
    return solver.solve(weight, form, size, ruler, solver.prepare(weight, form, ruler))


def of_method(name: str, form: Structure, size: int, weight: Tensor, second: Tensor) -> Tensor:
    kind = discover.load(metrics, method(name).metric, Metric)
    return fit(kind, weight, {"input_square": second.diagonal(), "input_second_moment": second}, form, size)


def output_error(delta: Tensor, second: Tensor) -> float:
    return float((delta @ second * delta).sum())


def support_of(dense: Tensor) -> Tensor:
    return dense != 0


# Wanda


@each_pattern
@given(seed=seeds)
@settings(deadline=None, max_examples=10)
def test_wanda_keeps_as_many_in_every_row_and_changes_none_of_them(pattern, seed):
    kind, size = PATTERNS[pattern]
    weight, second, _ = layer(7, 24, seed)
    found = of_method("wanda", kind(), size, weight, second)
    kept = support_of(found)
    assert (kept.sum(1) == 12).all()
    assert torch.equal(found[kept], weight[kept])
    if pattern != "sparse":
        assert (kept.view(-1, kind.together).sum(1) == size).all()


def test_wanda_scores_by_weight_times_root_mean_square_of_the_input():
    weight, second, _ = layer(9, 24)
    scores = weight.abs() * second.diagonal().sqrt()
    found = support_of(of_method("wanda", SparseEntries(), 10, weight, second))
    assert torch.equal(found, scores >= scores.sort(dim=1, descending=True).values[:, 9:10])


@pytest.mark.parametrize("seed", range(3))
def test_without_correlations_no_other_mask_of_a_row_has_less_output_error_than_wanda_s(seed):
    weight, second, _ = layer(4, 8, seed)
    second = second.diagonal().diag()
    delta = weight - of_method("wanda", SparseEntries(), 3, weight, second)
    for row, lost in zip(weight, delta, strict=True):
        every = [row.index_fill(0, torch.tensor(kept), 0) for kept in combinations(range(8), 3)]
        least = min(float(gone @ second @ gone) for gone in every)
        assert float(lost @ second @ lost) == pytest.approx(least, rel=1e-12)


def test_with_equal_inputs_wanda_is_magnitude_within_rows():
    weight, _, _ = layer(6, 24)
    flat = of_method("wanda", SparseEntries(), 9, weight, 3.0 * torch.eye(24).double())
    plain = fit(discover.load(metrics, "identity", Metric), weight, {}, SparseEntries(), 9)
    assert torch.equal(flat, plain)


@each_pattern
@pytest.mark.parametrize("seed", range(4))
def test_output_errors_are_ordered_sparsegpt_then_wanda_then_magnitude(pattern, seed):
    kind, size = PATTERNS[pattern]
    weight, second, _ = layer(32, 24, seed)
    ours = [of_method(name, kind(), size, weight, second) for name in ("sparsegpt", "wanda")]
    plain = fit(discover.load(metrics, "identity", Metric), weight, {}, kind(), size)
    errors = [output_error(weight - found, second) for found in (*ours, plain)]
    assert errors[0] < 0.85 * errors[1] and errors[1] < 0.9 * errors[2]


# SparseGPT


def published(weight: Tensor, second: Tensor, structure: SparseStructure, size: int) -> tuple[Tensor, Tensor]:
    """The optimal brain surgeon column by column, with a new inverse of what is left of A at every step."""
    n = weight.shape[1]
    damped = second + DAMPING * second.diagonal().mean() * torch.eye(n).double()
    rest, kept = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
    for j in range(n):
        inverse = torch.linalg.inv(damped[j:, j:])
        if j % structure.together == 0:
            end = min(j + structure.together, n)
            # What each column's entries cost when all columns before it are settled.
            single = torch.stack([torch.linalg.inv(damped[i:, i:])[0, 0] for i in range(j, end)])
            kept[:, j:end] = structure.in_columns(rest[:, j:end].square() / single, size, j, n)
        error = torch.where(kept[:, j], 0, rest[:, j])
        rest[:, j:] -= torch.outer(error / inverse[0, 0], inverse[0])
    return rest, kept


@pytest.mark.parametrize(
    ("form", "size"), [(SparseEntries(), 80), (SparseEntries(), 7), (NOfFour(), 2), (NOfEight(), 3)]
)
def test_sparsegpt_is_the_surgeon_over_several_blocks(form, size):
    weight, second, _ = layer(5, 160)
    # The metric's own damping is part of A.
    moment = Activation((5, 160), {"input_second_moment": second}).input
    rest, kept = published(weight, moment, form, size)
    found = of_method("sparsegpt", form, size, weight, second)
    assert torch.equal(support_of(found), kept)
    torch.testing.assert_close(found[kept], rest[kept], rtol=1e-8, atol=1e-10)


@each_pattern
def test_sparsegpt_keeps_just_as_many_as_asked_for(pattern):
    kind, _ = PATTERNS[pattern]
    form, (weight, second, _) = kind(), layer(5, 160)
    for size in form.sizes((5, 160))[::7]:
        kept = support_of(of_method("sparsegpt", form, size, weight, second))
        assert kept.sum() == form.kept((5, 160), size)
        if pattern != "sparse":
            assert (kept.view(-1, kind.together).sum(1) == size).all()


def test_every_block_of_sparsegpt_keeps_its_share():
    kept = support_of(of_method("sparsegpt", SparseEntries(), 100, *layer(5, 200)[:2]))
    assert [int(block.sum()) for block in kept.split(128, dim=1)] == [320, 180]


@pytest.mark.parametrize("seed", range(4))
def test_a_refit_on_sparsegpt_s_own_mask_gains_a_little_and_on_wanda_s_much(seed):
    weight, second, _ = layer(16, 48, seed)

    def refit(found: Tensor) -> float:
        best = torch.zeros_like(weight)
        for i, kept in enumerate(support_of(found)):
            best[i, kept] = torch.linalg.solve(second[kept][:, kept], second[kept] @ weight[i])
        return output_error(weight - best, second) / output_error(weight - found, second)

    gains = [refit(of_method(name, SparseEntries(), 24, weight, second)) for name in ("sparsegpt", "wanda")]
    assert gains[1] < gains[0] <= 1 + 1e-9
    assert gains[0] > 0.5


def test_without_correlations_errors_have_nowhere_to_go():
    weight, second, _ = layer(6, 24)
    second = second.diagonal().diag()
    found, wanda = (of_method(name, NOfFour(), 2, weight, second) for name in ("sparsegpt", "wanda"))
    kept = support_of(found)
    assert torch.equal(found[kept], weight[kept])
    # Only its damping of A makes it choose otherwise here and there.
    assert output_error(weight - found, second) <= 1.02 * output_error(weight - wanda, second)


# The output side


def two_sided(weight: Tensor, second: Tensor, felt: Tensor, form: Structure, size: int) -> Tensor:
    return fit(KroneckerFisher, weight, {"input_second_moment": second, "gradient_second_moment": felt}, form, size)


def both_sides(m: int, n: int, seed: int = 0) -> tuple[Tensor, KroneckerFisher]:
    weight, second, felt = layer(m, n, seed)
    return weight, KroneckerFisher((m, n), {"input_second_moment": second, "gradient_second_moment": felt})


def best_on(weight: Tensor, support: Tensor, ruler: KroneckerFisher) -> Tensor:
    """The least ½ tr(G E A Eᵀ) on a support, by one system of equations for all that stays."""
    assert ruler.output is not None and ruler.input is not None
    whole = torch.kron(ruler.output, ruler.input)
    on = support.flatten()
    found = torch.zeros_like(weight).flatten()
    found[on] = torch.linalg.solve(whole[on][:, on], whole[on] @ weight.flatten())
    return found.view_as(weight)


@given(seed=seeds)
@settings(deadline=None, max_examples=10)
def test_what_stays_is_close_to_the_best_there_is_on_its_support(seed):
    weight, ruler = both_sides(7, 12, seed)
    support = normal(seed + 9, 7, 12) > 0
    found, error = sparse_least_squares.fitted(weight, support, ruler, 0.0, weight)
    assert not found[~support].any()
    assert error == pytest.approx(ruler.error(weight - found), rel=1e-3)
    assert error == pytest.approx(ruler.error(weight - best_on(weight, support, ruler)), rel=1e-3)


def test_what_is_scored_is_what_losing_one_entry_costs_when_all_others_make_good():
    weight, ruler = both_sides(5, 6)
    scores = sparse_least_squares.saliency(weight, ruler)
    for i in range(5):
        for j in range(6):
            support = torch.ones(5, 6, dtype=torch.bool)
            support[i, j] = False
            lost = ruler.error(weight - best_on(weight, support, ruler))
            assert 0.5 * float(scores[i, j]) == pytest.approx(lost, rel=1e-6)


@each_pattern
def test_without_correlations_on_either_side_no_entry_that_stays_changes(pattern):
    kind, size = PATTERNS[pattern]
    weight, second, felt = layer(6, 24)
    found = two_sided(weight, second.diagonal().diag(), felt.diagonal().diag(), kind(), size)
    kept = support_of(found)
    assert kept.sum() == kind().kept((6, 24), size)
    torch.testing.assert_close(found[kept], weight[kept], rtol=1e-5, atol=1e-6)


@each_pattern
def test_outputs_that_do_not_hear_of_each_other_need_no_matrix(pattern):
    """As those of an output head, of which only the squares of gradients are kept."""
    kind, size = PATTERNS[pattern]
    weight, second, felt = layer(12, 24)
    found = two_sided(weight, second, felt.diagonal(), kind(), size)
    torch.testing.assert_close(found, two_sided(weight, second, felt.diagonal().diag(), kind(), size))


@each_pattern
@pytest.mark.parametrize("seed", range(6))
def test_fitting_to_both_sides_costs_less_in_the_two_sided_metric(seed, pattern):
    kind, size = PATTERNS[pattern]
    weight, second, felt = layer(32, 24, seed)
    ruler = KroneckerFisher((32, 24), {"input_second_moment": second, "gradient_second_moment": felt})
    both = ruler.error(weight - two_sided(weight, second, felt, kind(), size))
    alone = ruler.error(weight - of_method("sparsegpt", kind(), size, weight, second))
    assert both < 0.8 * alone


# What is bad, and what only looks so


def test_dead_columns_and_rows_of_zeros_are_pruned_like_any_other():
    weight, second, felt = layer(8, 24)
    second[:, 3], second[3], second[:, 20], second[20] = 0, 0, 0, 0
    weight[5] = 0
    wanda = of_method("wanda", SparseEntries(), 12, weight, second)
    assert not wanda[:, [3, 20]].any()
    for found in (
        wanda,
        of_method("sparsegpt", SparseEntries(), 12, weight, second),
        two_sided(weight, second, felt, SparseEntries(), 12),
    ):
        assert torch.isfinite(found).all()
        assert not found[5].any()
        assert found.norm() <= 2 * weight.norm()


@pytest.mark.parametrize("name", ["n_of_4", "n_of_8"])
def test_a_pattern_that_does_not_divide_the_inputs_offers_nothing_and_says_why(name):
    form = discover.load(structures, name, Structure)()
    assert form.sizes((8, 30)) == []
    assert "30 inputs" in form.unfit((8, 30))
    assert form.unfit((30, 8)) is None


def test_two_of_four_takes_nine_bits_a_weight_of_sixteen():
    cost = NOfFour().cost((64, 128), 2, 2)
    assert cost.bytes * 8 == 9 * 64 * 128
    assert cost.macs == 64 * 64


def leaning(m: int, n: int, mean: float) -> tuple[Tensor, KroneckerFisher]:
    """Inputs and gradients that share a large mean, as those of language models do."""
    inputs, gradients = normal(1, 8 * n, n) + mean, normal(2, 8 * m, m) + mean
    moments = (inputs.T @ inputs / len(inputs), gradients.T @ gradients / len(gradients))
    names = ("input_second_moment", "gradient_second_moment")
    return normal(0, m, n), KroneckerFisher((m, n), dict(zip(names, moments, strict=True)))


@pytest.mark.parametrize("mean", [0, 3, 30])
@pytest.mark.parametrize("size", [6, 10, 11, 13, 18])
def test_what_is_solved_is_close_to_the_best_on_its_support(mean, size):
    weight, ruler = leaning(12, 20, mean)
    solver, form = choose(SparseEntries, KroneckerFisher), SparseEntries()
    found = solver.solve(weight, form, size, ruler, solver.prepare(weight, form, ruler)).dense().detach()
    best = ruler.error(weight - best_on(weight, support_of(found), ruler))
    assert best <= ruler.error(weight - found) <= 1.1 * best


@pytest.mark.parametrize("kind", [Activation, KroneckerFisher])
def test_prices_of_sizes_that_are_all_fitted_are_close(kind):
    weight, second, felt = layer(24, 160)
    ruler = kind((24, 160), {"input_second_moment": second, "gradient_second_moment": felt})
    form, solver = SparseEntries(), choose(SparseEntries, kind)
    assert len(form.sizes((24, 160))) <= FEW
    prepared = solver.prepare(weight, form, ruler)
    sizes = form.sizes((24, 160))[1::5]
    for size, price in zip(sizes, solver.prices(prepared, sizes), strict=True):
        paid = ruler.error(weight - solver.solve(weight, form, size, ruler, prepared).dense().detach())
        assert paid == pytest.approx(price, rel=0.35)


@pytest.mark.parametrize(("kind", "most"), [(Activation, 1.54), (KroneckerFisher, 2.2)])
def test_prices_between_those_fitted_are_close_and_no_promise_too_good(kind, most):
    weight, second, felt = layer(24, 100)
    ruler = kind((24, 100), {"input_second_moment": second, "gradient_second_moment": felt})
    form, solver = SparseEntries(), choose(SparseEntries, kind)
    assert len(form.sizes((24, 100))) > FEW
    prepared = solver.prepare(weight, form, ruler)
    sizes = form.sizes((24, 100))[2::6]
    for size, price in zip(sizes, solver.prices(prepared, sizes), strict=True):
        paid = ruler.error(weight - solver.solve(weight, form, size, ruler, prepared).dense().detach())
        assert paid / 1.05 < price < most * paid


@pytest.mark.parametrize("kind", [Activation, KroneckerFisher])
def test_of_a_weight_that_was_sparse_before_no_size_is_cheap_that_is_not(kind):
    weight, second, felt = layer(24, 100)
    weight = torch.where(weight.abs() > weight.abs().median(), weight, 0)
    ruler = kind((24, 100), {"input_second_moment": second, "gradient_second_moment": felt})
    form, solver = SparseEntries(), choose(SparseEntries, kind)
    prepared = solver.prepare(weight, form, ruler)
    sizes = [20, 28, 35, 40, 45]
    for size, price in zip(sizes, solver.prices(prepared, sizes), strict=True):
        paid = ruler.error(weight - solver.solve(weight, form, size, ruler, prepared).dense().detach())
        assert price > 0.8 * paid
    assert solver.prices(prepared, [70]) == [pytest.approx(0, abs=1e-6 * ruler.error(weight))]
