"""Plain SVD, ASVD, FWSVD, SVD-LLM, LoRD and feature mimicking: what their papers promise exactly, on small layers.

Every method goes through its own file: structure and metric from the method, the solver that these choose. Statistics
are exact here, in float64, and damped by hand as the metrics damp them; prepared bases are kept in float32, which is
what weights are compared to, while errors, which have no slope there, are right to its square.
"""

from functools import cache

import pytest
import torch
from torch import Tensor

from gossamer import discover, metrics, structures
from gossamer.expressions import Expression
from gossamer.methods import method
from gossamer.metrics import Metric
from gossamer.metrics.separable_fisher import SeparableFisher
from gossamer.solvers import choose
from gossamer.statistics.fisher_rows import FisherRows
from gossamer.structures import Structure

DAMPING = {"svd": 0.0, "asvd": 1e-6, "fwsvd": 1e-5, "svd_llm": 1e-6, "lord": 1e-6, "feature_mimicking": 1e-6}
METHODS = tuple(DAMPING)
OUTPUT_METHODS = ("svd_llm", "lord", "feature_mimicking")
"""Those whose metric is the layer's output error."""
SHAPES = [(9, 14), (14, 9), (10, 10)]
RANKS = [1, 4]
TOKENS = 400

MOMENTS = {
    "input_second_moment": lambda x, g: x.T @ x / len(x),
    "input_mean": lambda x, g: x.mean(0),
    "input_absolute_mean": lambda x, g: x.abs().mean(0),
    "fisher_rows": lambda x, g: (g.square().sum(1, keepdim=True) * x.square()).mean(0),
}

each_method = pytest.mark.parametrize("name", METHODS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_rank = pytest.mark.parametrize("rank", RANKS)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@cache
def layer(shape: tuple[int, int], seed: int = 0, tokens: int = TOKENS) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, inputs, gradients): correlated, of uneven scales, and with a mean."""
    m, n = shape
    scales = torch.logspace(-0.7, 0.7, n, dtype=torch.float64)
    inputs = (normal(seed + 1, tokens, n) @ (torch.eye(n).double() + 0.3 * normal(seed + 2, n, n)) + 1) * scales
    return normal(seed, m, n), inputs, normal(seed + 3, tokens, m) * (1 + inputs[:, :1].square())


def ruler_of(name: str, inputs: Tensor, gradients: Tensor, **known: Tensor) -> Metric:
    """The method's metric of these tokens, with some statistics given by hand."""
    kind = discover.load(metrics, method(name).metric, Metric)
    found = {need: known.get(need, MOMENTS[need](inputs, gradients)) for need in kind.needs}
    return kind((gradients.shape[1], inputs.shape[1]), found)


def compress(name: str, weight: Tensor, ruler: Metric, rank: int) -> tuple[Expression, float]:
    """(the method's expression of this rank, the price quoted for it)."""
    (structure,) = method(name).structures
    form = discover.load(structures, structure, Structure)()
    solver = choose(type(form), type(ruler))
    prepared = solver.prepare(weight, form, ruler)
    expression = solver.solve(weight, form, rank, ruler, prepared).requires_grad_(False)
    return expression, solver.prices(prepared, [rank])[0]


def fitted(name: str, shape: tuple[int, int], rank: int, seed: int = 0) -> Expression:
    weight, inputs, gradients = layer(shape, seed)
    return compress(name, weight, ruler_of(name, inputs, gradients), rank)[0]


def output_error(expression: Expression, weight: Tensor, inputs: Tensor) -> float:
    """½ E‖W x − ŷ‖², a bias included."""
    return 0.5 * float((inputs @ weight.T - expression(inputs)).square().sum(1).mean())


def for_damping(name: str, delta: Tensor, inputs: Tensor, gradients: Tensor) -> float:
    """What the damping adds to the price of an error."""
    beyond = damped(name, inputs, gradients) - undamped(name, inputs, gradients)
    return 0.5 * float((delta @ beyond * delta).sum())


def near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return float((one - other).norm()) <= tolerance * float(other.norm())


