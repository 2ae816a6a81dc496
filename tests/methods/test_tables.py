"""Tables of token embeddings, tied to a head or not: feature mimicking and truncation, against brute force."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gossamer.errors import PlanError
from gossamer.expressions import Expression
from gossamer.metrics import KroneckerMetric, TableMetric
from gossamer.metrics.activation import Activation
from gossamer.metrics.covariance import Covariance
from gossamer.metrics.diagonal_fisher import DiagonalFisher
from gossamer.metrics.identity import Identity
from gossamer.metrics.kronecker_fisher import KroneckerFisher
from gossamer.metrics.mean_square import MeanSquare
from gossamer.solvers import choose
from gossamer.solvers.table_svd import TableSVD, nearest_product
from gossamer.solvers.whitened_svd import WhitenedSVD
from gossamer.structures import Structure
from gossamer.structures.affine_low_rank import AffineLowRank
from gossamer.structures.low_rank import LowRank
from gossamer.structures.pivoted_low_rank import PivotedLowRank

VOCAB, WIDTH = 40, 10


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_moment(seed: int, n: int) -> Tensor:
    rows = normal(seed, 20 * n, n) @ (torch.eye(n).double() + 0.5 * normal(seed + 1, n, n))
    return rows.T @ rows / len(rows)


def table(seed: int = 0) -> Tensor:
    """Around a point other than zero."""
    return normal(seed, VOCAB, WIDTH) @ normal(seed + 1, WIDTH, WIDTH) + 2 * normal(seed + 2, WIDTH)


def frequencies(seed: int = 0) -> Tensor:
    chances = normal(seed + 50, VOCAB).mul(1.5).exp()
    return chances / chances.sum()


def lookup(kind: type, seed: int = 0, p: Tensor | None = None) -> KroneckerMetric | Covariance:
    p = frequencies(seed) if p is None else p
    known = {"input_second_moment": p, "input_mean": p, "gradient_second_moment": second_moment(seed + 3, WIDTH)}
    found: KroneckerMetric | Covariance = kind((WIDTH, VOCAB), {**known, "input_square": p})
    return found


def head(kind: type, seed: int = 0, h: Tensor | None = None) -> KroneckerMetric | Covariance:
    moment = second_moment(seed + 7, WIDTH)
    known = {"input_second_moment": moment, "input_mean": normal(seed + 9, WIDTH), "input_square": moment.diagonal()}
    h = frequencies(seed) * (1 - frequencies(seed)) * 0.5 + 0.2 * frequencies(seed + 5) if h is None else h
    found: KroneckerMetric | Covariance = kind((VOCAB, WIDTH), {**known, "gradient_second_moment": h})
    return found


KINDS = [Activation, Covariance, Identity, KroneckerFisher, MeanSquare]
METRICS = {
    f"{kind.__name__}, {'tied' if tied else 'looked up'}": (kind, tied) for kind in KINDS for tied in (False, True)
}
each_metric = pytest.mark.parametrize("name", METRICS)
each_form = pytest.mark.parametrize("form", [LowRank(), PivotedLowRank(), AffineLowRank()], ids=lambda f: f.name)


def ruler_of(name: str, seed: int = 0) -> TableMetric:
    kind, tied = METRICS[name]
    return TableMetric([lookup(kind, seed), head(kind, seed)] if tied else [lookup(kind, seed)])


def solved(weight: Tensor, form: Structure, size: int, ruler: TableMetric) -> tuple[Expression, float]:
    solver = choose(type(form), TableMetric)
    prepared = solver.prepare(weight, form, ruler)
    expression = solver.solve(weight, form, size, ruler, prepared).requires_grad_(False)
    return expression, solver.prices(prepared, [size])[0]


@each_form
@each_metric
def test_the_price_quoted_is_the_price_paid_and_falls(name, form):
    weight, ruler = table(), ruler_of(name)
    sizes = form.sizes((VOCAB, WIDTH))
    paid, quoted = [], []
    for size in sizes:
        expression, price = solved(weight, form, size, ruler)
        quoted.append(price)
        paid.append(ruler.error(weight - expression.dense()))
        assert expression.shape == (VOCAB, WIDTH)
    assert paid == pytest.approx(quoted, rel=1e-5, abs=1e-9 * ruler.error(weight))
    assert all(after < before for before, after in pairwise(quoted))


@each_form
@each_metric
def test_full_rank_gives_the_table_back(name, form):
    weight = table()
    expression, price = solved(weight, form, WIDTH, ruler_of(name))
    assert price == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(expression.dense(), weight, rtol=1e-5, atol=1e-5)


def test_an_error_costs_what_both_uses_pay_for_it_token_by_token():
    delta, p, h = normal(1, VOCAB, WIDTH), frequencies(), frequencies(5)
    uses = [lookup(KroneckerFisher, 0, p), head(KroneckerFisher, 0, h)]
    g, a = uses[0].statistics["gradient_second_moment"], uses[1].statistics["input_second_moment"]
    alone = 0.5 * sum(float(p[v] * delta[v] @ g @ delta[v]) for v in range(VOCAB))
    both = alone + 0.5 * sum(float(h[v] * delta[v] @ a @ delta[v]) for v in range(VOCAB))
    assert TableMetric(uses[:1]).error(delta) == pytest.approx(alone, rel=1e-2)
    assert TableMetric(uses).error(delta) == pytest.approx(both, rel=1e-2)


# Looked up only


@pytest.mark.parametrize("kind", [Activation, KroneckerFisher, Identity])
def test_a_lookup_is_a_product_with_unit_vectors(kind):
    """So its solution is the whitened one of the transposed table, with the full diagonal written out."""
    weight, use = table(), lookup(kind)

    class Full(KroneckerMetric):
        input = None if use.input is None else use.input.diag()
        output = use.output

    full = Full((WIDTH, VOCAB), {})
    solver = WhitenedSVD()
    prepared = solver.prepare(weight.T.contiguous(), LowRank(), full)
    for size in (1, 4):
        plain = solver.solve(weight.T.contiguous(), LowRank(), size, full, prepared).dense().detach()
        expression, price = solved(weight, LowRank(), size, TableMetric([use]))
        torch.testing.assert_close(expression.dense(), plain.T, rtol=1e-4, atol=1e-4)
        assert price == pytest.approx(solver.prices(prepared, [size])[0], rel=1e-6)


@pytest.mark.parametrize("size", [1, 4])
def test_feature_mimicking_of_a_table_is_principal_components_around_the_mean(size):
    weight, p = table(), frequencies()
    p = p + 1e-6 * p.mean()  # the metric's damping
    expression, price = solved(weight, AffineLowRank(), size, TableMetric([lookup(Covariance)]))
    mean = p @ weight / p.sum()
    spread = (weight - mean).T @ (p[:, None] * (weight - mean))
    values, vectors = torch.linalg.eigh(spread)
    axes = vectors[:, -size:]
    torch.testing.assert_close(expression.dense(), (weight - mean) @ axes @ axes.T + mean, rtol=1e-5, atol=1e-5)
    tail = float(values[:-size].sum())
    found = float(p @ (weight - expression.dense()).square().sum(1))
    assert found == pytest.approx(tail, rel=1e-9)
    assert 2 * price == pytest.approx(tail, rel=1e-9)
    torch.testing.assert_close(p @ expression.rows(torch.arange(VOCAB)) / p.sum(), mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, 4, WIDTH])
def test_a_feature_mimicking_table_folds_into_the_layer_behind_it(size):
    """F (U c + s) = (F U) c + F s: codes alone are looked up, and the layer, smaller, has the row in its bias."""
    weight, ids = table(), torch.tensor([[3, 0, 39], [3, 3, 17]])
    expression, _ = solved(weight, AffineLowRank(), size, TableMetric([lookup(Covariance)]))
    codes, decoder = (factor.dense() for factor in expression.others.factors)
    layer, bias = normal(7, 6, WIDTH), normal(8, 6)
    behind = expression.rows(ids) @ layer.T + bias
    folded = codes[ids] @ (layer @ decoder.T).T + (bias + layer @ expression.row)
    assert codes.shape == (VOCAB, size)
    torch.testing.assert_close(folded, behind, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(expression.dense()[ids] @ layer.T + bias, behind, rtol=1e-12, atol=1e-12)
    without = codes[ids] @ (layer @ decoder.T).T + bias
    assert (without - behind).abs().max() > 0.1, "the row is not nothing"


@pytest.mark.parametrize("seed", range(4))
def test_on_the_text_s_tokens_centred_is_best_then_uncentred_then_the_plain_svd(seed):
    weight, p = table(seed), frequencies(seed)
    for size in range(1, WIDTH):
        tried = (AffineLowRank(), Covariance), (LowRank(), Activation), (LowRank(), Identity)
        found = [solved(weight, form, size, TableMetric([lookup(kind, seed)]))[0].dense() for form, kind in tried]
        errors = [float(p @ (weight - dense).square().sum(1)) for dense in found]
        assert errors[0] <= errors[1] * (1 + 1e-4) and errors[1] <= errors[2] * (1 + 1e-4)


def test_a_table_tells_by_token_what_it_lost_not_by_place():
    """Rows in another order, with their frequencies, give the same rows in that order."""
    weight, p, order = table(), frequencies(), normal(3, VOCAB).argsort()
    one, _ = solved(weight, LowRank(), 3, TableMetric([lookup(Activation, 0, p)]))
    other, _ = solved(weight[order], LowRank(), 3, TableMetric([lookup(Activation, 0, p[order])]))
    torch.testing.assert_close(other.dense(), one.dense()[order], rtol=1e-4, atol=1e-4)


# Tied


def test_where_both_uses_see_the_tokens_alike_a_tied_table_is_solved_exactly():
    weight, p = table(), frequencies()
    ruler = TableMetric([lookup(KroneckerFisher, 0, p), head(KroneckerFisher, 0, 0.3 * p)])
    rows, form = nearest_product(ruler)
    (one, g), (other, a) = ruler.sides
    total = torch.einsum("v,ij->vij", one, g) + torch.einsum("v,ij->vij", other, a)
    torch.testing.assert_close(torch.einsum("v,ij->vij", rows, form), total, rtol=1e-3, atol=1e-6)
    expression, _ = solved(weight, LowRank(), 3, ruler)
    least = ruler.error(weight - expression.dense())
    left, right = expression.factors[0].weight, expression.factors[1].weight
    for trial in range(20):
        near = (left + 0.05 * normal(trial, *left.shape)) @ (right + 0.05 * normal(trial + 99, *right.shape))
        assert ruler.error(weight - near) >= least * (1 - 1e-3)


def test_the_nearest_product_is_the_nearest():
    ruler = ruler_of("KroneckerFisher, tied", 3)
    total = sum(torch.outer(rows, form.flatten()) for rows, form in ruler.sides)
    rows, form = nearest_product(ruler)
    singular = torch.linalg.svdvals(total)
    assert float((total - torch.outer(rows, form.flatten())).norm()) == pytest.approx(float(singular[1]), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_tied_table_is_better_for_both_uses_together_than_a_solution_for_either(seed):
    weight, ruler = table(seed), ruler_of("KroneckerFisher, tied", seed)
    uses = ruler.parts
    both = ruler.error(weight - solved(weight, LowRank(), 4, ruler)[0].dense())
    looked_up = solved(weight, LowRank(), 4, TableMetric(uses[:1]))[0]
    prepared = WhitenedSVD().prepare(weight, LowRank(), uses[1])
    multiplied = WhitenedSVD().solve(weight, LowRank(), 4, uses[1], prepared)
    assert both < ruler.error(weight - looked_up.dense())
    assert both < ruler.error(weight - multiplied.dense().detach())


# Heads of their own


def test_a_head_s_diagonal_output_side_weighs_its_rows():
    weight, use = table(), head(KroneckerFisher)

    class Full(KroneckerMetric):
        input = use.input
        output = use.output.diag()

    full, solver = Full((VOCAB, WIDTH), {}), WhitenedSVD()
    assert use.error(weight) == pytest.approx(full.error(weight), rel=1e-12)
    found = [solver.solve(weight, LowRank(), 3, m, solver.prepare(weight, LowRank(), m)).dense() for m in (use, full)]
    torch.testing.assert_close(*found)


def test_metrics_that_do_not_come_apart_are_refused():
    TableMetric.check(Covariance)
    with pytest.raises(PlanError, match="DiagonalFisher"):
        TableMetric.check(DiagonalFisher)


def test_tables_have_their_solver_and_no_other_weight_has_it():
    for form in (LowRank, PivotedLowRank, AffineLowRank):
        assert type(choose(form, TableMetric)) is TableSVD
        assert not TableSVD().accepts(form, KroneckerFisher)
