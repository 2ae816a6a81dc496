"""Every solver, for every structure and metric it accepts: its prices are honest and the exact one is the best."""

from functools import cache
from itertools import pairwise

import pytest
import torch
from contract_cases import (
    CASES,
    METRICS,
    RANK_STRUCTURES,
    ROUNDED,
    STRUCTURES,
    layer,
    normal,
    stored,
    svd_factors,
    weigh,
)
from safetensors.torch import load_file, save_file

from gossamer import discover, solvers
from gossamer.checkpoints.store import read_tensors, write_tensors
from gossamer.errors import PlanError
from gossamer.expressions import read
from gossamer.metrics import KroneckerMetric, Metric
from gossamer.solvers import Solver, choose, solvable

SOLVERS = discover.catalogue(solvers, Solver)
TRIPLES = [
    (solver, structure, metric)
    for solver, kind in SOLVERS.items()
    for structure, form in STRUCTURES.items()
    for metric, ruler in METRICS.items()
    if kind().accepts(form, ruler)
]
PAIRS = sorted({(structure, metric) for _, structure, metric in TRIPLES})
EXACT = [t for t in TRIPLES if SOLVERS[t[0]].exact]
ROUNDING = [t for t in TRIPLES if t[1] in ROUNDED]
LOOSE = [t for t in TRIPLES if not SOLVERS[t[0]].exact and t not in ROUNDING]
RANKED = [t for t in TRIPLES if t[1] in RANK_STRUCTURES]
SERVED = [
    (*t, other)
    for t in TRIPLES
    if t not in ROUNDING  # whose prices are tried on a larger layer
    for other in STRUCTURES
    if (t[0], other, t[2]) in TRIPLES and len({SOLVERS[t[0]]().kept_as(STRUCTURES[s]()) for s in (t[1], other)}) == 1
]
BEST_OF_RANK = [t for t in RANKED if t in EXACT]
SHAPES = [(6, 16), (11, 6), (8, 8), (2, 3)]

each_triple = pytest.mark.parametrize(("solver", "structure", "metric"), TRIPLES, ids=map("-".join, TRIPLES))
each_exact = pytest.mark.parametrize(("solver", "structure", "metric"), EXACT, ids=map("-".join, EXACT))
each_loose = pytest.mark.parametrize(("solver", "structure", "metric"), LOOSE, ids=map("-".join, LOOSE))
each_rounding = pytest.mark.parametrize(("solver", "structure", "metric"), ROUNDING, ids=map("-".join, ROUNDING))
each_ranked = pytest.mark.parametrize(("solver", "structure", "metric"), RANKED, ids=map("-".join, RANKED))
each_best_of_rank = pytest.mark.parametrize(
    ("solver", "structure", "metric"), BEST_OF_RANK, ids=map("-".join, BEST_OF_RANK)
)


class Fit:
    """One layer with a solver, a structure and a metric for it."""

    def __init__(self, solver, structure, metric, shape, case="plain", seed=0):
        self.weight, inputs, gradients = layer(shape, case, seed)
        self.shape = shape
        self.form = STRUCTURES[structure]()
        self.ruler = weigh(metric, inputs, gradients)
        self.solver = SOLVERS[solver]()
        self.prepared = self.solver.prepare(self.weight, self.form, self.ruler)
        self.whole = self.ruler.error(self.weight)
        self._dense = {}

    @property
    def sizes(self):
        return self.form.sizes(self.shape)

    def prices(self, sizes=None):
        return self.solver.prices(self.prepared, self.sizes if sizes is None else sizes)

    def solve(self, size):
        return self.solver.solve(self.weight, self.form, size, self.ruler, self.prepared)

    def dense(self, size):
        if size not in self._dense:
            self._dense[size] = self.solve(size).dense().detach()
        return self._dense[size]

    def paid(self, size):
        return self.ruler.error(self.weight - self.dense(size))


def about(price, structure, rel, slack):
    """What may be paid for a size priced without solving it; rank structures have estimates, others may have bounds."""
    low = price * (1 - rel) - slack if structure in RANK_STRUCTURES else 0.0
    return low, price * (1 + rel) + slack


@cache
def fitted(*what):
    """A `Fit` that several tests look at and none changes."""
    return Fit(*what)


