"""Processes in which code that nobody has read can do no harm to this machine.

Bubblewrap gives them namespaces of their own: no network, no other process, and of the file system what is named here,
to be read, beside a scratch folder that is gone afterwards. What is not named is not there: a socket or a pipe in a
folder that can be read can be written to. Processor and memory are theirs as they are the user's.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from glob import glob
from pathlib import Path

from gossamer.errors import ModelError

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc")
DEVICES = ("/dev/nvidia*", "/dev/kfd", "/dev/dri")
"""Of accelerators, which a model may run on."""
PASSED = ("PATH", "LANG", "LC_", "OMP_", "MKL_", "CUDA_", "HIP_")
"""Beginnings of the variables that are passed on: none that is a key to something."""


def walls() -> str:
    """The program that confines; raises `ModelError` where there is none that can."""
    found = shutil.which("bwrap")
    if found is None:
        raise ModelError(
            "Code that a model writes is only run in a confined process, which takes bubblewrap (on Linux: apt install "
            "bubblewrap); install it, or leave such tasks out."
        )
    tried = subprocess.run(
        [found, "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        raise ModelError(f"This machine lets nothing be confined ({tried.stderr.strip()}); leave such tasks out.")
    return found


def confine(words: Sequence[str], scratch: Path, readable: Iterable[Path] = ()) -> list[str]:
    """The command that runs `words` within walls, where the Python of this process and `readable` can be read and
    `scratch` alone written to.
    """
    ours = [Path(sys.prefix), Path(sys.base_prefix), *readable]
    seen = dict.fromkeys(str(path) for path in ours if path.exists())
    devices = [word for pattern in DEVICES for path in glob(pattern) for word in ("--dev-bind", path, path)]
    return [
        *(walls(), "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *(word for path in SYSTEM for word in ("--ro-bind-try", path, path)),
        *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", *devices),
        *(word for path in seen for word in ("--ro-bind", path, path)),
        *("--bind", str(scratch), str(scratch), "--chdir", str(scratch), "--", *words),
    ]


def passed(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of the variables that a confined process may know."""
    return {name: value for name, value in variables.items() if name.startswith(PASSED)}
