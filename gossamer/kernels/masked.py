"""Entries with their places in a bitmask, as in `gossamer.expressions.sparse`: their product with a few vectors, and
their dense weight."""

import numba
import numpy as np
from torch import Tensor

from gossamer.kernels._running import ANY_ORDER, dots, plain, threads

_BITS = (np.arange(256)[:, None] >> np.arange(8)) & 1

TAKEN = -_BITS.astype(np.int32)
"""All ones where bit b of a byte is set, else all zeros (256 × 8)."""

BELOW = (_BITS.cumsum(1) - _BITS).astype(np.int32)
"""How many bits of a byte are set below bit b (256 × 8)."""

COUNT = _BITS.sum(1).astype(np.int32)
"""How many bits of a byte are set (256)."""


def masked_product(x: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """x (…, n) ↦ x Wᵀ (…, m) in x's format, summed in float32, for `values` (k) at the places of `mask` (m × ⌈n / 8⌉).

    The mask places k values, none beyond column n.
    """
    vectors = plain(x)
    out = vectors.new_empty(len(mask), len(vectors))
    with threads() as parts:
        _product(vectors.numpy(), plain(values)[0].numpy().view(np.int32), mask.numpy(), out.numpy(), parts)
    return out.T.to(x.dtype).reshape(*x.shape[:-1], len(mask))


def masked_dense(columns: int, values: Tensor, mask: Tensor) -> Tensor:
    """The weight W (m × n, float32) of `masked_product` itself."""
    own = plain(values)[0]
    out = own.new_empty(len(mask), columns)
    with threads() as parts:
        _dense(own.numpy().view(np.int32), mask.numpy(), out.numpy(), parts)
    return out


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _spread(values, mask, row):  # type: ignore[no-untyped-def]
    """Entries put to their places in a row (8 ⌈n / 8⌉), zeros elsewhere; how many they are. All as bits of float32.

    Reads up to seven values beyond the last one, so that a byte's eight places need no branch. Of bits, those that are
    not wanted vanish whatever number they make.
    """
    at = 0
    for k in range(len(mask)):
        byte = mask[k]
        left, taken, below, places = values[at:], TAKEN[byte], BELOW[byte], row[8 * k : 8 * k + 8]
        for bit in range(8):
            places[bit] = left[below[bit]] & taken[bit]
        at += COUNT[byte]
    return at


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _before(mask, row):  # type: ignore[no-untyped-def]
    """How many entries the rows before this one have."""
    at = 0
    for byte in mask[:row].reshape(-1):
        at += COUNT[byte]
    return at


@numba.njit(fastmath=ANY_ORDER, cache=True)
def _row(values, mask, row):  # type: ignore[no-untyped-def]
    """As `_spread`, for values that may end where the row does, or before: then zeros are read."""
    if len(values) < len(row) + 8:
        values = np.concatenate((values, np.zeros(len(row) + 8, np.int32)))
    return _spread(values, mask, row)


@numba.njit(parallel=True, fastmath=ANY_ORDER, cache=True)
def _product(x, values, mask, out, parts):  # type: ignore[no-untyped-def]
    m, n = len(mask), 8 * mask.shape[1]
    for part in numba.prange(parts):
        row, start = np.empty(n, np.int32), m * part // parts
        at = _before(mask, start)
        for i in range(start, m * (part + 1) // parts):
            at += _row(values[at:], mask[i], row)
            dots(x, row.view(np.float32), out[i])


@numba.njit(parallel=True, fastmath=ANY_ORDER, cache=True)
def _dense(values, mask, out, parts):  # type: ignore[no-untyped-def]
    m, n = len(mask), 8 * mask.shape[1]
    for part in numba.prange(parts):
        row, start = np.empty(n, np.int32), m * part // parts
        at = _before(mask, start)
        for i in range(start, m * (part + 1) // parts):
            at += _row(values[at:], mask[i], row)
            out[i] = row.view(np.float32)[: out.shape[1]]