def test_every_structure_but_dense_has_a_solver_in_some_metric_and_every_metric_for_some_structure():
    assert {structure for structure, _ in PAIRS} == set(STRUCTURES) - {"dense"}
    assert {metric for _, metric in PAIRS} == set(METRICS)


@pytest.mark.parametrize("structure", RANK_STRUCTURES)
def test_a_metric_that_leaves_the_mean_to_a_bias_is_refused_to_structures_without_one(structure):
    with pytest.raises(PlanError, match=f"fits {structure} in the metric covariance; choose another metric: "):
        choose(RANK_STRUCTURES[structure], METRICS["covariance"])


@pytest.mark.parametrize(("structure", "metric"), PAIRS, ids=map("-".join, PAIRS))
def test_what_is_chosen_fits_and_is_exact_where_it_can_be(structure, metric):
    chosen = choose(STRUCTURES[structure], METRICS[metric])
    assert chosen.accepts(STRUCTURES[structure], METRICS[metric])
    assert SOLVERS[chosen.name] is type(chosen)
    fitting = [kind for kind in SOLVERS.values() if kind().accepts(STRUCTURES[structure], METRICS[metric])]
    assert chosen.exact == any(kind.exact for kind in fitting)


@pytest.mark.parametrize("metric", METRICS)
def test_dense_needs_no_solver_and_has_none(metric):
    with pytest.raises(PlanError, match=f"fits dense in the metric {metric}; choose another structure"):
        choose(STRUCTURES["dense"], METRICS[metric])


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_metric_that_no_solver_honours_is_a_plan_error(structure):
    class Strange(Metric):
        def error(self, delta):
            return 0.0

    Strange.__module__ = "gossamer.metrics.strange"
    with pytest.raises(PlanError, match=f"No solver fits {structure} in the metric strange; ") as refused:
        choose(STRUCTURES[structure], Strange)
    fit = [name for name, kind in METRICS.items() if solvable(STRUCTURES[structure], kind)]
    assert str(refused.value).endswith(f"another metric: {', '.join(fit)}." if fit else "another structure.")


@pytest.mark.parametrize("names", [("rough", "precise"), ("precise", "rough")], ids=str)
def test_an_exact_solver_is_chosen_before_any_other(names, monkeypatch):
    kinds = {
        name: type(name, (SOLVERS["whitened_svd"],), {"exact": name == "precise", "accepts": lambda *_: True})
        for name in names
    }
    monkeypatch.setattr(discover, "catalogue", lambda *_: kinds)
    assert type(choose(STRUCTURES["low_rank"], METRICS["identity"])).__name__ == "precise"


@pytest.mark.parametrize("metric", METRICS)
def test_every_kronecker_metric_is_solved_exactly(metric):
    if issubclass(METRICS[metric], KroneckerMetric):
        assert all(choose(form, METRICS[metric]).exact for form in RANK_STRUCTURES.values())


@pytest.mark.parametrize("case", CASES)
@each_exact
def test_an_exact_solver_takes_the_price_it_quotes(solver, structure, metric, case):
    for shape in SHAPES:
        fit = fitted(solver, structure, metric, shape, case)
        for size, price in zip(fit.sizes, fit.prices(), strict=True):
            assert fit.paid(size) == pytest.approx(price, rel=1e-6, abs=1e-10 * fit.whole)


@pytest.mark.parametrize("case", CASES)
@each_loose
def test_another_solver_takes_about_the_price_it_quotes(solver, structure, metric, case):
    for shape in SHAPES:
        fit = fitted(solver, structure, metric, shape, case)
        for size, price in zip(fit.sizes, fit.prices(), strict=True):
            low, high = about(price, structure, 0.1, 1e-4 * fit.whole)
            assert low <= fit.paid(size) <= high


@pytest.mark.parametrize("case", ["plain", "zero_rows"])
@each_loose
def test_prices_between_those_that_were_fitted_are_about_right_too(solver, structure, metric, case):
    fit = fitted(solver, structure, metric, (22, 24), case)
    for size, price in zip(fit.sizes, fit.prices(), strict=True):
        low, high = about(price, structure, 0.2, 5e-3 * fit.whole)
        assert low <= fit.paid(size) <= high


@cache
def ordinary(shape=(64, 96)):
    """A layer whose weights, inputs and gradients have many scales, as trained ones do."""
    m, n = shape
    weight = normal(0, m, n) * (0.5 * normal(1, m, 1)).exp()
    inputs, gradients = normal(2, 2000, n), normal(3, 2000, m)
    inputs[:, 1:] += 0.7 * inputs[:, :-1]
    gradients[:, 1:] += 0.7 * gradients[:, :-1]
    return weight, inputs * normal(4, n).exp(), gradients * normal(5, m).exp()


