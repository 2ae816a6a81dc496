"""Every allocator: within the limit, or a refusal that says what is possible; and the knapsack is the best there is."""

import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gossamer import budgets, discover
from gossamer.budgets import Allocator, spelled_out, tied
from gossamer.budgets._base import affordable
from gossamer.budgets._hull import hull
from gossamer.budgets._quiet import quiet
from gossamer.errors import BudgetError
from gossamer.vocabulary import Budget, Cost, Curve, Option, labelled

ALLOCATORS = discover.catalogue(budgets, Allocator)
KNAPSACK, UNIFORM = ALLOCATORS["knapsack"](), ALLOCATORS["uniform"]()
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)
UNITS = ("params", "bytes", "macs")

each_allocator = pytest.mark.parametrize("name", ALLOCATORS)


def option(structure, size, params, error, macs=None):
    """Bytes and multiply-adds differ from the parameters, so that taking the wrong unit shows."""
    cost = Cost(params=params, bytes=2 * params + 7, macs=params + size if macs is None else macs)
    return Option(structure=structure, size=size, cost=cost, error=error)


def curve(site, dense, *others):
    """A curve from the dense size and (size, error) pairs, or triples with multiply-adds of their own."""
    options = [option("dense", 99, dense, 0.0)]
    options += [option("rank", i, *other) for i, other in enumerate(others, start=1)]
    return Curve(site=site, options=tuple(options))


def floor_of(curves, unit):
    return sum(min(o.cost.of(unit) for o in c.options) for c in curves)


@st.composite
def problems(draw, most_sites=4):
    """(curves, limit, unit) with a limit anywhere between too little and more than all.

    Some options save parameters and take more multiply-adds than the dense weight.
    """
    curves = []
    for site in range(draw(st.integers(1, most_sites))):
        dense = draw(st.integers(2, 60))
        errors = st.one_of(st.floats(1e-3, 10), st.sampled_from([0.0, 1.0, 2.0]))
        macs = st.one_of(st.none(), st.integers(1, 3 * (dense + 99)))
        others = draw(st.lists(st.tuples(st.integers(1, dense - 1), errors, macs), max_size=5))
        curves.append(curve(f"site{site}", dense, *others))
    unit = draw(st.sampled_from(UNITS))
    total = sum(c.dense.cost.of(unit) for c in curves)
    floor = floor_of(curves, unit)
    limit = draw(st.one_of(st.integers(floor - 3, floor + 10), st.integers(floor, total + 5)))
    return curves, max(0, limit), unit


def least_error(curves, limit, unit):
    """By trying everything."""
    every = itertools.product(*[c.options for c in curves])
    return min(sum(o.error for o in picks) for picks in every if sum(o.cost.of(unit) for o in picks) <= limit)


@each_allocator
@given(problem=problems())
@settings(deadline=None, phases=PHASES, max_examples=80)
def test_an_allocation_fits_the_limit_or_is_refused_with_the_smallest_that_is_possible(name, problem):
    curves, limit, unit = problem
    floor = floor_of(curves, unit)
    if limit < floor:
        with pytest.raises(BudgetError, match=rf"\b{floor:,}\b"):
            ALLOCATORS[name]().allocate(curves, limit, unit)
        return
    allocation = ALLOCATORS[name]().allocate(curves, limit, unit)
    assert allocation.cost.of(unit) <= limit
    assert list(allocation.choices) == [c.site for c in curves]
    assert all(allocation.choices[c.site] in c.options for c in curves)
    assert allocation.cost.of(unit) == sum(o.cost.of(unit) for o in allocation.choices.values())


@each_allocator
def test_a_site_without_a_cheap_option_does_not_push_the_total_over_the_limit(name):
    curves = [curve("stubborn", 100), curve("willing", 100, (10, 4.0), (50, 2.0))]
    allocation = ALLOCATORS[name]().allocate(curves, 120, "params")
    assert allocation.cost.params <= 120


@each_allocator
@given(problem=problems())
@settings(deadline=None, phases=PHASES, max_examples=40)
def test_the_bound_is_below_the_loss(name, problem):
    curves, limit, unit = problem
    if limit < floor_of(curves, unit):
        return
    allocation = ALLOCATORS[name]().allocate(curves, limit, unit)
    assert allocation.bound + 1e-12 >= 0
    assert allocation.bound <= least_error(curves, limit, unit) + 1e-12
    assert allocation.bound <= allocation.error + 1e-12