def undamped(name: str, inputs: Tensor, gradients: Tensor) -> Tensor:
    """R Rᵀ (n × n) of the paper, such that its method minimizes ‖(W − W') R‖."""
    centred = inputs - inputs.mean(0)
    return {
        "svd": torch.eye(inputs.shape[1], dtype=torch.float64),
        "asvd": inputs.abs().mean(0).diag(),
        "fwsvd": torch.einsum("ti,tj->tij", gradients, inputs).square().mean(0).mean(0).diag(),
        "svd_llm": inputs.T @ inputs / len(inputs),
        "lord": inputs.T @ inputs / len(inputs),
        "feature_mimicking": centred.T @ centred / len(inputs),
    }[name]


def damped(name: str, inputs: Tensor, gradients: Tensor) -> Tensor:
    """The same with the damping of the method's metric; centring has one of its own, of the uncentred moment."""
    square = undamped(name, inputs, gradients)
    if name == "feature_mimicking":
        square = square + 1e-6 * inputs.square().mean(0).diag()
    return square + DAMPING[name] * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)


def right_root(name: str, inputs: Tensor, gradients: Tensor) -> Tensor:
    """R (n × n), symmetric."""
    values, vectors = torch.linalg.eigh(damped(name, inputs, gradients))
    return vectors * values.sqrt() @ vectors.T


# The papers' own algorithms.