@each_rounding
def test_what_is_shorter_takes_about_the_price_it_quotes_on_layers_large_enough_for_means(solver, structure, metric):
    weight, inputs, gradients = ordinary()
    made, form, ruler = SOLVERS[solver](), STRUCTURES[structure](), weigh(metric, inputs, gradients)
    prepared, sizes = made.prepare(weight, form, ruler), form.sizes(weight.shape)
    for size in {sizes[0], sizes[len(sizes) // 2], sizes[-1]}:
        paid = ruler.error(weight - made.solve(weight, form, size, ruler, prepared).dense().detach())
        # Passing errors on to both sides takes entries beyond their grid, which no price foresees.
        assert 0.6 <= paid / made.prices(prepared, [size])[0] <= (2.2 if metric == "kronecker_fisher" else 1.5)


@pytest.mark.parametrize("case", CASES)
@each_triple
def test_prices_are_finite_not_negative_and_fall_with_size(solver, structure, metric, case):
    for shape in SHAPES:
        fit = fitted(solver, structure, metric, shape, case)
        prices = torch.tensor(fit.prices(), dtype=torch.float64)
        assert len(prices) == len(fit.sizes)
        assert torch.isfinite(prices).all()
        assert (prices >= 0).all()
        assert (prices.diff() <= 1e-12 * fit.whole).all()
        assert (prices <= fit.whole * (1 + 1e-6)).all()


@each_triple
def test_a_larger_size_is_strictly_better_where_the_weight_has_full_rank(solver, structure, metric):
    fit = fitted(solver, structure, metric, (9, 9))
    prices = fit.prices()
    assert all(b < a for a, b in pairwise(prices))


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (2, 2), (3, 2)], ids=str)
@each_triple
def test_the_smallest_weights_have_prices_too(solver, structure, metric, shape):
    fit = fitted(solver, structure, metric, shape)
    prices = fit.prices()
    assert len(prices) == len(fit.sizes)
    if structure in ROUNDED:
        return  # an estimate is a mean over more entries than these
    for size, price in zip(fit.sizes, prices, strict=True):
        low, high = about(price, structure, 1e-3, 1e-10 * fit.whole)
        assert low <= fit.paid(size) <= high


@pytest.mark.parametrize("case", CASES)
@each_ranked
def test_full_rank_costs_nothing(solver, structure, metric, case):
    for shape in SHAPES:
        fit = fitted(solver, structure, metric, shape, case)
        assert fit.paid(min(shape)) <= 1e-8 * fit.whole


@pytest.mark.parametrize("case", ["plain", "zero_rows", "rank_two", "tiny_gradients"])
@each_ranked
def test_full_rank_reproduces_the_weight_where_the_statistics_see_all_of_it(solver, structure, metric, case):
    for shape in SHAPES:
        fit = fitted(solver, structure, metric, shape, case)
        assert (fit.dense(min(shape)) - fit.weight).norm() <= 1e-4 * fit.weight.norm()


@pytest.mark.parametrize("case", ["few_tokens", "dead_inputs", "silent_outputs", "many_scales"])
@each_triple
def test_what_the_statistics_do_not_see_does_not_blow_up(solver, structure, metric, case):
    for shape in SHAPES:
        fit = fitted(solver, structure, metric, shape, case)
        for size in {*fit.sizes, *([min(shape)] if structure in RANK_STRUCTURES else [])}:
            assert fit.dense(size).norm() <= 10 * fit.weight.norm()


@each_triple
def test_a_weight_of_zeros_stays_zero(solver, structure, metric):
    for shape in SHAPES:
        _, inputs, gradients = layer(shape)
        ruler, form = weigh(metric, inputs, gradients), STRUCTURES[structure]()
        weight, made = torch.zeros(shape, dtype=torch.float64), SOLVERS[solver]()
        prepared = made.prepare(weight, form, ruler)
        assert made.prices(prepared, form.sizes(shape)) == pytest.approx([0.0] * len(form.sizes(shape)))
        for size in form.sizes(shape)[:1]:
            assert not made.solve(weight, form, size, ruler, prepared).dense().any()


