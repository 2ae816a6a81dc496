"""Rounding with error feedback on both sides of a weight.

The error E = W − Q of rounding costs tr(G E A Eᵀ). With A = N D Nᵀ and G = M K Mᵀ, N and M unit upper triangular and D
and K diagonal, that is Σ_ij K_i D_j C_ij² with C = Mᵀ E N. Entry C_ij is E_ij plus what the entries above and to the
left of it, rounded before, contribute; rounding w_ij plus that contribution leaves C_ij a rounding error and no more.
With G diagonal this is GPTQ (Frantar et al. 2022, arXiv 2210.17323), whose loop over columns it is; LDLQ is another
name (Chee et al. 2023, arXiv 2307.13304).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.linalg.cholesky import safe_cholesky
from gossamer.linalg.grid import Levels, codes_on, inverse

ROWS = 32
"""Rows that are rounded together, without feedback among them: the loop is as much shorter, and of hundreds of rows
each still passes its error on to all but these."""
COLUMNS = 32
"""Columns after which the feedback is worked into later ones at once, 128 in GPTQ: only a matter of speed."""


@dataclass(frozen=True)
class Side:
    """One side of the weight: the order in which its indices are rounded, what each passes on, what its errors cost.

    `passed` is the upper triangular factor (k × k) in that order, the blocks on its diagonal identities, and None where
    nothing is passed on; `cost` (k, in the weight's order) is what one error costs where nothing in its own block makes
    it good.
    """

    order: Tensor
    passed: Tensor | None
    cost: Tensor


def side(moment: Tensor, block: int = 1, *, in_turn: bool = False) -> Side:
    """The side whose second moment (k × k) this is, for feedback between blocks of so many indices.

    The indices of the largest second moment come first, while there are others left to make good what they lose
    (the act-order of GPTQ's code), or all `in_turn`. A moment that is a diagonal (k) has nothing to pass on.
    """
    as_they_are = torch.arange(len(moment), device=moment.device)
    if moment.dim() == 1:
        return Side(as_they_are, None, moment)
    order = as_they_are if in_turn else moment.diagonal().argsort(descending=True, stable=True)
    root = safe_cholesky(moment[order][:, order].flip(0, 1)).flip(0, 1)
    passed, cost = torch.empty_like(root), torch.empty_like(moment.diagonal())
    for start in range(0, len(order), block):
        mine = slice(start, start + block)
        own = root[mine, mine]
        passed[:, mine] = torch.linalg.solve_triangular(own, root[:, mine], upper=True, left=False)
        cost[order[mine]] = own.square().sum(1)
    return Side(order, passed, cost)


def rounded(
    weight: Tensor, scales: Tensor, points: Tensor, levels: Levels, inputs: Side | None, outputs: Side | None
) -> Tensor:
    """Codes (m × n, float32) for a weight on a grid: scales and zero points for each of its entries (all m × n).

    None is a side on which all indices count alike. The loop runs in float32, over tiles: all that lie on one diagonal
    have heard of everything above and to the left of them, and are rounded together.
    """
    m, n = weight.shape
    rows, height, down = _way(outputs, m, ROWS, weight)
    columns, width, right = _way(inputs, n, COLUMNS, weight)
    # Columns come first: the entries that are rounded at once are then one stretch of memory.
    fill = (0, -m % height, 0, -n % width)
    w, s, z = (
        F.pad(each[rows][:, columns].float().T, fill, value=empty)
        for each, empty in ((weight, 0.0), (scales, 1.0), (points, 0.0))
    )
    codes, errors, sums = torch.empty_like(w), torch.empty_like(w), torch.empty_like(w)
    for tiles in _diagonals(w.shape[1], w.shape[0], height, width):
        heard = []
        for at, (here, mine) in enumerate(tiles):
            heard.append(w.new_zeros(width, mine.stop - mine.start))
            if right is not None:
                sums[here, mine] = right[: here.start, here].T @ errors[: here.start, mine]
                heard[at] += sums[here, mine]
            if down is not None:
                heard[at] += sums[here, : mine.start] @ down[: mine.start, mine]
        target, grid, zero = (torch.stack([t[i] for i in tiles], 1) for t in (w, s, z))
        own = None if right is None else torch.stack([right[here, here] for here, _ in tiles], -1)
        code, error = _tile(target, torch.stack(heard, 1), grid, zero, levels, own)
        for at, (here, mine) in enumerate(tiles):
            codes[here, mine], errors[here, mine] = code[:, at], error[:, at]
            if right is None:
                sums[here, mine] = error[:, at]
            elif down is not None:
                sums[here, mine] += right[here, here].T @ error[:, at]
    found = codes.new_empty(m, n)
    found[rows[:, None], columns] = codes[:n, :m].T
    return found


def _way(one: Side | None, count: int, block: int, like: Tensor) -> tuple[Tensor, int, Tensor | None]:
    """(the order of `count` indices, how many go together, what each passes on if anything, in whole blocks).

    Those that make the last block whole neither hear nor tell.
    """
    order = torch.arange(count, device=like.device) if one is None else one.order
    if one is None or one.passed is None:
        return order, count, None
    whole = torch.eye(count + -count % block, device=one.passed.device)
    whole[:count, :count] = one.passed
    return order, block, whole


def _diagonals(m: int, n: int, height: int, width: int) -> Iterator[list[tuple[slice, slice]]]:
    """The tiles (columns, rows) of one diagonal after another."""
    down, across = m // height, n // width
    for diagonal in range(down + across - 1):
        yield [
            (slice((diagonal - i) * width, (diagonal - i + 1) * width), slice(i * height, (i + 1) * height))
            for i in range(max(0, diagonal - across + 1), min(down, diagonal + 1))
        ]


def _tile(
    weight: Tensor, heard: Tensor, scales: Tensor, points: Tensor, levels: Levels, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(codes, errors) of tiles, all (columns × tiles × rows); `own` (columns × columns × tiles) is what their columns
    pass on among themselves, `heard` what they have heard from elsewhere."""
    near = weight + heard
    if own is None:
        codes = codes_on(near, scales, points, levels)
        return codes, weight - (levels.heights(codes) - points) * scales
    codes, errors, finer = torch.empty_like(near), torch.empty_like(near), inverse(scales)
    for j in range(len(near)):
        code = levels.codes(torch.addcmul(points[j], near[j], finer[j]))
        codes[j] = code
        error = torch.addcmul(weight[j], levels.heights(code) - points[j], scales[j], value=-1)
        errors[j] = error
        near[j + 1 :].addcmul_(own[j, j + 1 :, :, None], error)
    return codes, errors


def passed_on(own: Tensor, inputs: Side | None, outputs: Side | None) -> Tensor:
    """The error E (m × n) that entries' own rounding errors C (m × n) make: the solution of Mᵀ E N = C."""
    error = own
    if inputs is not None and inputs.passed is not None:
        sorted_ = torch.linalg.solve_triangular(inputs.passed, error[:, inputs.order], upper=True, left=False)
        error = torch.empty_like(sorted_).index_copy_(1, inputs.order, sorted_)
    if outputs is not None and outputs.passed is not None:
        sorted_ = torch.linalg.solve_triangular(outputs.passed.T, error[outputs.order], upper=False)
        error = torch.empty_like(sorted_).index_copy_(0, outputs.order, sorted_)
    return error
