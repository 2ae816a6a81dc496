"""Save a model folder, whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gossamer.checkpoints.store import file_checksum, write_json, write_text
from gossamer.errors import OutputError

CHECKSUMS = "checksums.json"
"""The file of a folder that holds the crc32 of those with its tensors."""
SLACK = 50_000_000
"""Bytes asked for beyond the weights: tokenizer, config, report."""


def standing(path: Path) -> Path:
    """The folder `path`, or the nearest above it that exists; raises `OutputError` where a file is in the way."""
    there = next(p for p in (path, *path.absolute().parents) if _exists(p))
    if path.is_file():
        raise OutputError(f"{path} is a file; give --out the name of a new folder.")
    if not there.is_dir():
        raise OutputError(f"{there} is a file, so {path} cannot be made below it; give --out another place.")
    return there


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # as of a name that is too long
        raise OutputError(f"{path} cannot be looked at ({error.strerror}); give --out another name.") from error


def new_file(path: Path) -> None:
    """Raise `OutputError` where there is something at `path`, or a file in the way of it."""
    if _exists(path):
        raise OutputError(f"{path} exists; give --out the name of a new file.")
    standing(path)


def free_output(path: Path, weights: int) -> Path:
    """The path, once it is sure that a folder of `weights` bytes can be written there; raises `OutputError` if not."""
    there = standing(path)
    if path.is_dir() and any(path.iterdir()):
        raise OutputError(f"{path} exists and is not empty; give --out the name of a new folder, or empty this one.")
    free = shutil.disk_usage(there).free
    if free < weights + SLACK:
        raise OutputError(
            f"{path} needs about {(weights + SLACK) / 1e6:.0f} MB and its disk has {free / 1e6:.0f} MB free; "
            "free some space or choose another folder."
        )
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and vanishes when it does not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise OutputError(f"Could not write beside {path}: {error}; choose another folder.") from error
    try:
        yield partial
        if path.is_dir():
            path.rmdir()
        _open_to_others(partial)
        partial.rename(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"Could not write {path}: {error}; free some space or choose another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open_to_others(folder: Path) -> None:
    """Give a folder and its files the permissions of any new ones: temporary folders and safetensors are private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *folder.iterdir()):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def save(model: Any, tokenizer: Any, path: Path, documents: dict[str, Any]) -> None:
    """Write a compressed model (see `plugin.mark`), its tokenizer, and documents by file name: text, or JSON.

    Raises `OutputError` where the folder is taken or the disk is full.
    """
    free_output(path, weights_bytes(model))
    with whole(path) as folder:
        model.save_pretrained(folder)
        write_json(
            folder / CHECKSUMS, {path.name: file_checksum(path) for path in sorted(folder.glob("*.safetensors"))}
        )
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        for name, document in documents.items():
            (write_text if isinstance(document, str) else write_json)(folder / name, document)


def weights_bytes(model: Any) -> int:
    """Bytes of the model's tensors as saved, a tied one counted once."""
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())
