"""CompactifAI: tensor trains are what their mathematics says, cost what they say, and find structure that is there."""

import json
from itertools import combinations_with_replacement, pairwise
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from gossamer.errors import PlanError
from gossamer.expressions import read
from gossamer.expressions.tensor_train import TensorTrain
from gossamer.linalg.tensor_train import digits, tt_svd
from gossamer.methods import method
from gossamer.metrics.identity import Identity
from gossamer.metrics.kronecker_fisher import KroneckerFisher
from gossamer.recipes.menus import fallen_back
from gossamer.solvers import choose
from gossamer.solvers.tensor_train_svd import TensorTrainSVD
from gossamer.structures.dense import DenseStructure
from gossamer.structures.low_rank import LowRank
from gossamer.structures.tensor_train import TensorTrainStructure
from gossamer.vocabulary import Site

FORM = TensorTrainStructure()
SPLIT = [(8, 8), (12, 12), (9, 8), (16, 24), (30, 20), (48, 32), (4, 100), (64, 64)]
PRIME = [(13, 17), (13, 16), (16, 13), (1, 12), (2, 6), (5, 40)]

trains = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4)
quick = settings(deadline=None, max_examples=40)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kronecker_sum(rows, columns, terms, seed=0):
    """Σ Aₛ ⊗ Bₛ with random terms, by the definition of the Kronecker product."""
    a, b = normal(seed, terms, rows[0], columns[0]), normal(seed + 1, terms, rows[1], columns[1])
    return sum(torch.kron(x, y) for x, y in zip(a, b, strict=True))


def spectrum(weight, rows, columns):
    """The singular values of the matrix with a row for each (i₁, j₁) and a column for each (i₂, j₂), block by block."""
    blocks = [
        weight[i * rows[1] : (i + 1) * rows[1], j * columns[1] : (j + 1) * columns[1]].reshape(-1)
        for i in range(rows[0])
        for j in range(columns[0])
    ]
    return torch.linalg.svdvals(torch.stack(blocks))


def unfoldings(weight, rows, columns):
    """The matrices that each bond of a train cuts, index by index."""
    q = len(rows)
    letters = "abcdefgh"
    paired = "".join(letters[k] + letters[q + k] for k in range(q))
    tensor = torch.einsum(f"{letters[: 2 * q]}->{paired}", weight.reshape(*rows, *columns))
    return [tensor.reshape(prod(rows[:k]) * prod(columns[:k]), -1) for k in range(1, q)]


def plain_svd(weight, rank):
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def solved(weight, size, form=FORM):
    """(expression, its price) of this size in the identity metric, by the solver that the house chooses."""
    ruler = Identity(tuple(weight.shape), {})
    solver = choose(type(form), Identity)
    prepared = solver.prepare(weight, form, ruler)
    return solver.solve(weight, form, size, ruler, prepared), solver.prices(prepared, [size])[0]


def paid(weight, expression):
    return 0.5 * float((weight - expression.dense().detach()).square().sum())


# The method


def test_the_method_is_trains_in_the_weights_own_norm_solved_exactly():
    chosen = method("compactifai")
    assert chosen.structures == ("tensor_train",)
    assert (chosen.metric, chosen.allocator) == ("identity", "sensitivity")
    assert isinstance(choose(TensorTrainStructure, Identity), TensorTrainSVD)
    assert choose(TensorTrainStructure, Identity).exact


def test_a_metric_that_the_digits_do_not_survive_is_refused():
    with pytest.raises(PlanError, match="fits tensor_train in the metric kronecker_fisher; choose another metric: "):
        choose(TensorTrainStructure, KroneckerFisher)


# Digits


@pytest.mark.parametrize(
    ("n", "q", "expected"),
    [
        (576, 2, (24, 24)),
        (1536, 2, (32, 48)),
        (192, 2, (12, 16)),
        (576, 3, (8, 8, 9)),
        (4096, 4, (8, 8, 8, 8)),
        (97, 2, (1, 97)),
        (97, 3, (1, 1, 97)),
        (1, 3, (1, 1, 1)),
        (7, 1, (7,)),
    ],
)
def test_digits_of_known_sizes(n, q, expected):
    assert digits(n, q) == expected


@given(n=st.integers(1, 120), q=st.integers(1, 3))
@quick
def test_digits_multiply_to_the_size_and_none_are_more_even(n, q):
    found = digits(n, q)
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    assert len(found) == q and prod(found) == n and list(found) == sorted(found)
    assert sum(found) == min(sum(c) for c in combinations_with_replacement(divisors, q) if prod(c) == n)


# The train


