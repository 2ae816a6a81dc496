"""The errors of a few sizes as tensors, to keep and to look up."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def quotes(sizes: Sequence[int], errors: Sequence[float]) -> dict[str, Tensor]:
    """`sizes` (ascending) and their `errors`; one that came out above that of a smaller size is quoted as that."""
    found = torch.tensor(errors, dtype=torch.float64)
    return {
        "sizes": torch.tensor(sizes, dtype=torch.int64),
        "errors": found.cummin(0).values if sizes else found,
    }


def quoted(found: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
    """The errors of these sizes among `quotes`."""
    known = dict(zip(found["sizes"].tolist(), found["errors"].tolist(), strict=True))
    return [known[size] for size in sizes]
