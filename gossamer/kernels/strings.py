"""Strings of codes, as in `gossamer.expressions.trellis`: their product with a few vectors, and their dense weight."""

import numba
import numpy as np
from torch import Tensor

from gossamer.kernels._running import ANY_ORDER, dots, plain, threads
from gossamer.kernels.packed import code_bits, code_place
from gossamer.kernels.trellis import HEIGHTS, MEMORY


def trellis_product(x: Tensor, codes: Tensor, bits: int, scales: Tensor, group: int) -> Tensor:
    """x (…, n) ↦ x Wᵀ (…, m) in x's format, summed in float32, for W_ij = s_ik h, k = ⌊j / g⌋, h of the entry's state.

    `codes` packed (uint8, m a multiple of 8), scales s (m × ⌈n / g⌉).
    """
    vectors = plain(x)
    out = vectors.new_empty(len(scales), len(vectors))
    fixed = codes.numpy(), plain(scales).numpy(), HEIGHTS.numpy()
    with threads() as parts:
        _product(vectors.numpy(), *fixed, out.numpy(), bits, group, parts)
    return out.T.to(x.dtype).reshape(*x.shape[:-1], len(scales))


def trellis_dense(columns: int, codes: Tensor, bits: int, scales: Tensor, group: int) -> Tensor:
    """The weight W (m × n, float32) of `trellis_product` itself."""
    own = plain(scales)
    out = own.new_empty(len(own), columns)
    with threads() as parts:
        _dense(codes.numpy(), own.numpy(), HEIGHTS.numpy(), out.numpy(), bits, group, parts)
    return out


@numba.njit(cache=True)
def _appended(states, low, high, left, right, mask, bits, longest):  # type: ignore[no-untyped-def]
    """The states of one row become those of the next, whose codes the bytes `low` and `high` hold."""
    n = len(states)
    first = states[0]
    for j in range(n - 1):
        states[j] = ((states[j + 1] << bits) | code_bits(low[j], high[j], left, right, mask)) & longest
    states[n - 1] = ((first << bits) | code_bits(low[n - 1], high[n - 1], left, right, mask)) & longest


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _decoded(i, packed, scales, heights, bits, group, states, row):  # type: ignore[no-untyped-def]
    """Row i of the weight, into `row`; `states` (n, int32) of the row before become its own."""
    n = len(row)
    low, high, left, right, mask = code_place(i, len(scales), n, bits)
    by, longest = np.int32(bits), np.int32(len(heights) - 1)
    _appended(states, packed[low : low + n], packed[high : high + n], left, right, mask, by, longest)
    for k in range(scales.shape[1]):
        scale = scales[i, k]
        mine, out = states[k * group : k * group + group], row[k * group : k * group + group]
        for j in range(len(mine)):
            out[j] = heights[mine[j]] * scale


@numba.njit(parallel=True, fastmath=ANY_ORDER, cache=True)
def _product(x, packed, scales, heights, out, bits, group, parts):  # type: ignore[no-untyped-def]
    m, n = len(scales), x.shape[1]
    for part in numba.prange(parts):
        row, states, start = np.empty(n, np.float32), np.zeros(n, np.int32), m * part // parts
        for i in range(max(0, start - MEMORY), m * (part + 1) // parts):
            _decoded(i, packed, scales, heights, bits, group, states, row)
            if i >= start:
                dots(x, row, out[i])


@numba.njit(parallel=True, fastmath=ANY_ORDER, cache=True)
def _dense(packed, scales, heights, out, bits, group, parts):  # type: ignore[no-untyped-def]
    m, n = out.shape
    for part in numba.prange(parts):
        row, states, start = np.empty(n, np.float32), np.zeros(n, np.int32), m * part // parts
        for i in range(max(0, start - MEMORY), m * (part + 1) // parts):
            _decoded(i, packed, scales, heights, bits, group, states, row)
            if i >= start:
                out[i] = row