@given(pairs=trains, bond=st.integers(1, 20), seed=st.integers(0, 9999), zeroed=st.booleans())
@quick
def test_the_squared_error_is_the_energy_discarded_at_the_cuts(pairs, bond, seed, zeroed):
    rows, columns = zip(*pairs, strict=True)
    weight = normal(seed, prod(rows), prod(columns))
    if zeroed:
        weight[::2] = 0
    cores, discarded = tt_svd(weight, rows, columns, bond)
    error, whole = float((weight - TensorTrain(cores).dense().detach()).square().sum()), float(weight.square().sum())
    assert error == pytest.approx(float(sum(discarded)), abs=1e-9 * whole)
    # Any train within the bond errs by at least the largest of these tails, so theirs sum to at most q − 1 of the best.
    tails = [float(torch.linalg.svdvals(u)[bond:].square().sum()) for u in unfoldings(weight, rows, columns)]
    assert max(tails, default=0.0) - 1e-9 * whole <= error <= sum(tails) + 1e-9 * whole


@given(pairs=trains, bond=st.integers(1, 20), seed=st.integers(0, 9999))
@quick
def test_bonds_are_capped_by_the_bond_and_by_both_sides_of_the_cut(pairs, bond, seed):
    rows, columns = zip(*pairs, strict=True)
    cores, discarded = tt_svd(normal(seed, prod(rows), prod(columns)), rows, columns, bond)
    left = 1
    assert len(cores) == len(discarded) + 1 == len(pairs)
    for k, core in enumerate(cores):
        rest = prod(rows[k + 1 :]) * prod(columns[k + 1 :])
        right = min(bond, left * rows[k] * columns[k], rest)
        assert core.shape == (left, rows[k], columns[k], right)
        left = right


@given(pairs=trains, seed=st.integers(0, 9999))
@quick
def test_a_full_bond_loses_nothing(pairs, seed):
    rows, columns = zip(*pairs, strict=True)
    weight = normal(seed, prod(rows), prod(columns))
    cores, _ = tt_svd(weight, rows, columns, weight.numel())
    assert (weight - TensorTrain(cores).dense()).norm() <= 1e-12 * weight.norm()


@pytest.mark.parametrize("shape", [(7, 11), (12, 8), (6, 6)], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_trivial_digits_are_the_plain_svd(shape, rank):
    weight = normal(1, *shape)
    cores, _ = tt_svd(weight, (shape[0], 1), (1, shape[1]), rank)
    assert (TensorTrain(cores).dense() - plain_svd(weight, rank)).norm() <= 1e-10 * weight.norm()


def test_two_cores_are_a_sum_of_kronecker_products():
    first, last = normal(0, 1, 3, 2, 4), normal(1, 4, 5, 7, 1)
    terms = [torch.kron(first[0, :, :, s], last[s, :, :, 0]) for s in range(4)]
    torch.testing.assert_close(TensorTrain([first, last]).dense(), sum(terms), rtol=1e-12, atol=1e-12)


@given(pairs=trains, bond=st.integers(1, 5), seed=st.integers(0, 9999))
@quick
def test_the_sweep_applies_the_weight_and_does_the_multiplications_it_counts(pairs, bond, seed):
    rows, columns = zip(*pairs, strict=True)
    bonds = [1, *[bond] * (len(pairs) - 1), 1]
    cores = [normal(seed + k, bonds[k], i, j, bonds[k + 1]) for k, (i, j) in enumerate(pairs)]
    train = TensorTrain(cores)
    letters = "abcd"[: len(rows)]
    bound = [f"{p}{i}{i.upper()}{q}" for p, i, q in zip("wxyzv", letters, "xyzvu", strict=False)]
    dense = torch.einsum(f"{','.join(bound)}->{letters}{letters.upper()}", *cores).reshape(prod(rows), prod(columns))
    x = normal(seed, 3, prod(columns))
    with FlopCounterMode(display=False) as counter:
        y = train._swept(x)
    torch.testing.assert_close(train(x), y, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(y, x @ dense.T, rtol=1e-10, atol=1e-10)
    assert counter.get_total_flops() == 2 * 3 * train.macs()
    y32 = train.float()(x.float())
    assert (y32.double() - x @ dense.T).norm() <= 1e-5 * (x.norm() * dense.norm())


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 2, 3, 4), (5, 2, 3, 1)],
        [(2, 2, 3, 4), (4, 2, 3, 1)],
        [(1, 2, 3, 4), (4, 2, 3, 2)],
    ],
)
def test_cores_that_do_not_make_a_chain_are_refused(shapes):
    with pytest.raises(ValueError, match="chain"):
        TensorTrain([torch.zeros(s) for s in shapes])


# The structure