@each_allocator
def test_the_smallest_possible_limit_takes_the_cheapest_of_every_site(name):
    curves = [curve("a", 50, (10, 1.0), (20, 0.5)), curve("b", 30, (5, 2.0)), curve("c", 40)]
    allocation = ALLOCATORS[name]().allocate(curves, 55, "params")
    assert [o.cost.params for o in allocation.choices.values()] == [10, 5, 40]


@each_allocator
@pytest.mark.parametrize("extra", [0, 1, 10_000])
def test_a_budget_for_everything_leaves_everything_dense(name, extra):
    curves = [curve("a", 50, (10, 1.0), (49, 0.0)), curve("b", 30, (5, 2.0))]
    for unit in UNITS:
        limit = sum(c.dense.cost.of(unit) for c in curves) + extra
        allocation = ALLOCATORS[name]().allocate(curves, limit, unit)
        assert {o.structure for o in allocation.choices.values()} == {"dense"}
        assert allocation.error == 0


@each_allocator
@given(problem=problems())
@settings(deadline=None, phases=PHASES, max_examples=40)
def test_no_choice_costs_more_than_the_dense_weight_in_the_unit_of_the_budget(name, problem):
    curves, limit, unit = problem
    if limit < floor_of(curves, unit):
        return
    choices = ALLOCATORS[name]().allocate(curves, limit, unit).choices
    assert all(choices[c.site].cost.of(unit) <= c.dense.cost.of(unit) for c in curves)


@each_allocator
@pytest.mark.parametrize("extra", [0, 10_000])
def test_a_slow_option_is_taken_for_its_numbers_and_never_for_its_multiply_adds(name, extra):
    curves = [curve("slow", 100, (50, 1.0, 1000)), curve("plain", 100, (50, 9.0, 50))]
    assert ALLOCATORS[name]().allocate(curves, 150, "params").choices["slow"].structure == "rank"
    assert ALLOCATORS[name]().allocate(curves, 2 * 199 - 1, "macs").choices["slow"].structure == "dense"
    everything = ALLOCATORS[name]().allocate(curves, 2 * 199 + extra, "macs")
    assert {o.structure for o in everything.choices.values()} == {"dense"}


@each_allocator
def test_an_allocation_does_not_depend_on_when_it_was_made(name):
    curves = [curve(str(i), 50 + i, (10, 3.0 / (i + 1)), (25, 1.0 / (i + 1))) for i in range(12)]
    first = ALLOCATORS[name]().allocate(curves, 300, "params")
    assert ALLOCATORS[name]().allocate(curves, 300, "params") == first


@given(problem=problems())
@settings(deadline=None, phases=PHASES, max_examples=80)
def test_the_knapsack_is_as_good_as_trying_everything(problem):
    curves, limit, unit = problem
    if limit < floor_of(curves, unit):
        return
    best = least_error(curves, limit, unit)
    assert KNAPSACK.allocate(curves, limit, unit).error == pytest.approx(best, rel=1e-6, abs=1e-9)


