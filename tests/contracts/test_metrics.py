"""Every metric: a quadratic form, and the formula that its name promises."""

import pytest
import torch
from contract_cases import CASES, METRICS, STATISTICS, hessian, layer, moments, normal, weigh
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.metrics import InputMetric, KroneckerMetric

each_metric = pytest.mark.parametrize("name", METRICS)
shapes = st.tuples(st.integers(1, 7), st.integers(1, 7))
seeds = st.integers(0, 10_000)


@each_metric
def test_it_needs_only_statistics_that_exist_and_says_what_it_counts(name):
    assert set(METRICS[name].needs) <= set(STATISTICS)
    assert METRICS[name].unit


@each_metric
@given(shape=shapes, seed=seeds, factor=st.floats(-1e3, 1e3))
@settings(deadline=None, max_examples=25)
def test_error_is_zero_at_zero_positive_elsewhere_and_grows_with_the_square(name, shape, seed, factor):
    weight, inputs, gradients = layer(shape, seed=seed)
    metric = weigh(name, inputs, gradients)
    assert metric.error(torch.zeros_like(weight)) == 0
    one = metric.error(weight)
    assert one > 0
    assert metric.error(factor * weight) == pytest.approx(factor**2 * one, rel=1e-9)
    assert metric.error(-weight) == pytest.approx(one, rel=1e-12)


@each_metric
@given(shape=shapes, seed=seeds)
@settings(deadline=None, max_examples=25)
def test_error_obeys_the_parallelogram_law(name, shape, seed):
    a, inputs, gradients = layer(shape, seed=seed)
    b = normal(seed + 50, *shape)
    metric = weigh(name, inputs, gradients)
    apart = metric.error(a + b) + metric.error(a - b)
    assert apart == pytest.approx(2 * metric.error(a) + 2 * metric.error(b), rel=1e-9)


@each_metric
@pytest.mark.parametrize("case", CASES)
def test_no_error_costs_less_than_nothing_whatever_the_statistics(name, case):
    _, inputs, gradients = layer((4, 5), case)
    values = torch.linalg.eigvalsh(hessian(weigh(name, inputs, gradients)))
    assert values[-1] > 0
    assert values[0] >= -1e-12 * values[-1]


@each_metric
@pytest.mark.parametrize("case", ["plain", "dead_inputs", "silent_outputs"])
def test_it_knows_of_inputs_and_outputs_that_were_zero_on_every_token(name, case):
    _, inputs, gradients = layer((4, 5), case)
    metric = weigh(name, inputs, gradients)
    sides = {side for found in metric.statistics.values() for side in found.shape}
    assert metric.dead() == ({"plain": 0, "dead_inputs": 5, "silent_outputs": 4}[case] in sides)


@each_metric
def test_it_knows_what_its_roots_need_beyond_its_damping(name):
    _, inputs, gradients = layer((4, 5), "few_tokens")
    metric = weigh(name, inputs, gradients)
    assert metric.lifted() == 0
    squares = {k: found for k, found in metric.statistics.items() if k.endswith("second_moment")}
    for spoilt, moment in squares.items():
        below = moment - 0.2 * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
        lifted = METRICS[name]((4, 5), {**metric.statistics, spoilt: below}).lifted()
        assert 0.1 < lifted < 12


@each_metric
@pytest.mark.parametrize("case", CASES)
def test_the_sides_of_a_kronecker_metric_are_symmetric_positive_definite_and_float64(name, case):
    if not issubclass(METRICS[name], KroneckerMetric):
        pytest.skip("not a Kronecker metric")
    shape = (6, 9)
    _, inputs, gradients = layer(shape, case)
    metric = weigh(name, inputs, gradients)
    for side, n in ((metric.output, shape[0]), (metric.input, shape[1])):
        if side is None:
            continue
        assert side.shape == (n, n)
        assert side.dtype == torch.float64
        assert torch.equal(side, side.T)
        assert torch.linalg.eigvalsh(side)[0] > 0


@each_metric
def test_in_an_input_metric_every_row_of_an_error_counts_on_its_own(name):
    if not issubclass(METRICS[name], InputMetric):
        pytest.skip("not an input metric")
    delta, inputs, gradients = layer((4, 6))
    metric = weigh(name, inputs, gradients)
    assert metric.output is None
    rows = [torch.zeros_like(delta).index_copy(0, torch.tensor([i]), delta[i : i + 1]) for i in range(4)]
    assert metric.error(delta) == pytest.approx(sum(metric.error(row) for row in rows), rel=1e-12)


