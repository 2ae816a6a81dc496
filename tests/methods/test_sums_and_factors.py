"""OATS's sum of a product and a few entries, and factors of few bits, against what they promise."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.linalg.splitting import split
from gossamer.metrics.kronecker_fisher import KroneckerFisher
from gossamer.metrics.mean_square import MeanSquare
from gossamer.solvers import choose
from gossamer.solvers.factor_rounding import FactorRounding
from gossamer.solvers.whitened_svd import WhitenedSVD
from gossamer.structures._base import balanced
from gossamer.structures.low_rank_and_sparse import LowRankAndSparse
from gossamer.structures.quantized_low_rank import BITS, QuantizedLowRank
from gossamer.structures.sparse import SparseEntries


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lost(matrix: Tensor, steps: int) -> float:
    left, right, sparse = split(matrix, torch.linalg.svd(matrix, full_matrices=False), 4, 3, steps)
    return float((matrix - left @ right - sparse).square().sum())


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_no_step_of_splitting_makes_the_sum_worse(seed):
    matrix = normal(seed, 20, 5) @ normal(seed + 1, 5, 30) + normal(seed + 2, 20, 30).pow(3)
    errors = [lost(matrix, steps) for steps in range(6)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(errors))
    assert errors[-1] < errors[0]


def test_a_sum_that_there_is_comes_apart_again():
    product, few = normal(0, 40, 3) @ normal(1, 3, 60), torch.zeros(40, 60, dtype=torch.float64)
    few[torch.arange(40), (7 * torch.arange(40)) % 60] = 20.0
    axes = torch.linalg.svd(product + few, full_matrices=False)
    left, right, sparse = split(product + few, axes, 3, 1, 60)
    assert (left @ right - product).norm() <= 1e-6 * product.norm()
    assert torch.equal(sparse != 0, few != 0)


def test_a_few_outliers_beside_a_product_are_where_the_sum_beats_entries_alone():
    weight = normal(2, 48, 3) @ normal(3, 3, 64) + 9 * normal(4, 48, 64) * (normal(5, 48, 64) > 1.5)
    ruler = MeanSquare((48, 64), {"input_square": normal(6, 64).exp()})
    both, alone = LowRankAndSparse(), SparseEntries()
    size = 20
    budget = both.cost((48, 64), size, 2).params
    rival = max(s for s in alone.sizes((48, 64)) if alone.cost((48, 64), s, 2).params <= budget)

    def error(form: LowRankAndSparse | SparseEntries, asked: int) -> float:
        solver = choose(type(form), MeanSquare)
        made = solver.solve(weight, form, asked, ruler, solver.prepare(weight, form, ruler))
        return ruler.error(weight - made.dense().detach())

    assert error(both, size) < 0.5 * error(alone, rival)


@pytest.mark.parametrize("shape", [(48, 96), (96, 48)], ids=str)
def test_factors_rounded_with_feedback_lose_less_than_factors_rounded_to_nearest(shape):
    m, n = shape
    weight, inputs, gradients = normal(0, m, n), normal(1, 600, n), normal(2, 600, m)
    inputs, gradients = inputs @ normal(3, n, n), gradients @ normal(4, m, m)
    moments = {
        "input_second_moment": inputs.T @ inputs / 600,
        "gradient_second_moment": gradients.T @ gradients / 600,
    }
    ruler, form, solver = KroneckerFisher(shape, moments), QuantizedLowRank(), FactorRounding()
    prepared = solver.prepare(weight, form, ruler)
    size = form.sizes(shape)[-1]
    left, right = (each.dense().detach() for each in solver.solve(weight, form, size, ruler, prepared).factors)
    paid = ruler.error(weight - left @ right)
    best = solver.prices({**prepared, "shares": torch.zeros(2)}, [size])[0]

    def nearest(factor: Tensor) -> Tensor:
        unit = MeanSquare(factor.shape, {"input_square": torch.ones(factor.shape[1], dtype=torch.float64)})
        rounding = choose(type(form.factors), MeanSquare)
        made = rounding.solve(factor, form.factors, BITS, unit, rounding.prepare(factor, form.factors, unit))
        return made.dense().detach()

    plain = [nearest(each) for each in balanced(*WhitenedSVD().factors(weight, size, ruler, prepared))]
    assert best < paid
    assert paid - best < 0.6 * (ruler.error(weight - plain[0] @ plain[1]) - best)
