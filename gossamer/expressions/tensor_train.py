"""Tensor train: a weight as a chain of small cores, one for each pair of a row digit and a column digit.

Source: matrix product operators; tensorized layers of Novikov et al. 2015 (arXiv 1509.06569), CompactifAI (Tomut et al.
2024, arXiv 2401.14109).
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.expressions._base import Expression


class TensorTrain(Expression):
    """W[i₁…i_q, j₁…j_q] = C₁[i₁, j₁] C₂[i₂, j₂] … C_q[i_q, j_q], a product of matrices between bonds.

    Core k has shape (χₖ₋₁, Iₖ, Jₖ, χₖ) with χ₀ = χ_q = 1; the weight is (Π Iₖ × Π Jₖ), the first digits counting the
    largest blocks. With two cores it is a sum of χ₁ Kronecker products. It applies itself core by core, from the last
    to the first: each reads one digit of the input and writes one digit of the output. `macs` counts that sweep.
    """

    def __init__(self, cores: Sequence[Tensor]) -> None:
        super().__init__()
        shapes = [tuple(core.shape) for core in cores]
        if any(left[3:] != right[:1] for left, right in pairwise(shapes)) or (shapes[0][0], shapes[-1][3]) != (1, 1):
            raise ValueError(f"cores of shapes {shapes} do not make a chain that begins and ends with a bond of one")
        self.cores = nn.ParameterList(core.contiguous() for core in cores)
        self.shape = (prod(out for _, out, _, _ in shapes), prod(read for _, _, read, _ in shapes))

    def forward(self, x: Tensor) -> Tensor:
        # A long batch is cheaper by the dense weight, multiplied out for the occasion.
        vectors = x.numel() // self.shape[1]
        if vectors * (self.macs() - self.shape[0] * self.shape[1]) > self._macs_of_dense():
            return F.linear(x, self.dense())
        return self._swept(x)

    def _swept(self, x: Tensor) -> Tensor:
        state = x.unsqueeze(-2)  # (…, digits written, digits yet to be read with the bond)
        for core in reversed(self.cores):
            bond, out, read, right = core.shape
            state = state.unflatten(-1, (-1, read * right))
            state = F.linear(state, core.view(bond * out, read * right)).unflatten(-1, (bond, out))
            # The new digit counts larger blocks than those written before, so it goes before them.
            state = state.movedim(-1, -4).flatten(-4, -3).flatten(-2)
        return state.squeeze(-1)

    def dense(self) -> Tensor:
        first, *others = self.cores
        whole: Tensor = first[0]
        for core in others:
            whole = torch.tensordot(whole, core, dims=1)
        q = len(self.cores)
        return whole.squeeze(-1).permute(*range(0, 2 * q, 2), *range(1, 2 * q, 2)).reshape(self.shape)

    def _macs_of_dense(self) -> int:
        macs, numbers = 0, 1
        for core in self.cores:
            macs += numbers * core.numel()
            numbers *= core.shape[1] * core.shape[2]
        return macs

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "cores": [list(core.shape) for core in self.cores]}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "TensorTrain":
        return cls([torch.empty(shape) for shape in tree["cores"]])

    def macs(self) -> int:
        macs, written, unread = 0, 1, self.shape[1]
        for core in reversed(self.cores):
            unread //= core.shape[2]
            macs += written * unread * core.numel()
            written *= core.shape[1]
        return macs
