"""Trellis codes: the cheapest string is found, errors reach all that come after, what is stored is what was meant."""

import itertools

import pytest
import torch
from contract_cases import normal, weigh

from gossamer.expressions.trellis import Trellis
from gossamer.kernels.trellis import HEIGHTS, MEMORY, trellis_states
from gossamer.kernels.viterbi import BLOCK
from gossamer.linalg.feedback import side
from gossamer.linalg.trellis import ROWS, rounded_on_trellis, strung, strung_across, trellis_scales
from gossamer.solvers.sequential_rounding import SequentialRounding
from gossamer.solvers.trellis_rounding import TrellisRounding
from gossamer.structures.normal_256 import Normal256
from gossamer.structures.trellis_256 import Trellis256

LEVELS = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}
"""What standard normal numbers lose with the best levels of so many bits (Max 1960, "Quantizing for minimum
distortion")."""


def string(states: torch.Tensor, bits: int) -> torch.Tensor:
    """Whether states follow each other from state zero: each holds the last bits of the one before."""
    before = torch.cat([states.new_zeros(1), states[:-1]])
    return (states >> bits) == (before & (2 ** (MEMORY - bits) - 1))


def test_heights_are_the_normal_quantiles_and_no_rounding_of_them_is_close():
    heights = HEIGHTS.double()
    count = len(heights)
    exact = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    assert torch.equal(heights.sort().values, exact.bfloat16().double())
    # They are not in the file, so every library's Φ⁻¹ has to give the same ones.
    for wrong in (1 - 1e-9, 1 + 1e-9):
        assert torch.equal((exact * wrong).bfloat16(), exact.bfloat16())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
def test_one_more_code_leads_to_heights_all_over_the_range(bits):
    places = HEIGHTS.double().argsort().argsort().view(-1, 2**bits).sort().values
    assert places.diff(dim=1).min() >= 2**MEMORY / 2**bits * 0.35


