"""Small whole numbers as a string of bits."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def sound(m: Any, n: Any, bits: Any, group: Any = 1) -> None:
    """Raise `ValueError` unless these are the sides of a weight, a bit depth and the length of its groups."""
    if not all(isinstance(k, int) and k >= 1 for k in (m, n, bits, group)) or bits > 8 or group > n:
        raise ValueError(f"{bits} bits in groups of {group} do not make a weight of {m} × {n}")


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that so many codes take; eight codes fill b bytes, and a last eight is filled up."""
    return -(-count // 8) * bits


def packed(codes: Tensor, bits: int) -> Tensor:
    """Codes below 2ᵇ of any shape (uint8) as bytes; b is 1 to 8.

    With N codes, code i is number ⌊i / ⌈N/8⌉⌋ of an eight and has its bits at that place among the b bytes of its
    eight, the lowest first; byte p of all eights is one stretch. So all first codes, all second ones … are handled at
    once, each along contiguous memory.
    """
    eights = F.pad(codes.reshape(-1), (0, -codes.numel() % 8)).view(8, -1)
    found = eights.new_zeros(bits, eights.shape[1])
    for k in range(8):
        first, shift = divmod(k * bits, 8)
        found[first] |= eights[k] << shift
        if shift + bits > 8:
            found[first + 1] |= eights[k] >> (8 - shift)
    return found.view(-1)


def picked(string: Tensor, places: Tensor, bits: int) -> Tensor:
    """The codes (uint8) at some places (whole numbers of any shape)."""
    if bits == 8:
        return string[places]
    eights = len(string) // bits
    start = places.div(eights, rounding_mode="floor") * bits
    first, shift, at = start // 8, (start % 8).to(torch.uint8), places % eights
    found = string[first * eights + at] >> shift
    beyond = torch.minimum(first + 1, first.new_tensor(bits - 1))
    found |= torch.where(shift + bits > 8, string[beyond * eights + at] << (8 - shift), 0)
    return found.bitwise_and_(2**bits - 1)


def unpacked(string: Tensor, count: int, bits: int) -> Tensor:
    """The inverse of `packed`, for so many codes (count, uint8)."""
    if bits == 8:
        return string[:count]
    bytes_ = string.view(bits, -1)
    found = string.new_empty(8, bytes_.shape[1])
    for k in range(8):
        first, shift = divmod(k * bits, 8)
        torch.bitwise_right_shift(bytes_[first], shift, out=found[k])
        if shift + bits > 8:
            found[k] |= bytes_[first + 1] << (8 - shift)
    return found.view(-1)[:count].bitwise_and_(2**bits - 1)