def truncated(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def projected(weight: Tensor, second_moment: Tensor, rank: int) -> Tensor:
    """U Uᵀ W with U the leading eigenvectors of the outputs' second moment."""
    u = torch.linalg.eigh(weight @ second_moment @ weight.T)[1][:, -rank:]
    return u @ u.T @ weight


def published(name: str, weight: Tensor, inputs: Tensor, gradients: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(W', b') as the paper computes them from these statistics, damped, for a layer without a bias."""
    none = torch.zeros(weight.shape[0], dtype=torch.float64)
    moment = damped(name, inputs, gradients)
    if name == "svd":
        return truncated(weight, rank), none
    if name in ("asvd", "fwsvd"):
        scale = moment.diagonal().sqrt()
        return truncated(weight * scale, rank) / scale, none
    if name == "svd_llm":
        root = torch.linalg.cholesky(moment)
        return truncated(weight @ root, rank) @ torch.linalg.inv(root), none
    linear, mean = projected(weight, moment, rank), inputs.mean(0)
    return linear, none if name == "lord" else weight @ mean - linear @ mean


@each_rank
@each_shape
@each_method
def test_it_is_what_its_paper_computes(name, shape, rank):
    weight, inputs, gradients = layer(shape)
    expression = fitted(name, shape, rank)
    linear, bias = published(name, weight, inputs, gradients, rank)
    assert near(expression.dense(), linear, 1e-6)
    assert near(expression(inputs), inputs @ linear.T + bias, 1e-6)


@each_rank
@each_shape
def test_svd_llm_and_lord_are_the_same_matrix(shape, rank):
    assert torch.equal(fitted("svd_llm", shape, rank).dense(), fitted("lord", shape, rank).dense())


# Errors.


@each_rank
@each_shape
@each_method
def test_its_price_and_its_error_are_half_the_tail_energy_of_the_scaled_weight(name, shape, rank):
    weight, inputs, gradients = layer(shape)
    ruler = ruler_of(name, inputs, gradients)
    expression, price = compress(name, weight, ruler, rank)
    root = right_root(name, inputs, gradients)
    tail = 0.5 * float(torch.linalg.svdvals(weight @ root)[rank:].square().sum())
    assert price == pytest.approx(tail, rel=1e-9)
    assert ruler.error(weight - expression.dense()) == pytest.approx(price, rel=1e-9)
    assert 0.5 * float(((weight - expression.dense()) @ root).square().sum()) == pytest.approx(tail, rel=1e-9)


@each_rank
@each_shape
@pytest.mark.parametrize("name", OUTPUT_METHODS)
def test_its_price_is_the_output_error_on_the_calibration_tokens(name, shape, rank):
    weight, inputs, gradients = layer(shape)
    expression, price = compress(name, weight, ruler_of(name, inputs, gradients), rank)
    added = for_damping(name, weight - expression.dense(), inputs, gradients)
    assert 0 < added < 1e-4 * price
    assert output_error(expression, weight, inputs) + added == pytest.approx(price, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
@each_shape
def test_output_errors_are_ordered_centred_then_uncentred_then_every_diagonal_metric(shape, seed):
    weight, inputs, _ = layer(shape, seed)
    for rank in range(1, min(shape)):
        error = {name: output_error(fitted(name, shape, rank, seed), weight, inputs) for name in METHODS}
        assert error["feature_mimicking"] <= error["svd_llm"] * (1 + 1e-9)
        assert error["svd_llm"] == error["lord"]
        for diagonal in ("svd", "asvd", "fwsvd"):
            assert error["svd_llm"] <= error[diagonal] * (1 + 1e-9)


@each_rank
@each_shape
def test_each_method_is_the_best_of_all_in_its_own_metric(shape, rank):
    weight, inputs, gradients = layer(shape)
    dense = {name: fitted(name, shape, rank).dense() for name in METHODS}
    for name in METHODS:
        ruler = ruler_of(name, inputs, gradients)
        own = ruler.error(weight - dense[name])
        assert all(own <= ruler.error(weight - other) * (1 + 1e-9) for other in dense.values())
        # The tests above would mean little if the methods agreed.
        apart = [
            ruler.error(weight - dense[other]) > 1.001 * own for other in ("svd", "asvd", "fwsvd") if other != name
        ]
        assert all(apart)


@each_shape
def test_what_centring_gains_is_in_the_mean(shape):
    """Where the inputs have none, feature mimicking is LoRD."""
    weight, inputs, gradients = layer(shape)
    inputs = inputs - inputs.mean(0)
    centred, uncentred = (
        compress(name, weight, ruler_of(name, inputs, gradients), 3)[0] for name in ("feature_mimicking", "lord")
    )
    assert near(centred.dense(), uncentred.dense(), 1e-5)
    assert centred.offset().abs().max() < 1e-9
    assert output_error(fitted("feature_mimicking", shape, 3), *layer(shape)[:2]) < 0.9 * output_error(
        fitted("lord", shape, 3), *layer(shape)[:2]
    )


@each_rank
@each_shape
def test_feature_mimicking_keeps_the_mean_output_exactly_and_lord_does_not(shape, rank):
    weight, inputs, _ = layer(shape)
    mean = (inputs @ weight.T).mean(0)
    assert near(fitted("feature_mimicking", shape, rank)(inputs).mean(0), mean, 1e-12)
    assert not near(fitted("lord", shape, rank)(inputs).mean(0), mean, 1e-3)


@each_rank
@each_shape
def test_plain_svd_is_the_best_in_spectral_norm_too_and_shares_its_values_between_the_factors(shape, rank):
    weight = layer(shape)[0]
    expression = fitted("svd", shape, rank)
    values = torch.linalg.svdvals(weight)
    assert float(torch.linalg.matrix_norm(weight - expression.dense(), 2)) == pytest.approx(float(values[rank]))
    left, right = (factor.dense() for factor in expression.factors)
    assert near(left.norm(dim=0), values[:rank].sqrt(), 1e-6)
    assert near(right.norm(dim=1), values[:rank].sqrt(), 1e-6)


# What must not matter.


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@each_method
def test_the_scale_of_the_inputs_does_not_matter(name, scale):
    weight, inputs, gradients = layer((9, 14))
    scaled = compress(name, weight, ruler_of(name, scale * inputs, gradients), 4)[0]
    assert near(scaled.dense(), fitted(name, (9, 14), 4).dense(), 1e-6)
    assert near(scaled(scale * inputs), scale * fitted(name, (9, 14), 4)(inputs), 1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@each_shape
def test_the_scale_of_the_loss_does_not_matter_to_fwsvd(shape, scale):
    weight, inputs, gradients = layer(shape)
    scaled = compress("fwsvd", weight, ruler_of("fwsvd", inputs, scale * gradients), 4)[0]
    assert near(scaled.dense(), fitted("fwsvd", shape, 4).dense(), 1e-6)


@each_shape
@pytest.mark.parametrize(("name", "weights"), [("asvd", "input_absolute_mean"), ("fwsvd", "fisher_rows")])
def test_equal_features_make_a_diagonal_metric_the_plain_svd(name, weights, shape):
    """For ASVD the same as the power zero."""
    weight, inputs, gradients = layer(shape)
    equal = ruler_of(name, inputs, gradients, **{weights: torch.full((shape[1],), 3.0, dtype=torch.float64)})
    assert near(compress(name, weight, equal, 4)[0].dense(), fitted("svd", shape, 4).dense(), 1e-6)


@each_shape
def test_signs_of_inputs_do_not_matter_to_asvd_and_do_to_svd_llm(shape):
    weight, inputs, gradients = layer(shape)
    flipped = inputs * normal(7, *inputs.shape).sign()
    asvd, svd_llm = (compress(n, weight, ruler_of(n, flipped, gradients), 4)[0].dense() for n in ("asvd", "svd_llm"))
    assert near(asvd, fitted("asvd", shape, 4).dense(), 1e-12)
    assert not near(svd_llm, fitted("svd_llm", shape, 4).dense(), 1e-2)


@each_shape
@each_method
def test_a_rotation_of_the_inputs_matters_to_diagonal_metrics_alone(name, shape):
    weight, inputs, gradients = layer(shape)
    turn = torch.linalg.qr(normal(8, shape[1], shape[1]))[0]
    turned = compress(name, weight @ turn.T, ruler_of(name, inputs @ turn.T, gradients), 4)[0]
    same = near(turned(inputs @ turn.T), fitted(name, shape, 4)(inputs), 1e-5)  # centring damps each input by its own
    assert same == (name not in ("asvd", "fwsvd"))


# Limits.


@each_shape
@each_method
def test_full_rank_reproduces_the_outputs(name, shape):
    weight, inputs, _ = layer(shape)
    assert near(fitted(name, shape, min(shape))(inputs), inputs @ weight.T, 1e-6)


@each_rank
@each_shape
@each_method
def test_compressing_again_at_the_same_rank_changes_nothing(name, shape, rank):
    weight, inputs, gradients = layer(shape)
    ruler = ruler_of(name, inputs, gradients)
    once = compress(name, weight, ruler, rank)[0]
    twice, price = compress(name, once.dense(), ruler, rank)
    assert near(twice.dense(), once.dense(), 1e-6)
    assert twice.offset().abs().max() <= 1e-6 * (inputs @ weight.T).abs().max()
    assert price <= 1e-9 * ruler.error(weight)


@pytest.mark.parametrize("shape", [(40, 96), (96, 80), (90, 90)], ids=str)
@each_method
def test_sixty_four_tokens_in_more_dimensions_are_enough_to_stay_finite(name, shape):
    weight, inputs, gradients = layer(shape, tokens=64)
    ruler = ruler_of(name, inputs, gradients)
    for rank in (8, 32, 70 if min(shape) > 70 else 38):
        expression, price = compress(name, weight, ruler, rank)
        dense, root = expression.dense(), right_root(name, inputs, gradients)
        assert torch.isfinite(dense).all() and torch.isfinite(expression.offset()).all()
        assert dense.norm() <= 10 * weight.norm()
        tail = 0.5 * float(torch.linalg.svdvals(weight @ root)[rank:].square().sum())
        whole = ruler.error(weight)
        assert price == pytest.approx(tail, rel=1e-9, abs=1e-12 * whole)
        assert ruler.error(weight - dense) == pytest.approx(price, rel=1e-9, abs=1e-10 * whole)
        if name in OUTPUT_METHODS:
            error = output_error(expression, weight, inputs) + for_damping(name, weight - dense, inputs, gradients)
            assert error == pytest.approx(tail, rel=1e-9, abs=1e-10 * whole)


@each_method
def test_dead_inputs_leave_it_finite(name):
    weight, inputs, _ = layer((9, 14))
    inputs = inputs.clone()
    inputs[:, ::3] = 0
    for turned in (weight, normal(5, 20, 14)):
        ruler = ruler_of(name, inputs, normal(6, TOKENS, len(turned)))
        expression = compress(name, turned, ruler, 4)[0]
        assert torch.isfinite(expression(inputs)).all()
        assert expression.dense().norm() <= 10 * turned.norm()


# Text that was not seen.


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(24, 32), (48, 32), (32, 32)], ids=str)
def test_eight_tokens_an_input_are_enough_for_svd_llm_to_win_on_text_that_was_not_seen(shape, seed):
    """Of correlated inputs with a few that are thirty times as large, as the channels of language models are."""
    m, n = shape
    mix = torch.eye(n).double() + 0.5 * normal(seed + 20, n, n)
    mix[:, [3, 17]] *= 30

    def tokens(count: int, other: int) -> Tensor:
        return normal(other, count, n) @ mix

    weight, seen, unseen = normal(seed, m, n), tokens(8 * n, seed + 40), tokens(200 * n, seed + 60)
    gradients = normal(seed + 80, len(seen), m)
    for rank in (4, 12, 20):
        svd_llm, asvd = (
            output_error(compress(name, weight, ruler_of(name, seen, gradients), rank)[0], weight, unseen)
            for name in ("svd_llm", "asvd")
        )
        assert svd_llm < 0.9 * asvd


# Both sides of the Fisher information.


def both_sides(weight: Tensor, inputs: Tensor, gradients: Tensor, rank: int) -> Tensor:
    """FWSVD with outputs weighted too: `--metric separable_fisher`."""
    moments = {
        "fisher_rows": MOMENTS["fisher_rows"](inputs, gradients),
        "fisher_columns": (inputs.square().sum(1, keepdim=True) * gradients.square()).mean(0),
    }
    return compress("fwsvd", weight, SeparableFisher((gradients.shape[1], inputs.shape[1]), moments), rank)[0].dense()


def outputs_only(weight: Tensor, inputs: Tensor, gradients: Tensor, rank: int) -> Tensor:
    """FWSVD of the layer read the other way round: the paper's rows are our columns."""
    return compress("fwsvd", weight.T.contiguous(), ruler_of("fwsvd", gradients, inputs), rank)[0].dense().T


@each_rank
@each_shape
def test_both_sides_of_the_fisher_lose_less_than_either_in_the_norm_of_both(shape, rank):
    weight, inputs, gradients = layer(shape)
    fisher = torch.einsum("ti,tj->tij", gradients, inputs).square().mean(0)
    rows, columns = fisher.sum(1, keepdim=True), fisher.sum(0)

    def lost(other: Tensor) -> float:
        return float((rows * columns * (weight - other).square()).sum())

    both = lost(both_sides(weight, inputs, gradients, rank))
    assert both < lost(fitted("fwsvd", shape, rank).dense())
    assert both < lost(outputs_only(weight, inputs, gradients, rank))
    assert both < lost(fitted("svd", shape, rank).dense())


@each_rank
@each_shape
def test_where_the_fisher_has_rank_one_both_sides_are_the_best_there_is(shape, rank):
    """Each entry's gradient has one size for all tokens: the least Σ F (W − W')² is a tail of singular values."""
    weight, inputs, gradients = layer(shape)
    sizes = gradients[0].abs(), inputs[0].abs()
    inputs, gradients = sizes[1] * inputs.sign(), sizes[0] * gradients.sign()
    found = both_sides(weight, inputs, gradients, rank)
    scales = [size.square() + 1e-5 * size.square().mean() for size in sizes]
    fisher = scales[0][:, None] * scales[1]
    tail = float(torch.linalg.svdvals(fisher.sqrt() * weight)[rank:].square().sum())
    assert float((fisher * (weight - found).square()).sum()) == pytest.approx(tail, rel=1e-9)
    assert tail < 0.99 * float((fisher * (weight - fitted("svd", shape, rank).dense()).square()).sum())


# Statistics.


def test_fishers_feature_sums_are_those_of_every_tokens_own_squared_gradient():
    """Autograd, a token at a time, against the separable form."""
    linear, labels = torch.nn.Linear(6, 4), torch.arange(30) % 4
    inputs = normal(1, 30, 6).float()
    by_hand, gradients = torch.zeros(6), []
    for x, label in zip(inputs, labels, strict=True):
        logits = linear(x)
        logits.retain_grad()
        linear.zero_grad()
        torch.nn.functional.cross_entropy(logits, label).backward()
        by_hand += linear.weight.grad.square().sum(0)
        gradients.append(logits.grad)
    total = torch.zeros(6)
    FisherRows.add(total, inputs, torch.stack(gradients))
    torch.testing.assert_close(total, by_hand, rtol=1e-5, atol=1e-7)