@pytest.mark.parametrize("bits", LEVELS)
def test_normal_numbers_lose_far_less_than_with_the_best_levels(bits):
    numbers, ones = normal(bits, 8, 2000), torch.ones(8, 2000, dtype=torch.float64)
    lost = float((numbers - strung(numbers, ones, ones, bits)).square().mean())
    assert 4**-bits < lost < 0.8 * LEVELS[bits]  # what no code of so many bits can lose less than, and the levels


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_a_string_is_the_cheapest_of_all(bits):
    length = 6 // bits + 2
    numbers, scales, costs = (normal(k, 3, length).abs() * (1 + k) for k in range(3))
    found = strung(numbers, scales, costs, bits)
    lost = (costs * (numbers - found).square()).sum(1)
    every = torch.tensor(list(itertools.product(range(2**bits), repeat=length)))
    states = torch.zeros(len(every), dtype=torch.int64)
    total = torch.zeros(3, len(every), dtype=torch.float64)
    for t in range(length):
        states = (states << bits | every[:, t]) & (2**MEMORY - 1)
        missed = numbers[:, t, None] - scales[:, t, None] * HEIGHTS.double()[states]
        total += costs[:, t, None] * missed.square()
    torch.testing.assert_close(lost, total.amin(1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("bits", [1, 3, 4])
@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (9, 4), (16, 24), (3, 30)], ids=str)
def test_what_is_stored_are_states_along_diagonals_that_go_round(bits, shape):
    m, n = shape
    codes = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(m))
    states = trellis_states(codes.byte(), bits).long()
    for c in range(n):
        mine = states[torch.arange(m), (c - torch.arange(m)) % n]
        assert string(mine, bits).all()
        assert torch.equal(mine & (2**bits - 1), codes[torch.arange(m), (c - torch.arange(m)) % n])
    group = min(5, n)
    made = Trellis.along(codes, normal(1, m, -(-n // group)).float(), bits=bits, group=group)
    scales = made.scales.double().repeat_interleave(group, 1)[:, :n]
    with torch.no_grad():
        torch.testing.assert_close(made.dense().double(), HEIGHTS.double()[states] * scales, rtol=1e-6, atol=0)


def ordinary(m: int, n: int):
    """(weight, metric) with sides that are correlated, so that much is passed on, but not beyond all heights."""
    inputs, gradients = normal(2, 900, n), normal(3, 900, m)
    inputs[:, 1:] += 0.6 * inputs[:, :-1]
    gradients[:, 1:] += 0.6 * gradients[:, :-1]
    return normal(1, m, n), weigh("kronecker_fisher", inputs, gradients)


@pytest.mark.parametrize("shape", [(3 * BLOCK + 5, 2 * BLOCK + 7), (2 * BLOCK - 1, 3 * BLOCK), (20, 21)], ids=str)
def test_every_diagonal_is_the_cheapest_string_once_all_errors_before_it_are_heard(shape):
    """What an entry heard is not told, but follows from the errors: their feedback, by whole products in float64."""
    (m, n), bits = shape, 2
    weight, ruler = ordinary(m, n)
    across, down = side(ruler.input, in_turn=True), side(ruler.output, in_turn=True)
    codes = rounded_on_trellis(weight, torch.ones_like(weight), bits, across, down)
    made = HEIGHTS.double()[trellis_states(codes, bits).long()]
    own = down.passed.T @ (weight - made) @ across.passed
    cost = down.cost[:, None] * across.cost
    assert ruler.error(weight - made) == pytest.approx(float(0.5 * (cost * own.square()).sum()), rel=1e-6)

    # A diagonal goes on from where its string ended in the rows above: entries that must be what they are.
    targets, costs = (torch.zeros(m + n - 1, m) for _ in range(2))
    paid = torch.zeros(m + n - 1, dtype=torch.float64)
    for d in range(m + n - 1):
        rows = torch.arange(min(m - 1, d) + 1)
        columns, fixed = (d - rows) % n, rows < d - n + 1
        missed = torch.where(fixed, 0, own[rows, columns])
        targets[d, : len(rows)] = made[rows, columns] + missed
        costs[d, : len(rows)] = torch.where(fixed, 1e6, cost[rows, columns])
        paid[d] = (cost[rows, columns] * missed.square()).sum()
    least = (costs * (targets - strung(targets, torch.ones_like(targets), costs, bits)).square()).double().sum(1)
    assert (paid <= 1.002 * least).all()


@pytest.mark.parametrize("bits", LEVELS)
def test_it_loses_less_than_levels_of_as_many_bits(bits):
    weight, ruler = ordinary(128, 256)
    found = [
        ruler.error(weight - solver.solve(weight, form, bits, ruler, {}).dense().detach())
        for solver, form in ((TrellisRounding(), Trellis256()), (SequentialRounding(), Normal256()))
    ]
    assert found[0] < 0.85 * found[1]


def test_strings_across_see_the_costs_of_all_rows():
    """A row that costs much leaves its errors to others of its string; alone it has none to leave them to."""
    numbers, ones = normal(1, 32, 600), torch.ones(32, 600, dtype=torch.float64)
    costs = ones.clone()
    costs[::2] = 100
    lost = [(costs * (numbers - way(numbers, ones, costs, 2)).square()).sum() for way in (strung, strung_across)]
    assert lost[1] < 0.8 * lost[0]


@pytest.mark.parametrize("column", [0, 128, 255])
def test_an_input_that_costs_most_has_its_price_wherever_it_stands(column):
    weight, inputs, gradients = normal(1, 192, 256), normal(2, 900, 256), normal(3, 200, 192)
    inputs[:, column] *= 30
    ruler, solver, form = weigh("activation", inputs, gradients), TrellisRounding(), Trellis256()
    paid = ruler.error(weight - solver.solve(weight, form, 3, ruler, {}).dense().detach())
    quoted = solver.prices(solver.prepare(weight, form, ruler), [3])[0]
    assert 0.5 < paid / quoted < 2


def test_a_head_has_one_cost_for_each_of_its_many_outputs():
    """Its outputs pass nothing on, and are more than are searched for scales at once."""
    m, n = ROWS + 8, 12
    weight, inputs = normal(1, m, n), normal(2, 200, n)
    inputs[:, 1:] += 0.6 * inputs[:, :-1]
    across, down = side(inputs.T @ inputs / 200, in_turn=True), side(normal(3, m).square())
    scales = trellis_scales(weight, across.cost, n, 3)
    assert torch.equal(scales[ROWS:], trellis_scales(weight[ROWS:], across.cost, n, 3))
    codes = rounded_on_trellis(weight, scales.expand(m, n), 3, across, down)
    error = weight - HEIGHTS.double()[trellis_states(codes, 3).long()] * scales
    own = error @ across.passed
    assert (down.cost[:, None] * own.square()).mean() < 0.8 * LEVELS[3] * (down.cost[:, None] * weight.square()).mean()


def test_a_group_of_zeros_has_a_scale_of_zero_and_outliers_a_large_one():
    weight = normal(1, 4, 512)
    weight[0, :256] = 0
    weight[1, 7] = 12
    scales = trellis_scales(weight, torch.ones(512, dtype=torch.float64), 256, 4)
    assert scales[0, 0] == 0
    assert scales[1, 0] > 1.5 * scales[1, 1]
    made = TrellisRounding().solve(weight, Trellis256(), 4, weigh("identity", normal(2, 10, 512), normal(3, 10, 4)), {})
    assert not made.dense()[0, :256].any()
