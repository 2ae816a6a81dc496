"""How much memory the process has held at most, and giving back what it no longer uses."""

import ctypes
import gc
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import psutil

from gossamer.vocabulary import Progress

T = TypeVar("T")


def peak_bytes() -> int:
    """The largest resident set so far, in bytes; on Windows the peak working set."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_back() -> None:
    """Return the memory of a step that has ended, so that the next one's comes in its place and not on top of it."""
    gc.collect()
    trim()


def trim() -> None:
    """Return freed memory to the system: the C library of Linux keeps what lies between blocks in use."""
    if sys.platform == "linux":
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, other C libraries need not
        if release is not None:
            release(0)


def trimming(progress: Progress) -> Progress:
    """The same, which after every item returns what that one has freed."""

    def each(label: str, items: Iterable[T], total: int) -> Iterator[T]:
        for item in progress(label, items, total):
            yield item
            trim()

    return each