@each_metric
def test_errors_in_any_number_format_are_counted_in_float64(name):
    weight, inputs, gradients = layer((5, 6))
    metric = weigh(name, inputs, gradients)
    rough = weight.to(torch.bfloat16)
    assert metric.error(rough) == pytest.approx(metric.error(rough.double()), rel=1e-12)
    assert isinstance(metric.error(rough), float)


@each_metric
def test_a_metric_reads_no_statistic_before_it_is_asked(name):
    class Untouchable(dict):
        def __getitem__(self, key):
            raise AssertionError(f"{key} was read")

    METRICS[name]((3, 4), Untouchable())


@each_metric
def test_error_leaves_the_statistics_as_they_were(name):
    weight, inputs, gradients = layer((4, 6))
    kind = METRICS[name]
    given_, kept = (moments(kind.needs, inputs, gradients) for _ in range(2))
    kind((4, 6), given_).error(weight)
    assert all(torch.equal(given_[key], kept[key]) for key in kind.needs)


def test_identity_is_half_the_squared_norm():
    weight, inputs, gradients = layer((4, 6))
    assert weigh("identity", inputs, gradients).error(weight) == pytest.approx(0.5 * float(weight.norm() ** 2))


def test_activation_is_half_the_mean_squared_output_error():
    delta, inputs, gradients = layer((4, 6))
    by_hand = 0.5 * float((inputs @ delta.T).square().sum(1).mean())
    assert weigh("activation", inputs, gradients).error(delta) == pytest.approx(by_hand, rel=1e-5)


def test_covariance_is_half_the_mean_squared_output_error_that_the_best_bias_leaves():
    delta, inputs, gradients = layer((4, 6))
    inputs = inputs + 30 * normal(9, 6)
    lost = inputs @ delta.T
    by_hand = 0.5 * float((lost - lost.mean(0)).square().sum(1).mean())
    metric = weigh("covariance", inputs, gradients)
    assert metric.error(delta) == pytest.approx(by_hand, rel=1e-4)
    torch.testing.assert_close(metric.mean, inputs.mean(0), rtol=1e-5, atol=1e-5)


def test_covariance_of_inputs_that_hardly_vary_is_finite():
    """What float32 sums leave of a variance below their rounding may be negative."""
    delta, inputs, gradients = layer((4, 6))
    inputs[:, 0] = 1e4
    inputs[:, 1] = 1e4 + 1e-4 * inputs[:, 1]
    error = weigh("covariance", inputs, gradients).error(delta)
    moderate = weigh("covariance", inputs[:, 2:], gradients).error(delta[:, 2:])
    assert error == pytest.approx(moderate, abs=1e-5 * 1e8 * float(delta[:, :2].square().sum()))


def test_absolute_mean_weighs_every_input_by_its_mean_magnitude():
    delta, inputs, gradients = layer((4, 6))
    by_hand = 0.5 * float((inputs.abs().mean(0).sqrt() * delta).square().sum())
    assert weigh("absolute_mean", inputs, gradients).error(delta) == pytest.approx(by_hand, rel=1e-5)


def test_diagonal_fisher_weighs_every_entry_by_its_mean_squared_gradient():
    delta, inputs, gradients = layer((4, 6))
    fisher = torch.einsum("ti,tj->tij", gradients, inputs).square().mean(0)
    by_hand = 0.5 * float((fisher * delta.square()).sum())
    assert weigh("diagonal_fisher", inputs, gradients).error(delta) == pytest.approx(by_hand, rel=1e-5)


def test_row_fisher_weighs_every_input_by_the_fisher_information_of_its_weights():
    delta, inputs, gradients = layer((4, 6))
    fisher = torch.einsum("ti,tj->tij", gradients, inputs).square().mean(0)
    by_hand = 0.5 * float((fisher.mean(0) * delta.square()).sum())
    assert weigh("row_fisher", inputs, gradients).error(delta) == pytest.approx(by_hand, rel=1e-3)


