"""Codes of b bits, packed as in `gossamer.expressions`: their product with a few vectors, and their dense weight."""

from typing import Any

import numba
import numpy as np
from torch import Tensor

from gossamer.kernels._running import ANY_ORDER, dots, plain, threads


def packed_product(
    x: Tensor,
    codes: Tensor,
    bits: int,
    scales: Tensor,
    group: int,
    points: Tensor | float,
    heights: Tensor | None = None,
) -> Tensor:
    """x (…, n) ↦ x Wᵀ (…, m) in x's format, summed in float32, for W_ij = s_ik (h_c − z_ik), k = ⌊j / g⌋, c = c_ij.

    `codes` packed (uint8, m a multiple of 8), scales s (m × ⌈n / g⌉), points z (of the same shape, or one number),
    heights h (2ᵇ, or m × 2ᵇ), or none where h_c = c.
    """
    vectors = plain(x)
    out = vectors.new_empty(len(scales), len(vectors))
    fixed = _arrays(codes, scales, points, heights)
    with threads() as parts:
        _product(vectors.numpy(), *fixed, out.numpy(), bits, group, parts)
    return out.T.to(x.dtype).reshape(*x.shape[:-1], len(scales))


def packed_dense(
    columns: int,
    codes: Tensor,
    bits: int,
    scales: Tensor,
    group: int,
    points: Tensor | float,
    heights: Tensor | None = None,
) -> Tensor:
    """The weight W (m × n, float32) of `packed_product` itself."""
    out = plain(scales).new_empty(len(scales), columns)
    with threads() as parts:
        _dense(*_arrays(codes, scales, points, heights), out.numpy(), bits, group, parts)
    return out


def _arrays(codes: Tensor, scales: Tensor, points: Tensor | float, heights: Tensor | None) -> tuple[Any, ...]:
    own = plain(scales)
    origins = plain(points) if isinstance(points, Tensor) else own.new_full((1, 1), points)
    table = own.new_empty(0, 0) if heights is None else plain(heights)
    return tuple(t.numpy() for t in (codes, own, origins, table))


@numba.njit(cache=True)
def code_place(i, m, n, bits):  # type: ignore[no-untyped-def]
    """Where the codes of row i (m × n) are: their first bytes, the bytes they may end in, shifts and mask for both."""
    eighth, first, shift = m // 8, i // (m // 8) * bits // 8, i // (m // 8) * bits % 8
    low = (first * eighth + i % eighth) * n
    # Where no bits are in a second byte, those that the first one would give again are masked.
    high = low + eighth * n if shift + bits > 8 else low
    return low, high, np.int32(8 - shift), np.int32(shift), np.int32((1 << bits) - 1)


@numba.njit(cache=True)
def code_bits(low, high, left, right, mask):  # type: ignore[no-untyped-def]
    """A code whose bits begin in the byte `low` and may end in `high`; `left`, `right` and `mask` are int32 too.

    Types are spelled out, as whole numbers of 64 bits are what keeps a compiler from handling eight at once.
    """
    return ((np.int32(low) >> right) | (np.int32(high) << left)) & mask


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _even(low, high, left, right, mask, scale, point, row):  # type: ignore[no-untyped-def]
    for j in range(len(row)):
        row[j] = (np.float32(code_bits(low[j], high[j], left, right, mask)) - point) * scale


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _looked_up(low, high, left, right, mask, scale, point, heights, row):  # type: ignore[no-untyped-def]
    for j in range(len(row)):
        row[j] = (heights[code_bits(low[j], high[j], left, right, mask)] - point) * scale


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _decoded(i, packed, scales, points, heights, bits, group, row):  # type: ignore[no-untyped-def]
    """Row i of the weight, into `row` (n)."""
    n = len(row)
    low, high, left, right, mask = code_place(i, len(scales), n, bits)
    for k in range(scales.shape[1]):
        start, stop = k * group, min(k * group + group, n)
        below, above = packed[low + start : low + stop], packed[high + start : high + stop]
        point = points[i, k] if points.size > 1 else points[0, 0]
        if heights.size:
            table = heights[i if len(heights) > 1 else 0]
            _looked_up(below, above, left, right, mask, scales[i, k], point, table, row[start:stop])
        else:
            _even(below, above, left, right, mask, scales[i, k], point, row[start:stop])


@numba.njit(parallel=True, fastmath=ANY_ORDER, cache=True)
def _product(x, packed, scales, points, heights, out, bits, group, parts):  # type: ignore[no-untyped-def]
    m = len(scales)
    for part in numba.prange(parts):
        row = np.empty(x.shape[1], np.float32)
        for i in range(m * part // parts, m * (part + 1) // parts):
            _decoded(i, packed, scales, points, heights, bits, group, row)
            dots(x, row, out[i])


@numba.njit(parallel=True, fastmath=ANY_ORDER, cache=True)
def _dense(packed, scales, points, heights, out, bits, group, parts):  # type: ignore[no-untyped-def]
    m = len(scales)
    for part in numba.prange(parts):
        for i in range(m * part // parts, m * (part + 1) // parts):
            _decoded(i, packed, scales, points, heights, bits, group, out[i])
