"""Keep a compiled library's own prints out of the standard output, where results go."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what C code prints meanwhile; HiGHS has lines that no option of its own silences."""
    try:
        saved = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    library = ctypes.CDLL(None) if os.name == "posix" else ctypes.CDLL("msvcrt")
    sys.stdout.flush()
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 1)
    try:
        yield
    finally:
        library.fflush(None)  # else the lines wait in C's buffer and come out later
        os.dup2(saved, 1)
        os.close(saved)
