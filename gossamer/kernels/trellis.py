"""A trellis: heights for states, and the product of a weight on it with a few vectors.

Every entry of a weight has a code of b bits, and its height depends on the codes of the entries before it too: those
one row up and one column to the right, two up and two to the right, and so on, as far as 10 bits reach (columns go
round, before the first row are zeros). Trellis coded quantization, in the form whose states are the last bits of a
string: Tseng et al. 2024 (QTIP, arXiv 2406.11235).
"""

from functools import lru_cache

import numba
import numpy as np
import torch
from torch import Tensor

from gossamer.kernels._running import ANY_ORDER, dots, plain, threads
from gossamer.kernels.packed import code_bits

MEMORY = 10
"""Bits of a state. Standard normal numbers lose 1.09, 1.16, 1.14 and 1.19 times 4⁻ᵇ at 1, 2, 3 and 4 bits, where the
best single levels lose 1.45, 1.88, 2.21 and 2.43 times; with 12 bits 3 to 5 % less, at four times the work."""

GOLDEN = 0.6180339887
"""Successive multiples of it, modulo one, lie as far from each other as can be. So do the heights that one more code
may lead to; those of a random table lose 4 to 25 % more."""


@lru_cache
def trellis_heights(memory: int = MEMORY) -> Tensor:
    """What the states of so many bits stand for (2ᴸ): normal quantiles, in float64 and exact in bfloat16."""
    count = 2**memory
    places = torch.arange(count) * (int(count * GOLDEN) | 1) % count
    quantiles = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    heights: Tensor = quantiles[places].bfloat16().double()
    return heights


def trellis_states(codes: Tensor, bits: int) -> Tensor:
    """The states (m × n, int32) of all entries, from their codes (m × n, uint8)."""
    states = codes.int()
    for back in range(1, min(-(-MEMORY // bits), len(codes))):
        states[back:] |= codes[:-back].roll(-back, 1).int() << (back * bits)
    return states.bitwise_and_(2**MEMORY - 1)


def trellis_product(x: Tensor, codes: Tensor, bits: int, scales: Tensor, group: int) -> Tensor:
    """x (…, n) ↦ x Wᵀ (…, m) in x's format, summed in float32, for W_ij = s_ik h, k = ⌊j / g⌋, h of the entry's state.

    `codes` packed (uint8, m a multiple of 8), scales s (m × ⌈n / g⌉).
    """
    vectors = plain(x)
    out = vectors.new_empty(len(scales), len(vectors))
    fixed = codes.numpy(), plain(scales).numpy(), trellis_heights().float().numpy()
    with threads() as parts:
        _product(vectors.numpy(), *fixed, out.numpy(), bits, group, parts)
    return out.T.to(x.dtype).reshape(*x.shape[:-1], len(scales))


def trellis_dense(columns: int, codes: Tensor, bits: int, scales: Tensor, group: int) -> Tensor:
    """The weight W (m × n, float32) of `trellis_product` itself."""
    out = torch.empty(len(scales), columns)
    fixed = codes.numpy(), plain(scales).numpy(), trellis_heights().float().numpy()
    with threads() as parts:
        _dense(*fixed, out.numpy(), bits, group, parts)
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
    m, n = len(scales), len(row)
    eighth = m // 8
    first, shift = divmod(i // eighth * bits, 8)
    low = (first * eighth + i % eighth) * n
    # Where no bits are in a second byte, those that the first one would give again are masked.
    high = low + eighth * n if shift + bits > 8 else low
    left, right, by = np.int32(8 - shift), np.int32(shift), np.int32(bits)
    mask, longest = np.int32((1 << bits) - 1), np.int32(len(heights) - 1)
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