@pytest.mark.parametrize("largest", [1e-44, 1e-39, 1e38])
@each_rounding
def test_the_smallest_and_the_largest_numbers_lose_no_more_than_all_and_come_back_from_a_file(
    solver, structure, metric, largest, tmp_path
):
    """Scales are then no ordinary numbers of their format, or zero."""
    weight, inputs, gradients = layer((16, 40))
    weight = (weight * (largest / weight.abs().max())).float().double()
    made, form, ruler = SOLVERS[solver](), STRUCTURES[structure](), weigh(metric, inputs, gradients)
    prepared, size = made.prepare(weight, form, ruler), form.sizes(weight.shape)[0]
    expression, whole = made.solve(weight, form, size, ruler, prepared), ruler.error(weight)
    assert made.prices(prepared, [size])[0] <= 1.02 * whole  # where the statistics' damping counts too
    assert ruler.error(weight - expression.float().dense().detach()) <= 1.02 * whole
    save_file(expression.state_dict(), tmp_path / "w.safetensors")
    again = read(expression.tree())
    again.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(again.float().dense(), expression.dense())


@each_rounding
def test_rows_of_one_number_are_nearly_what_they_were(solver, structure, metric):
    _, inputs, gradients = layer((16, 70))
    weight = torch.tensor([1, -1, 0.3, -7.7, 1e-3, 2, 0.7, -5] * 2).double()[:, None].repeat(1, 70)
    made, form, ruler = SOLVERS[solver](), STRUCTURES[structure](), weigh(metric, inputs, gradients)
    prepared, sizes = made.prepare(weight, form, ruler), form.sizes(weight.shape)
    for size in (sizes[0], sizes[-1]):
        lost = ruler.error(weight - made.solve(weight, form, size, ruler, prepared).dense().detach())
        # One level is enough for such a row, but for strings of codes, whose heights depend on each other.
        share = 4.0**-size if structure == "trellis_256" else 2.0**-16
        assert lost <= share * ruler.error(weight)


