"""What the kernels share: threads, the layout of vectors, and their products with one row."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch
from torch import Tensor

ANY_ORDER = {"reassoc", "contract", "nsz"}
"""Sums may be taken in any order, so that eight terms are added at once. What is no number stays one that is none."""

LOCK = threading.Lock()
"""numba's simplest pool of threads, the one that is there on every system, ends the process where two callers meet."""


@contextmanager
def threads() -> Iterator[int]:
    """As many threads as PyTorch takes, for one caller at a time; their number."""
    with LOCK:
        asked = torch.get_num_threads()
        count = min(asked, numba.config.NUMBA_NUM_THREADS)
        numba.set_num_threads(count)
        if torch.get_num_threads() != asked:
            # Where both have their threads from OpenMP, starting numba's gives PyTorch as many as there are cores.
            torch.set_num_threads(asked)
        yield count


def plain(vectors: Tensor) -> Tensor:
    """Vectors (…, n) as rows of float32 without gaps."""
    return vectors.detach().reshape(-1, vectors.shape[-1]).float().contiguous()


@numba.njit(fastmath=ANY_ORDER, cache=True)
def dots(x, row, out):  # type: ignore[no-untyped-def]
    """`row` (n) with each of some vectors (t × n), into `out` (t)."""
    for t in range(len(x)):
        vector = x[t]
        total = numba.float32(0)
        for j in range(len(vector)):
            total += row[j] * vector[j]
        out[t] = total
