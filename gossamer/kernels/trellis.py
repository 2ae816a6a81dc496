"""A trellis: what its states stand for, and the states of a weight's entries.

Every entry of a weight has a code of b bits, and its height depends on the codes of the entries before it too: those
one row up and one column to the right, two up and two to the right, and so on, as far as 10 bits reach (columns go
round, before the first row are zeros). Trellis coded quantization, in the form whose states are the last bits of a
string: Tseng et al. 2024 (QTIP, arXiv 2406.11235).
"""

import torch
from torch import Tensor

MEMORY = 10
"""Bits of a state. Standard normal numbers lose 1.15, 1.20, 1.20, 1.25 and 1.33 times 4⁻ᵇ at 1 to 5 bits, where the
best single levels lose 1.45, 1.88, 2.21, 2.43 and 2.56 times; with 12 bits 3 to 5 % less, at four times the work."""

GOLDEN = 0.6180339887
"""Successive multiples of it, modulo one, lie as far from each other as can be. So do the heights that one more code
may lead to; those of a random table lose up to a quarter more."""


def trellis_heights(memory: int) -> Tensor:
    """What the states of so many bits stand for (2ᴸ): normal quantiles, in float32 and exact in bfloat16."""
    count, step = 2**memory, int(2**memory * GOLDEN) | 1
    # The first two, which are all that a string of one bit can begin with, lie on both sides of zero, equally far.
    places = (torch.arange(count, device="cpu") * step + (count - step) // 2) % count
    middles = (torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) / count
    heights: Tensor = torch.special.ndtri(middles)[places].bfloat16().float()
    return heights


HEIGHTS = trellis_heights(MEMORY)
"""Of every trellis. They are not in its file."""


def trellis_states(codes: Tensor, bits: int) -> Tensor:
    """The states (m × n, int32) of all entries, from their codes (m × n, uint8)."""
    states = codes.int()
    for back in range(1, min(-(-MEMORY // bits), len(codes))):
        states[back:] |= codes[:-back].roll(-back, 1).int() << (back * bits)
    return states.bitwise_and_(2**MEMORY - 1)
