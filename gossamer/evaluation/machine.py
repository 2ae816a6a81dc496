"""What figures were measured on."""

import platform
from importlib.metadata import version

import torch


def machine() -> dict[str, str | int]:
    """The system, its threads, and the versions of what computes."""
    return {
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("gossamer", "torch", "transformers")},
    }
