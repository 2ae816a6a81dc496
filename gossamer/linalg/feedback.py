"""Rounding with error feedback on both sides of a weight.

The error E = W − Q of rounding costs tr(G E A Eᵀ). With A = N D Nᵀ and G = M K Mᵀ, N and M unit upper triangular and D
and K diagonal, that is Σ_ij K_i D_j C_ij² with C = Mᵀ E N. Entry C_ij is E_ij plus what the entries above and to the
left of it, rounded before, contribute; rounding w_ij plus that contribution leaves C_ij a rounding error and no more.
With G diagonal this is GPTQ (Frantar et al. 2022, arXiv 2210.17323), whose loop over columns it is; LDLQ is another
name (Chee et al. 2023, arXiv 2307.13304).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gossamer.linalg.cholesky import safe_cholesky
from gossamer.linalg.grid import codes_on

ROWS = 32
"""Rows that are rounded together, without feedback among them: the loop is as much shorter, and of hundreds of rows
each still passes its error on to all but these."""
COLUMNS = 128
"""Columns after which the feedback is worked into all later ones, as GPTQ does."""


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


def side(moment: Tensor, block: int = 1) -> Side:
    """The side whose second moment (k × k) this is, for feedback between blocks of so many indices.

    The indices of the largest second moment come first, while there are others left to make good what they lose
    (the act-order of GPTQ's code). A moment that is a diagonal (k) has nothing to pass on.
    """
    if moment.dim() == 1:
        return Side(torch.arange(len(moment), device=moment.device), None, moment)
    order = moment.diagonal().argsort(descending=True, stable=True)
    root = safe_cholesky(moment[order][:, order].flip(0, 1)).flip(0, 1)
    passed, cost = torch.empty_like(root), torch.empty_like(moment.diagonal())
    for start in range(0, len(order), block):
        mine = slice(start, start + block)
        own = root[mine, mine]
        passed[:, mine] = torch.linalg.solve_triangular(own, root[:, mine], upper=True, left=False)
        cost[order[mine]] = own.square().sum(1)
    return Side(order, passed, cost)


def rounded(
    weight: Tensor, scales: Tensor, points: Tensor, bits: int, inputs: Side | None, outputs: Side | None
) -> Tensor:
    """Codes (m × n, float32) for a weight on a grid: scales and zero points for each of its entries (all m × n).

    None is a side on which all indices count alike. The loop runs in float32.
    """
    rows, down = _way(outputs, len(weight), weight)
    columns, along = _way(inputs, weight.shape[1], weight)
    w, s, z = (t[rows][:, columns].float() for t in (weight, scales, points))
    codes, sums = torch.empty_like(w), torch.zeros_like(w)
    step = len(w) if down is None else ROWS
    for start in range(0, len(w), step):
        mine = slice(start, start + step)
        target = w[mine]
        if down is not None:
            target = target + down[:start, mine].T @ sums[:start]
        codes[mine], error = _columns(w[mine], target, s[mine], z[mine], bits, along)
        sums[mine] = error if along is None else error @ along
    found = torch.empty_like(codes)
    found[rows[:, None], columns] = codes
    return found


def _way(one: Side | None, count: int, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """(the order of `count` indices, what each passes on in float32, if anything)."""
    if one is None:
        return torch.arange(count, device=like.device), None
    return one.order, None if one.passed is None else one.passed.float()


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


def _columns(
    weight: Tensor, target: Tensor, scales: Tensor, points: Tensor, bits: int, passed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(codes, errors) of rows that are rounded column by column, in the order of `passed`."""
    if passed is None:
        codes = codes_on(target, scales, points, bits)
        return codes, weight - (codes - points) * scales
    # A column of all rows is one stretch of memory.
    w, t, s, z = (each.T.contiguous() for each in (weight, target, scales, points))
    codes, errors, inverse = torch.empty_like(w), torch.empty_like(w), 1 / s
    top = 2**bits - 1
    for start in range(0, len(w), COLUMNS):
        stop = min(start + COLUMNS, len(w))
        near = t[start:stop] + passed[:start, start:stop].T @ errors[:start]
        own = passed[start:stop, start:stop]
        for j in range(start, stop):
            code = torch.addcmul(z[j], near[j - start], inverse[j]).round_().clamp_(0, top)
            codes[j] = code
            error = torch.addcmul(w[j], code.sub_(z[j]), s[j], value=-1)
            errors[j] = error
            near[j - start + 1 :].addr_(own[j - start, j - start + 1 :], error)
    return codes.T, errors.T