@pytest.mark.parametrize("shape", PRIME, ids=str)
def test_where_a_side_is_prime_the_train_is_a_plain_low_rank_weight(shape):
    m, n = shape
    assert FORM.split(shape) == ((m, 1), (1, n))
    assert FORM.sizes(shape) == LowRank().sizes(shape)
    for size in FORM.sizes(shape):
        assert FORM.cost(shape, size, 2) == LowRank().cost(shape, size, 2)
        weight = normal(2, m, n)
        expression, _ = solved(weight, size)
        assert (expression.dense() - plain_svd(weight, size)).norm() <= 1e-6 * weight.norm()


def test_layers_that_have_no_digits_are_named_beside_the_result():
    shapes = {"layer0": (12, 16), "layer1": (13, 16), "layer2": (16, 12), "layer3": (16, 17)}
    sites = [Site(name=name, kind="linear", shape=shape, bias=False, reads=name) for name, shape in shapes.items()]
    (note,) = fallen_back(sites, ["tensor_train"])
    assert "Instead of tensor_train weights become plain low rank" in note and "(2): layer1, layer3" in note
    assert fallen_back(sites, ["low_rank"]) == ()


@given(m=st.integers(1, 300), n=st.integers(1, 300))
@quick
def test_every_size_offered_saves_numbers_and_the_next_one_would_not(m, n):
    (i1, i2), (j1, j2) = FORM.split((m, n))
    sizes = FORM.sizes((m, n))
    assert all(FORM.cost((m, n), size, 2).params < m * n for size in sizes)
    assert all(1 <= size <= min(i1 * j1, i2 * j2) for size in sizes)
    step = sizes[-1] - sizes[-2] if len(sizes) > 1 else 1
    assert ((sizes[-1] if sizes else 0) + step) * (i1 * j1 + i2 * j2) >= m * n


@pytest.mark.parametrize(
    "shape", [(576, 576), (1536, 576), (192, 576), (64, 64), (4096, 4096), (1024, 4096), (16384, 4096)], ids=str
)
def test_the_sizes_of_a_large_weight_are_few_and_reach_from_next_to_nothing_to_nearly_all(shape):
    kept = [FORM.cost(shape, size, 2).params / (shape[0] * shape[1]) for size in FORM.sizes(shape)]
    assert len(kept) <= 64
    assert kept[0] < 0.04 and kept[-1] > 0.95
    assert all(larger - smaller < 0.05 for smaller, larger in pairwise(kept))
    assert all(larger <= 1.26 * smaller for smaller, larger in pairwise(kept[3:]))


def test_weights_of_different_shapes_have_sizes_in_common():
    common = set(FORM.sizes((576, 576))) & set(FORM.sizes((192, 576)))
    assert {*range(1, 9), *range(8, 161, 8)} <= common


def test_a_train_saves_numbers_and_takes_more_multiply_adds_than_the_dense_weight():
    dense = DenseStructure().cost((576, 576), 576, 2)
    half = FORM.cost((576, 576), 144, 2)
    assert 2 * half.params == dense.params
    assert half.macs == 12 * dense.macs
    cheaper = [size for size in FORM.sizes((576, 576)) if FORM.cost((576, 576), size, 2).macs < dense.macs]
    assert cheaper == [1, 2, 3, 4, 5, 6, 7, 8, 10]


@pytest.mark.parametrize("shape", [*SPLIT, *PRIME], ids=str)
def test_the_cost_quoted_is_that_of_the_tensors_and_of_the_file(shape, tmp_path):
    m, n = shape
    rows, columns = FORM.split(shape)
    weight = normal(3, m, n)
    for size in {*FORM.sizes(shape), min(shape)}:
        expression, _ = solved(weight, size)
        chi = min(size, rows[0] * columns[0], rows[1] * columns[1])
        cost = FORM.cost(shape, size, 4)
        assert cost.params == chi * (rows[0] * columns[0] + rows[1] * columns[1])
        assert cost.params == sum(p.numel() for p in expression.parameters())
        assert cost.macs == expression.macs()
        assert not list(expression.buffers())
        path = tmp_path / f"{size}.safetensors"
        save_file(expression.float().state_dict(), path)
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        assert path.stat().st_size == header + cost.bytes


# The solver


@pytest.mark.parametrize("shape", SPLIT, ids=str)
def test_the_price_is_half_the_tail_of_the_rearranged_weight_and_is_paid(shape):
    weight = normal(4, *shape)
    energy = spectrum(weight, *FORM.split(shape)).square()
    for size in {*FORM.sizes(shape), 2, min(shape)}:
        expression, price = solved(weight, size)
        tail = 0.5 * float(energy[size:].sum())
        assert price == pytest.approx(tail, rel=1e-9, abs=1e-12 * float(energy.sum()))
        assert paid(weight, expression) == pytest.approx(tail, rel=1e-9, abs=1e-12 * float(energy.sum()))


