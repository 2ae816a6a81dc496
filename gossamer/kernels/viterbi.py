"""Rounding to a trellis: entries of a weight are given codes along its diagonals, each the cheapest way through one.

The state of an entry are the last L bits of a string that its codes of b bits append to; see
`gossamer.linalg.trellis`, which says what is computed here. Weights are about one in size. A call takes one thread, and
leaves Python to others meanwhile.
"""

import numba
import numpy as np
from torch import Tensor

from gossamer.kernels._running import ANY_ORDER

BLOCK = 64
"""Rows and columns of a tile. What an entry hears from tiles that are finished is added up elsewhere."""

FAR = np.float32(1e30)
"""The cost of a state that cannot be."""

WIDEST = np.float32(1e6)
"""What an entry is aimed at, at most: costs stay finite, and what feedback asks for beyond is out of reach anyway."""


def rounded_diagonals(
    first: int,
    last: int,
    weight: Tensor,
    scales: Tensor,
    costs: tuple[Tensor, Tensor],
    passed: tuple[Tensor, Tensor],
    heights: Tensor,
    bits: int,
    far: tuple[Tensor, Tensor],
    sums: Tensor,
    errors: Tensor,
    states: Tensor,
    ends: Tensor,
) -> None:
    """Give the entries on the diagonals i + j = `first` … `last` − 1 of a weight (m × n) their `states` (m × n).

    `scales` is (m × n), `costs` those of a row's and a column's errors, `heights` (2ᴸ) what the states stand for, and
    `passed` what each row passes on to later ones and each column to later ones, with those that hear first: (m × m)
    and (n × n), or empty where nothing is passed on. `far` holds what came from finished tiles, from above and from
    the left (m × n each). Written are `sums` (n × m), all that an entry's row has to pass down, `errors` (m × n) and
    `ends` (n), the states that strings have come to. Those are int64, states int16, all else float32.
    """
    arrays = (weight, scales, *costs, *passed, heights, *far, sums, errors, states, ends)
    _diagonals(first, last, *(t.numpy() for t in arrays), bits)


def rounded_rows(weight: Tensor, scales: Tensor, costs: Tensor, heights: Tensor, bits: int, states: Tensor) -> None:
    """Give each row of a weight (m × n) its `states` (m × n), as a string of its own and without feedback.

    `scales` and `costs` are (m × n), states int16; otherwise as in `rounded_diagonals`.
    """
    _rows(*(t.numpy() for t in (weight, scales, costs, heights, states)), bits)


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _many(target, scale, cost, heights, best, least, choices, here):  # type: ignore[no-untyped-def]
    """What it costs to be `here` (2ᴸ): the `best` way to the state before, less the `least` of these, and the miss."""
    for r in range(len(best)):
        so_far = best[r] - least
        after, height = here[r * choices : (r + 1) * choices], heights[r * choices : (r + 1) * choices]
        for q in range(choices):
            missed = target - scale * height[q]
            after[q] = so_far + cost * missed * missed


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _few(target, scale, cost, heights, best, least, choices, here):  # type: ignore[no-untyped-def]
    """As `_many`, for two or four choices: spelled out, since then eight states are handled at once."""
    for r in range(len(best)):
        so_far = best[r] - least
        if choices == 2:
            here[2 * r] = so_far
            here[2 * r + 1] = so_far
        else:
            here[4 * r] = so_far
            here[4 * r + 1] = so_far
            here[4 * r + 2] = so_far
            here[4 * r + 3] = so_far
    for s in range(len(here)):
        missed = target - scale * heights[s]
        here[s] += cost * missed * missed


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _cheapest(targets, scales, costs, heights, bits, state, ways, states, here, best):  # type: ignore[no-untyped-def]
    """The states (t) of the cheapest way through `targets` (t) from a `state`: Viterbi's algorithm.

    The number of the state before, among the 2ᵇ that lead to a new one, rides in the last bits of its cost.
    """
    count, choices = len(heights), 1 << bits
    rest = count >> bits
    low = np.int32(choices - 1)
    here[:] = FAR
    here[state] = np.float32(0)
    as_bits, best_bits = here.view(np.int32), best.view(np.int32)
    for t in range(len(targets)):
        for r in range(rest):
            best_bits[r] = as_bits[r] & ~low
        for p in range(1, choices):
            before, number = as_bits[p * rest : (p + 1) * rest], np.int32(p)
            for r in range(rest):
                best_bits[r] = min(best_bits[r], (before[r] & ~low) | number)
        way = ways[t]
        for r in range(rest):
            way[r] = np.uint8(best_bits[r] & low)
        least = best[0]
        for r in range(rest):
            least = min(least, best[r])
        if choices > 4:
            _many(targets[t], scales[t], costs[t], heights, best, least, choices, here)
        else:
            _few(targets[t], scales[t], costs[t], heights, best, least, choices, here)
    at = 0
    for s in range(count):
        if here[s] < here[at]:
            at = s
    for t in range(len(targets) - 1, -1, -1):
        states[t] = at
        r = at >> bits
        at = (np.int64(ways[t, r]) * rest) | r


@numba.njit(nogil=True, fastmath=ANY_ORDER, cache=True)
def _rows(weight, scales, costs, heights, states, bits):  # type: ignore[no-untyped-def]
    m, n = weight.shape
    rest = len(heights) >> bits
    ways, here, best = np.empty((n, rest), np.uint8), np.empty(len(heights), np.float32), np.empty(rest, np.float32)
    for i in range(m):
        _cheapest(weight[i], scales[i], costs[i], heights, bits, 0, ways, states[i], here, best)


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@numba.njit(nogil=True, fastmath=ANY_ORDER, cache=True)
def _diagonals(  # type: ignore[no-untyped-def]
    first, last, weight, scales, down, across, above, right, heights, far_up, far_left, sums, errors, states, ends, bits
):
    m, n = weight.shape
    most, rest = min(m, n), len(heights) >> bits
    ways, here, best = np.empty((most, rest), np.uint8), np.empty(len(heights), np.float32), np.empty(rest, np.float32)
    targets, grid, costs = np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.float32)
    found = np.empty(most, np.int64)
    for d in range(first, last):
        top = max(0, d - n + 1)
        count = min(m - 1, d) - top + 1
        # Tiles whose last entry came before this diagonal have been added up.
        done = (d - 2 * BLOCK + 1) // BLOCK + 1
        for t in range(count):
            i, j = top + t, d - top - t
            left, up = max(0, (done - i // BLOCK) * BLOCK), max(0, (done - j // BLOCK) * BLOCK)
            from_left, from_above = far_left[i, j], far_up[i, j]
            if right.size:
                from_left += _dot(errors[i, left:j], right[j, left:j])
            if above.size:
                from_above += _dot(sums[j, up:i], above[i, up:i])
            sums[j, i] = from_left
            targets[t] = min(max(weight[i, j] + from_left + from_above, -WIDEST), WIDEST)
            grid[t], costs[t] = scales[i, j], down[i] * across[j]
        _cheapest(targets[:count], grid[:count], costs[:count], heights, bits, ends[d % n], ways, found, here, best)
        ends[d % n] = found[count - 1]
        for t in range(count):
            i, j = top + t, d - top - t
            states[i, j] = found[t]
            errors[i, j] = weight[i, j] - heights[found[t]] * scales[i, j]
            sums[j, i] += errors[i, j]
