"""How much memory the process has held at most."""

import sys

import psutil


def peak_bytes() -> int:
    """The largest resident set so far, in bytes; on Windows the peak working set."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