@pytest.mark.parametrize("step", [1e-4, 1e-2, 0.3])
def test_no_train_near_the_solution_is_better(step):
    weight = normal(5, 12, 20)
    expression, price = solved(weight, 2)
    for trial in range(20):
        cores = [p.detach() + step * normal(trial + 7, *p.shape) for p in expression.cores]
        assert paid(weight, TensorTrain(cores)) >= price * (1 - 1e-9)


@pytest.mark.parametrize("shape", [(8, 8), (12, 12), (16, 24)], ids=str)
def test_the_solution_is_the_tensor_train_svd_itself(shape):
    weight = normal(6, *shape)
    cores, _ = tt_svd(weight, *FORM.split(shape), bond=3)
    expression, _ = solved(weight, 3)
    assert (expression.dense() - TensorTrain(cores).dense()).norm() <= 1e-6 * weight.norm()


def test_every_bond_spent_loses_nothing():
    weight = normal(7, 12, 12)
    assert paid(weight, solved(weight, 12)[0]) <= 1e-24 * float(weight.square().sum())


def test_a_sum_of_kronecker_products_is_found_where_low_rank_cannot_see_it():
    shape = (32, 32)
    weight = kronecker_sum(*FORM.split(shape), terms=3)
    noise = normal(9, *shape)
    weight = weight + 0.01 * noise * weight.norm() / noise.norm()
    train, _ = solved(weight, 3)
    rank = FORM.cost(shape, 3, 2).params // sum(shape)
    factors, _ = solved(weight, rank, LowRank())
    assert sum(p.numel() for p in factors.parameters()) == sum(p.numel() for p in train.parameters())
    error, rival = ((weight - e.dense()).norm() / weight.norm() for e in (train, factors))
    assert error < 0.01
    assert rival > 5 * error


@given(terms=st.integers(0, 3), scale=st.floats(-6, 6), seed=st.integers(0, 9999))
@quick
def test_a_weight_of_few_terms_costs_nothing_once_they_are_all_kept(terms, scale, seed):
    weight = 10**scale * torch.as_tensor(kronecker_sum((4, 3), (3, 4), terms, seed)) * torch.ones(12, 12).double()
    whole = float(weight.square().sum())
    for size in (1, 2, 3, 12):
        expression, price = solved(weight, size)
        assert all(torch.isfinite(p).all() for p in expression.parameters())
        assert paid(weight, expression) == pytest.approx(price, abs=1e-12 * whole)
        if size >= terms:
            assert price <= 1e-20 * whole


def test_a_weight_of_zeros_stays_zero():
    expression, price = solved(torch.zeros(16, 24, dtype=torch.float64), 3)
    assert price == 0
    assert not expression.dense().any()


# Life after the solver


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_half_precision_holds_it(dtype, scale):
    weight = scale * normal(10, 64, 64)
    whole, _ = solved(weight, 3)
    dense, x = whole.dense().detach(), normal(11, 9, 64)
    half = whole.to(dtype)
    assert (half.dense().double() - dense).norm() <= 4 * torch.finfo(dtype).eps * dense.norm()
    y = half(x.to(dtype))
    assert y.dtype == dtype
    assert (y.double() - x @ dense.T).norm() <= 8 * torch.finfo(dtype).eps * (x @ dense.T).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(48, 32), (13, 17)], ids=str)
def test_it_comes_back_from_json_and_a_state_dict_to_the_bit(shape, dtype):
    expression = solved(normal(12, *shape), 2)[0].to(dtype)
    again = read(json.loads(json.dumps(expression.tree()))).to(dtype)
    again.load_state_dict(expression.state_dict(), strict=True)
    x = normal(13, 4, shape[1]).to(dtype)
    assert again.shape == shape
    assert torch.equal(again(x), expression(x))
    assert max(t.numel() for t in again.state_dict().values()) < shape[0] * shape[1]


def test_gradients_reach_all_cores_and_training_heals():
    """On inputs of uneven scale, which the weight's own norm does not know of."""
    weight = normal(14, 48, 32)
    x = normal(15, 200, 32) * torch.logspace(-1, 1, 32, dtype=torch.float64)
    expression, _ = solved(weight, 3)
    optimizer = torch.optim.Adam(expression.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (expression(x) - x @ weight.T).square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in expression.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("size", [1, 16, 31])
def test_applying_it_does_the_multiply_adds_quoted(size):
    assert size in FORM.sizes((64, 64))
    expression, _ = solved(normal(16, 64, 64), size)
    with FlopCounterMode(display=False) as counter:
        expression(normal(17, 1, 64))
    assert counter.get_total_flops() == 2 * FORM.cost((64, 64), size, 4).macs
