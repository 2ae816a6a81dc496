"""Rounding to a trellis with error feedback on both sides of a weight.

As in `linalg/feedback`, an entry's own rounding error is all that remains of it once it has heard of the errors above
it and to its left. Entries on one diagonal i + j hear nothing from each other. So a diagonal is one string of codes,
and Viterbi's algorithm finds the string that loses least on it, each entry's error at its own cost. Where a diagonal
leaves the weight at the left another takes up its string at the right: they are n strings of m codes. QTIP (Tseng et
al. 2024, arXiv 2406.11235) runs its strings through tiles of 16 × 16 without feedback inside a tile, in the metric of
inputs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.kernels.trellis import HEIGHTS, trellis_heights
from gossamer.linalg.feedback import Side
from gossamer.linalg.grid import spread, unit

COARSE = trellis_heights(6)
"""For the search for scales, in a quarter of the time. They end sooner than those of ten bits, so that scales come out
a little larger, and what feedback adds to entries finds room (lab/LOG.md)."""

CANDIDATES = 8
"""Scales that are tried for a group, between what holds all of it and what suits its mean square."""


ROWS = 4096
"""Rows for which scales are searched at once: a vocabulary has more, and every candidate takes room."""


def trellis_scales(weight: Tensor, weights: Tensor, length: int, bits: int) -> Tensor:
    """Scales (m × ⌈n / length⌉, exact in bfloat16) for the groups along the rows of a weight (m × n).

    `weights` (n) are what the errors of a column count. Each group takes the candidate with which its entries lose
    least when every row is a string of its own, from its last column on and without feedback, or zero where none helps.
    """
    return torch.cat([_scales(rows, weights, length, bits) for rows in weight.split(ROWS)])


def _scales(weight: Tensor, weights: Tensor, length: int, bits: int) -> Tensor:
    groups = F.pad(weight, (0, -weight.shape[1] % length)).view(len(weight), -1, length)
    typical = groups.square().mean(-1).sqrt()
    widest = groups.abs().amax(-1) / float(COARSE.max())
    low, high = torch.minimum(widest, 0.9 * typical), torch.maximum(widest, 1.5 * typical)
    backwards, mine = weight.flip(1), weights.flip(0).expand_as(weight)
    best, scales = _summed(weight.square() * weights, length), torch.zeros_like(low)
    for k in range(CANDIDATES):
        share = k / (CANDIDATES - 1)
        scale = (low.pow(1 - share) * high.pow(share)).bfloat16().to(low)
        found = strung(backwards, spread(scale, length, weight.shape[1]).flip(1), mine, bits, COARSE).flip(1)
        lost = _summed((weight - found).square() * weights, length)
        scales = torch.where(lost < best, scale, scales)
        best = torch.minimum(lost, best)
    return scales


def _summed(numbers: Tensor, length: int) -> Tensor:
    """The sums of numbers (m × n) over groups of each row (m × ⌈n / length⌉)."""
    return F.pad(numbers, (0, -numbers.shape[1] % length)).view(len(numbers), -1, length).sum(-1)


def strung(weight: Tensor, scales: Tensor, costs: Tensor, bits: int, heights: Tensor = HEIGHTS) -> Tensor:
    """Numbers (m × n) rounded without feedback, every row a string, with scales and costs of errors for all of them."""
    from gossamer.kernels.viterbi import rounded_rows

    states = torch.empty(weight.shape, dtype=torch.int16)
    size = unit(weight)
    w, s, c = (t.float().contiguous() for t in (weight / size, scales / size, costs / costs.max().clamp_min(1e-300)))
    rounded_rows(w, s, c, heights, bits, states)
    return heights[states.int()].to(scales) * scales


def strung_across(weight: Tensor, scales: Tensor, costs: Tensor, bits: int) -> Tensor:
    """As `strung`, but the strings run as those of a whole weight do: down, and from the last column to the first.

    Rows go round where those of a whole weight would be more.
    """
    m, n = weight.shape
    rows = (torch.arange(m)[:, None] + torch.arange(n)) % m
    w, s, c = (t.flip(1).gather(0, rows) for t in (weight, scales, costs))
    found = strung(w, s, c, bits)
    return torch.empty_like(found).scatter_(0, rows, found).flip(1)


def rounded_on_trellis(weight: Tensor, scales: Tensor, bits: int, inputs: Side | None, outputs: Side | None) -> Tensor:
    """Codes (m × n, uint8) for a weight with a scale for each of its entries (m × n).

    The sides are in the weight's own order; None is one on which all indices count alike. The loop runs in float32.
    """
    from gossamer.kernels.viterbi import BLOCK, rounded_diagonals

    m, n = weight.shape
    size = unit(weight)
    own, grid = ((t / size).float().contiguous() for t in (weight, scales))
    (down, above), (across, right) = _way(outputs, m), _way(inputs, n)
    far, errors, sums = (torch.zeros_like(own), torch.zeros_like(own)), torch.zeros_like(own), own.new_zeros(n, m)
    states, ends = torch.zeros(m, n, dtype=torch.int16), torch.zeros(n, dtype=torch.int64)
    fixed = own, grid, (down, across), (above, right), HEIGHTS, bits
    first = 0
    while first < m + n - 1:
        last = min(first + BLOCK if first else 2 * BLOCK - 1, m + n - 1)
        rounded_diagonals(first, last, *fixed, far, sums, errors, states, ends)
        _told((last + 1) // BLOCK - 2, BLOCK, above, right, far, sums, errors)
        first = last
    return states.bitwise_and_(2**bits - 1).byte()


def _way(one: Side | None, count: int) -> tuple[Tensor, Tensor]:
    """(what each index's errors cost, at most one; what each hears from those before it, nothing if empty)."""
    cost = (
        torch.ones(count, dtype=torch.float32) if one is None else (one.cost / one.cost.max().clamp_min(1e-300)).float()
    )
    passed = None if one is None else one.passed
    return cost, torch.empty(0, 0, dtype=torch.float32) if passed is None else passed.float().T.contiguous()


def _told(
    diagonal: int, block: int, above: Tensor, right: Tensor, far: tuple[Tensor, Tensor], sums: Tensor, errors: Tensor
) -> None:
    """Add what the tiles of one diagonal, finished, have for later rows and columns."""
    m, n = errors.shape
    for i in range(max(0, diagonal - (n - 1) // block), min(diagonal, (m - 1) // block) + 1):
        j = diagonal - i
        rows, columns = slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block)
        below, beyond = slice((i + 1) * block, m), slice((j + 1) * block, n)
        if len(above):
            far[0][below, columns] += above[below, rows] @ sums[columns, rows].T
        if len(right):
            far[1][rows, beyond] += errors[rows, columns] @ right[beyond, columns].T
