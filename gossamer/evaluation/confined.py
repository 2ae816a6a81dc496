"""Processes that can read this machine and change nothing on it, for code that nobody has read.

Bubblewrap gives them namespaces of their own: there is no network in these, no other process, and every file can only
be read, but for a scratch folder that is gone afterwards.
"""

import shutil
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from gossamer.errors import ModelError

DEVICES = ("/dev/nvidia*", "/dev/kfd", "/dev/dri")
"""Of accelerators, which a model may run on."""


def walls() -> str:
    """The program that confines; raises `ModelError` where there is none."""
    found = shutil.which("bwrap")
    if found is None:
        raise ModelError(
            "Code that a model writes is only run in a confined process, which takes bubblewrap (on Linux: apt install "
            "bubblewrap); install it, or leave such tasks out."
        )
    return found


def confine(words: Sequence[str], scratch: Path) -> list[str]:
    """The command that runs `words` within walls, where `scratch` is all that can be written to."""
    devices = [word for pattern in DEVICES for path in glob(pattern) for word in ("--dev-bind", path, path)]
    return [
        *(walls(), "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", *devices),
        *("--bind", str(scratch), str(scratch), "--chdir", str(scratch), "--", *words),
    ]