def test_separable_fisher_has_the_sums_of_the_diagonal_fisher_and_is_it_where_that_has_rank_one():
    delta, inputs, gradients = layer((4, 6))
    fisher = torch.einsum("ti,tj->tij", gradients, inputs).square().mean(0)
    ruler = weigh("separable_fisher", inputs, gradients)
    found = ruler.output.diagonal()[:, None] * ruler.input.diagonal()
    torch.testing.assert_close(found.sum(0), fisher.sum(0), rtol=1e-3, atol=0)
    torch.testing.assert_close(found.sum(1), fisher.sum(1), rtol=1e-3, atol=0)
    sizes = normal(5, 4).abs(), normal(6, 6).abs()
    signs = (normal(7, 200, 4) > 0) * 2 - 1, (normal(8, 200, 6) > 0) * 2 - 1  # each entry of one size for all tokens
    flat = weigh("separable_fisher", signs[1] * sizes[1], signs[0] * sizes[0])
    by_hand = 0.5 * float((sizes[0][:, None] * sizes[1] * delta).square().sum())
    assert flat.error(delta) == pytest.approx(by_hand, rel=1e-3)


def test_kronecker_fisher_is_the_form_of_both_moments_up_to_its_damping():
    delta, inputs, gradients = normal(0, 4, 6), normal(1, 300, 6), normal(2, 300, 4)
    a, g = inputs.T @ inputs / 300, gradients.T @ gradients / 300
    by_hand = 0.5 * float(torch.trace(g @ delta @ a @ delta.T))
    assert weigh("kronecker_fisher", inputs, gradients).error(delta) == pytest.approx(by_hand, rel=5e-3)


def test_kronecker_fisher_of_one_token_is_half_the_squared_change_of_its_loss():
    delta, x, g = normal(0, 4, 6), normal(1, 1, 6), normal(2, 1, 4)
    by_hand = 0.5 * float(g @ delta @ x.T) ** 2
    # One token leaves directions that only the damping sees.
    slack = 1e-3 * 0.5 * float(delta.norm() * x.norm() * g.norm()) ** 2
    assert by_hand <= weigh("kronecker_fisher", x, g).error(delta) <= by_hand + slack


@each_metric
@pytest.mark.parametrize("tokens", [1, 100, 1e6])
def test_few_tokens_leave_it_a_positive_quadratic_form_on_the_same_scale(name, tokens):
    _, inputs, gradients = layer((4, 5))
    few, endless = (hessian(weigh(name, inputs, gradients, t)) for t in (tokens, float("inf")))
    assert torch.linalg.eigvalsh(few)[0] > 0
    # What single weights cost is known well; only what they cost together is known the less, the fewer the tokens.
    torch.testing.assert_close(few.diagonal(), endless.diagonal(), rtol=1e-9, atol=0.0)
    assert few.norm() <= endless.norm() * (1 + 1e-9)


def test_correlations_seen_in_few_tokens_weigh_less_in_kronecker_fisher():
    _, inputs, gradients = layer((4, 5))
    forms = [weigh("kronecker_fisher", inputs, gradients, tokens) for tokens in (1, 100, 1e6, float("inf"))]
    for side in ("input", "output"):
        sides = [getattr(form, side) for form in forms]
        apart = [float((s - s.diagonal().diag()).norm()) for s in sides]
        assert apart == sorted(apart) and len(set(apart)) == len(apart)
        assert apart[0] < 0.1 * apart[-1]
        assert apart[2] > 0.95 * apart[-1]


@each_metric
def test_a_kronecker_metric_of_identity_moments_is_the_identity_up_to_damping(name):
    if not issubclass(METRICS[name], KroneckerMetric):
        pytest.skip("not a Kronecker metric")
    shape = (5, 7)
    units = {
        "input_second_moment": torch.eye(7, dtype=torch.float64),
        "input_absolute_mean": torch.ones(7, dtype=torch.float64),
        "input_square": torch.ones(7, dtype=torch.float64),
        "gradient_second_moment": torch.eye(5, dtype=torch.float64),
        "fisher_rows": torch.full((7,), 5.0, dtype=torch.float64),
        "fisher_columns": torch.full((5,), 7.0, dtype=torch.float64),
    }
    delta = normal(0, *shape)
    assert METRICS[name](shape, units).error(delta) == pytest.approx(0.5 * float(delta.norm() ** 2), rel=5e-3)