@given(seed=st.integers(0, 10_000), spread=st.sampled_from([1, 5, 30]))
@settings(deadline=None, phases=PHASES, max_examples=30)
def test_the_knapsack_of_a_real_models_size_misses_no_more_than_a_few_millionths_of_the_budget_buy(seed, spread):
    """What a solver of real numbers takes for equal may be a few numbers over the limit."""
    source, unit = random.Random(seed), 10**8
    curves = []
    for site in range(5):
        sizes = [(k * unit // 8 + round(spread * (2 * source.random() - 1)), k) for k in (1, 2, 3, 5, 6)]
        curves.append(curve(str(site), unit, *[(size, (8 - k) ** 2 * (0.5 + source.random())) for size, k in sizes]))
    limit = sum(source.choice(c.options).cost.params for c in curves) - source.choice([0, 1, 10])
    room = limit - 4 * limit // 10**6
    if room < floor_of(curves, "params"):
        return
    found = KNAPSACK.allocate(curves, limit, "params")
    assert found.cost.params <= limit
    assert found.error <= least_error(curves, room, "params") * (1 + 1e-6) + 1e-9


@given(problem=problems(most_sites=10))
@settings(deadline=None, phases=PHASES, max_examples=40)
def test_the_knapsack_never_loses_more_than_uniform_does_within_the_same_limit(problem):
    curves, limit, unit = problem
    if limit < floor_of(curves, unit):
        return
    rival = UNIFORM.allocate(curves, limit, unit)
    if rival.cost.of(unit) <= limit:
        assert KNAPSACK.allocate(curves, limit, unit).error <= rival.error * (1 + 1e-6) + 1e-12


def test_the_knapsack_spends_where_it_saves_most():
    curves = [curve("dull", 100, (50, 1.0)), curve("keen", 100, (50, 5.0))]
    choices = KNAPSACK.allocate(curves, 150, "params").choices
    assert choices["keen"].structure == "dense"
    assert choices["dull"].structure == "rank"


def test_the_knapsack_takes_an_option_off_the_hull_where_the_best_plan_needs_it():
    # The relaxation would mix 10 and 100; within 60 only the point above the hull makes use of the room.
    curves = [curve("only", 100, (10, 1.0), (60, 0.8))]
    assert KNAPSACK.allocate(curves, 60, "params").choices["only"].size == 2


def test_the_bound_is_the_linear_relaxation():
    curves = [curve("only", 100, (20, 4.0))]
    assert KNAPSACK.allocate(curves, 60, "params").bound == pytest.approx(2.0)


def test_uniform_gives_every_site_its_largest_option_within_the_common_fraction():
    ladder = [(10, 3.0), (40, 2.0), (60, 1.0)]
    curves = [curve("a", 100, *ladder), curve("b", 200, (20, 3.0), (99, 2.0), (101, 1.0))]
    choices = UNIFORM.allocate(curves, 150, "params").choices
    assert [o.cost.params for o in choices.values()] == [40, 101], "40 and 99, and the last step is affordable"


@given(problem=problems(), data=st.data())
@settings(deadline=None, phases=PHASES, max_examples=80)
def test_tied_sites_get_one_size_and_their_costs_add_up(problem, data):
    curves, limit, unit = problem
    sites = [c.site for c in curves]
    groups: dict[str, str] = {}
    for at, site in enumerate(sites):
        leader = sites[data.draw(st.integers(0, at))]
        groups[site] = groups.get(leader, leader)
    bundles = tied(curves, groups)
    joined = [bundle.curve for bundle in bundles]
    assert {c.site for c in joined} == set(groups.values())
    assert sum(c.dense.cost.of(unit) for c in joined) == sum(c.dense.cost.of(unit) for c in curves)
    if limit < floor_of(joined, unit):
        return
    together = KNAPSACK.allocate(joined, limit, unit)
    single = spelled_out(together, bundles)
    assert set(single.choices) == set(sites)
    assert all(single.choices[c.site] in c.options for c in curves)
    assert single.cost == together.cost
    assert single.cost.of(unit) <= limit
    assert single.error == pytest.approx(together.error)
    assert single.bound == together.bound
    for group in set(groups.values()):
        members = [c for c in curves if groups[c.site] == group]
        taken = {(o.structure, o.size) for o in (single.choices[c.site] for c in members) if o.structure != "dense"}
        assert len(taken) <= 1
        for member in members:
            offered = {(o.structure, o.size) for o in member.options} & taken
            assert bool(offered) == (single.choices[member.site].structure != "dense")


def test_a_site_that_is_tied_to_none_keeps_its_curve():
    curves = [curve("a", 50, (10, 1.0)), curve("b", 30, (5, 2.0))]
    assert [bundle.curve for bundle in tied(curves, {"a": "a", "b": "b"})] == curves


def test_tying_never_beats_choosing_freely():
    curves = [curve("a", 100, (20, 1.0), (60, 0.1)), curve("b", 100, (20, 9.0), (60, 6.0))]
    free = KNAPSACK.allocate(curves, 120, "params")
    bound = KNAPSACK.allocate([b.curve for b in tied(curves, {"a": "a", "b": "a"})], 120, "params")
    assert free.error < bound.error


def test_what_compiled_code_prints_stays_out_of_the_output_and_what_python_prints_does_not(capfd):
    import ctypes

    library = ctypes.CDLL(None)
    print("before")
    with quiet():
        library.puts(b"a stray line")
    print("after")
    library.fflush(None)
    assert capfd.readouterr().out.split() == ["before", "after"]


# ── by block influence ────────────────────────────────────────────────────────────────────────────────────────────────

INFLUENCE = ALLOCATORS["block_influence"]()


def fine(site, influence, dense=10_000):
    """A curve with an option at every hundredth."""
    found = curve(site, dense, *((size, 1.0 - size / dense) for size in range(dense // 100, dense, dense // 100)))
    return replace(found, influence=influence)


@given(
    influences=st.lists(st.floats(0, 2), min_size=1, max_size=6),
    keep=st.floats(0.25, 0.98),
)
@settings(deadline=None, max_examples=60)
def test_what_has_more_influence_keeps_more_and_nobody_loses_more_than_the_cap(influences, keep):
    curves = [fine(f"site{i}", s) for i, s in enumerate(influences)]
    limit = int(keep * 10_000 * len(curves))
    chosen = INFLUENCE.allocate(curves, limit, "params").choices
    kept = [chosen[c.site].cost.params / 10_000 for c in curves]
    assert sum(chosen[c.site].cost.params for c in curves) <= limit
    assert sum(kept) / len(kept) > keep - 0.02  # a step of the sizes, and what one more would cost
    assert min(kept) >= 0.19  # a step below the cap
    for (s, a), (t, b) in itertools.combinations(zip(influences, kept, strict=True), 2):
        assert (a - b) * (s - t) >= -0.0101 * abs(s - t)


def test_the_shares_are_those_of_the_formula():
    curves = [fine("a", 0.1), fine("b", 0.25), fine("c", 0.4)]
    chosen = INFLUENCE.allocate(curves, 21_000, "params").choices
    gone = [1 - chosen[site].cost.params / 10_000 for site in "abc"]
    weights = [math.exp(-s / 0.15) for s in (0.1, 0.25, 0.4)]
    assert gone == pytest.approx([0.9 * w / sum(weights) for w in weights], abs=0.011)


def test_equal_influence_is_uniform():
    curves = [fine(f"site{i}", 0.3) for i in range(4)]
    chosen = INFLUENCE.allocate(curves, 24_000, "params").choices
    assert {option.cost.params for option in chosen.values()} == {6_000}


def test_below_the_cap_everything_gives_what_it_must():
    curves = [fine("a", 0.1), fine("b", 1.9)]
    chosen = INFLUENCE.allocate(curves, 1_000, "params").choices
    assert sum(option.cost.params for option in chosen.values()) <= 1_000


# ── by sensitivity ────────────────────────────────────────────────────────────────────────────────────────────────────

SENSITIVITY = ALLOCATORS["sensitivity"]()


def probed(site, dense, *others):
    """A curve of (size, rise) pairs, a rise of None standing for a size that was not tried out."""
    plain = curve(site, dense, *((size, 1.0 - size / dense) for size, _ in others))
    rises = [None, *(rise for _, rise in others)]
    return replace(plain, options=tuple(replace(o, sensitivity=r) for o, r in zip(plain.options, rises, strict=True)))


@st.composite
def probed_problems(draw):
    """Curves with six measured sizes each, a few more in between, and a limit that the measured sizes reach."""
    curves = []
    for site in range(draw(st.integers(1, 6))):
        dense = draw(st.integers(100, 400))
        rises = draw(st.lists(st.floats(-0.1, 5), min_size=6, max_size=6))
        measured = [(dense * (4 + i) // 10, rise) for i, rise in enumerate(rises)]
        between = [(dense * (4 + i) // 10 - 5, None) for i in range(6)]
        curves.append(probed(f"site{site}", dense, *measured, *between))
    total, floor = (sum(f(c) for c in curves) for f in (lambda c: c.dense.cost.params, least_measured))
    return curves, draw(st.integers(floor, total))


def least_measured(found):
    return min(o.cost.params for o in found.options if o.sensitivity is not None)


def at_threshold(curves, threshold):
    """What every site costs where it may lose so much."""
    fine_with = [[o for o in c.options if (-math.inf if o is c.dense else o.sensitivity) is not None] for c in curves]
    return [
        min(o.cost.params for o in options if o.structure == "dense" or o.sensitivity <= threshold)
        for options in fine_with
    ]


@given(problem=probed_problems())
@settings(deadline=None, phases=PHASES, max_examples=80)
def test_the_least_threshold_that_fits_decides_for_all_sites(problem):
    curves, limit = problem
    chosen = SENSITIVITY.allocate(curves, limit, "params").choices
    thresholds = [-math.inf, *sorted(o.sensitivity for c in curves for o in c.options if o.sensitivity is not None)]
    costs = [sum(at_threshold(curves, t)) for t in thresholds]
    assert costs == sorted(costs, reverse=True), "the looser the threshold, the less is kept"
    expected = at_threshold(curves, next(t for t, cost in zip(thresholds, costs, strict=True) if cost <= limit))
    for found, least in zip(curves, expected, strict=True):
        above = sorted(o.cost.params for o in found.options if o.cost.params > least)
        assert chosen[found.site].cost.params in (least, *above[:1]), "its own size, or one more from what is left over"


def test_a_size_that_was_not_tried_out_is_not_chosen_while_the_others_reach_the_budget():
    curves = [probed("a", 100, (10, None), (40, 1.0), (60, 0.5)), probed("b", 100, (10, None), (40, 0.1), (60, 0.2))]
    choices = SENSITIVITY.allocate(curves, 140, "params").choices
    assert [o.cost.params for o in choices.values()] == [100, 40]


def test_a_budget_below_what_was_tried_out_is_shared_out_uniformly_from_there():
    small = [(size, None) for size in range(5, 40, 5)]
    curves = [probed("a", 100, *small, (40, 9.0)), probed("b", 200, *((2 * s, r) for s, r in small), (80, 0.1))]
    choices = SENSITIVITY.allocate(curves, 75, "params").choices
    assert [o.cost.params for o in choices.values()] == [25, 50]


def test_tied_sites_lose_what_their_members_lose_together():
    curves = [probed("a", 100, (40, 0.2), (50, None)), probed("b", 100, (40, 0.3), (50, 0.1))]
    (bundle,) = tied(curves, {"a": "a", "b": "a"})
    assert [o.sensitivity for o in bundle.curve.options] == [None, pytest.approx(0.5), None]


@pytest.mark.parametrize(
    ("unit", "amount"), [("params", 0.6), ("macs", 0.5), ("bits", 3.3), ("bytes", 120_500_001.0), ("bytes", 7e4)]
)
def test_a_budget_s_label_says_its_unit_and_its_amount(unit, amount):
    label = Budget(unit=unit, amount=amount).label
    assert labelled(label) == unit
    assert float(label.split()[0]) * {"MB": 1e6, "kB": 1e3}.get(label.split()[-1], 1) == amount


@given(problem=problems(1))
@settings(deadline=None, phases=PHASES, max_examples=80)
def test_the_hull_is_what_no_mixture_of_two_others_beats(problem):
    (found,), _, unit = problem
    points = list(zip(found.costs(unit).tolist(), found.errors.tolist(), strict=True))
    corners = hull(found, unit).tolist()
    assert corners == sorted(corners, key=lambda i: points[i])

    def least(cost, among):
        """What mixtures of two cost-ordered options lose at a cost, where they reach it."""
        found = [y for x, y in among if x == cost]
        for (a, low), (b, high) in itertools.permutations(among, 2):
            if a < cost < b:
                found.append(low + (high - low) * (cost - a) / (b - a))
        return min(found, default=math.inf)

    for i, (x, y) in enumerate(points):
        others = [p for p in points if p != (x, y)]
        cheaper = min((b for a, b in points if a <= x and (a, b) != (x, y)), default=math.inf)
        assert (i in corners) or points.index((x, y)) != i or min(least(x, others), cheaper) <= y + 1e-9
        assert (i not in corners) or min(least(x, others), cheaper) >= y - 1e-9


def test_where_plain_four_bits_win_the_plan_is_plain_four_bits():
    """Layers alike, whose loss falls to a quarter with every bit; low rank is on offer and never worth its bytes."""

    def layer(name):
        shorter = [
            Option(structure="bits", size=b, cost=Cost(params=64, bytes=8 * b + 2, macs=64), error=4.0**-b)
            for b in range(2, 9)
        ]
        ranks = [
            Option(structure="rank", size=r, cost=Cost(params=16 * r, bytes=32 * r, macs=16 * r), error=0.5 - r / 10)
            for r in range(1, 4)
        ]
        return Curve(site=name, options=(option("dense", 8, 64, 0.0), *shorter, *ranks))

    curves = [layer(f"site{i}") for i in range(12)]
    found = KNAPSACK.allocate(curves, 12 * 34, "bytes")
    assert {(o.structure, o.size) for o in found.choices.values()} == {("bits", 4)}


def test_only_who_can_count_otherwise_is_told_to():
    """A budget in bytes counts shorter numbers already."""
    dense = [curve("a", 40), curve("b", 60)]
    for unit, told in (("params", True), ("macs", True), ("bytes", False)):
        with pytest.raises(BudgetError) as refusal:
            affordable(dense, 10, unit)
        assert ("give another budget" in str(refusal.value)) == told