@each_best_of_rank
def test_prices_are_half_the_discarded_energy_of_the_whitened_weight(solver, structure, metric):
    def root(matrix, n):
        if matrix is None:
            return torch.eye(n, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(matrix)
        return vectors * values.sqrt() @ vectors.T

    for shape in SHAPES:
        fit = fitted(solver, structure, metric, shape)
        ruler = getattr(fit.ruler, "centred", fit.ruler)
        assert isinstance(ruler, KroneckerMetric), "give this exact solver an oracle of its own"
        white = root(ruler.output, shape[0]) @ fit.weight @ root(ruler.input, shape[1])
        energy = torch.linalg.svdvals(white).square()
        expected = [0.5 * float(energy[size:].sum()) for size in fit.sizes]
        assert fit.prices() == pytest.approx(expected, rel=1e-9, abs=1e-12 * fit.whole)


@pytest.mark.parametrize("case", ["plain", "many_scales", "dead_inputs", "few_tokens"])
@each_best_of_rank
def test_an_exact_solution_leaves_no_slope_in_any_direction_that_keeps_its_rank(solver, structure, metric, case):
    for shape in [(5, 8), (8, 5)]:
        for size in (1, 3):
            fit = fitted(solver, structure, metric, shape, case)
            solution = fit.dense(size)
            left, right = svd_factors(solution, size)
            rest, least = fit.weight - solution, fit.ruler.error(fit.weight - solution)
            units = [torch.eye(shape[0] * size, dtype=torch.float64).view(-1, shape[0], size) @ right]
            units += [left @ torch.eye(size * shape[1], dtype=torch.float64).view(-1, size, shape[1])]
            for step in torch.cat(units):
                # q(rest − t·step) = least − 2 t slope + t² bend has its minimum at least − slope² / bend.
                slope = (fit.ruler.error(rest + step) - fit.ruler.error(rest - step)) / 4
                assert slope**2 <= (1e-6 * least + 1e-12 * fit.whole) * fit.ruler.error(step)


@each_best_of_rank
def test_descent_from_an_exact_solution_finds_nothing_better(solver, structure, metric):
    for seed, shape in enumerate([(5, 8), (8, 5), (7, 7)]):
        fit = fitted(solver, structure, metric, shape, "plain", seed)
        left, right = svd_factors(fit.dense(2), 2)
        least = fit.paid(2)
        for step in (1e-4, 1e-2, 0.3):
            for trial in range(10):
                near = (left + step * normal(trial, *left.shape)) @ (right + step * normal(trial + 99, *right.shape))
                assert fit.ruler.error(fit.weight - near) >= least * (1 - 1e-9)


@pytest.mark.parametrize("case", ["plain", "many_scales", "dead_inputs", "few_tokens"])
@each_best_of_rank
def test_an_exact_solution_is_no_worse_than_any_other_solvers_or_metrics(solver, structure, metric, case):
    for shape in [(6, 9), (9, 6)]:
        for size in (1, 3):
            fit = fitted(solver, structure, metric, shape, case)
            least = fit.paid(size)
            for rival in RANKED:
                other = fitted(*rival, shape, case)
                there = fit.ruler.error(fit.weight - other.dense(size))
                assert least <= there * (1 + 1e-6) + 1e-10 * fit.whole, rival


@pytest.mark.parametrize("case", CASES)
@each_ranked
def test_no_solution_is_worse_in_its_metric_than_plain_truncation(solver, structure, metric, case):
    for shape in SHAPES:
        fit = fitted(solver, structure, metric, shape, case)
        for size in fit.sizes:
            plain = fit.ruler.error(fit.weight - torch.matmul(*svd_factors(fit.weight, size)))
            assert fit.paid(size) <= plain * (1 + 1e-6) + 1e-10 * fit.whole


def test_whitening_helps_where_inputs_are_uneven():
    fit = fitted("whitened_svd", "low_rank", "activation", (8, 8), "many_scales")
    plain = fit.ruler.error(fit.weight - torch.matmul(*svd_factors(fit.weight, 3)))
    assert fit.paid(3) < 0.5 * plain


@each_triple
def test_solving_leaves_weight_statistics_and_prepared_work_as_they_were(solver, structure, metric):
    fit = Fit(solver, structure, metric, (9, 16))
    weight, whole = fit.weight.clone(), fit.whole
    prepared = {key: t.clone() for key, t in fit.prepared.items()}
    size = fit.sizes[len(fit.sizes) // 2]
    first = fit.solve(size).dense()
    fit.prices()
    assert torch.equal(fit.weight, weight)
    assert fit.ruler.error(weight) == whole
    assert all(torch.equal(fit.prepared[key], t) for key, t in prepared.items())
    assert torch.equal(fit.solve(size).dense(), first)


@each_triple
def test_prepared_work_can_be_kept_on_disk(solver, structure, metric, tmp_path):
    fit = Fit(solver, structure, metric, (9, 16))
    size = fit.sizes[len(fit.sizes) // 2]
    prices, dense = fit.prices(), fit.solve(size).dense()
    write_tensors(tmp_path / "prepared.safetensors", fit.prepared, {})
    fit.prepared, _ = read_tensors(tmp_path / "prepared.safetensors")
    assert fit.prices() == prices
    assert torch.equal(fit.solve(size).dense(), dense)


@each_triple
def test_a_solution_has_the_structures_form_and_cost_in_float64(solver, structure, metric):
    fit = fitted(solver, structure, metric, (6, 8))
    for size in fit.sizes:
        expression = fit.solve(size)
        assert expression.shape == (6, 8)
        assert expression.dense().dtype == torch.float64
        assert fit.form.cost((6, 8), size, 8) == stored(expression)


def test_what_is_rounded_is_prepared_for_one_structure_alone():
    """Prices of roundings are those of one grid: two structures that shared them would have one price for both."""
    prepared: dict[tuple[str, str], list[str]] = {}
    for solver, structure, metric in ROUNDING:
        prepared.setdefault((metric, SOLVERS[solver]().kept_as(STRUCTURES[structure]())), []).append(structure)
    assert not [shared for shared in prepared.values() if len(shared) > 1]


@pytest.mark.parametrize(("solver", "structure", "metric", "other"), SERVED, ids=map("-".join, SERVED))
def test_work_prepared_for_one_structure_prices_the_others(solver, structure, metric, other):
    """The recipe prepares once for a solver and asks for the prices of all structures it serves."""
    fit = Fit(solver, structure, metric, (9, 8))
    fit.form = STRUCTURES[other]()
    for size, price in zip(fit.sizes, fit.prices(), strict=True):
        low, high = about(price, other, 0.1, 1e-4 * fit.whole)
        assert low <= fit.paid(size) <= high
