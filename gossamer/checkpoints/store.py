"""Tensors at rest: safetensors files that appear whole or not at all and know their own checksum."""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gossamer.errors import OutputError, WorkError


def checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """crc32 over facts, names, types, shapes and bytes: enough to notice damage, at the speed of memory."""
    value = zlib.crc32(json.dumps(sorted(facts.items())).encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(_bytes(tensor), value)
    return f"{value:08x}"


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # type: ignore[arg-type]


def file_checksum(path: Path) -> str:
    """crc32 over the bytes of a file."""
    value = 0
    with path.open("rb") as file:
        while part := file.read(1 << 24):
            value = zlib.crc32(part, value)
    return f"{value:08x}"


def tensor_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, types, shapes and bytes, as 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:32]


def identity_digest(identity: Mapping[str, Any]) -> str:
    """A short name for what something was made from."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Save tensors with string facts beside them; raises `OutputError` when the disk does not take them."""
    partial = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clean = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        save_file(clean, partial, {**facts, "crc32": checksum(clean, facts)})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        _discard(partial)
        raise OutputError(f"Could not write {path}: {error}; free some space or choose another folder.") from error


def beside(path: Path) -> Path:
    """A name beside `path` that nobody else uses, so that two runs may share a working folder."""
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")


def _discard(partial: Path) -> None:
    with contextlib.suppress(OSError):
        partial.unlink()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `write_tensors` saved; raises `WorkError` where the file is missing, cut short or altered."""
    try:
        with safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WorkError(f"{path} cannot be read ({error}); delete {_made_of(path)} and run again.") from error
    if facts.pop("crc32", None) != checksum(tensors, facts):
        raise WorkError(f"{path} is damaged: its checksum does not match; delete {_made_of(path)} and run again.")
    return tensors, facts


def _made_of(path: Path) -> Path:
    """The folder of one kind of results that a file belongs to: it is made again as a whole."""
    return next((folder for folder in path.parents if (folder / "identity.json").exists()), path)


def write_json(path: Path, data: Any) -> None:
    """Save JSON whole or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Save text whole or not at all."""
    partial = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        _discard(partial)
        raise OutputError(f"Could not write {path}: {error}; free some space or choose another folder.") from error


def read_json(path: Path, remedy: str = "delete it and run again") -> Any:
    """What `write_json` saved; raises `WorkError` with the remedy where it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last for what is nested without end
        raise WorkError(f"{path} cannot be read ({error}); {remedy}.") from error


def _named(kind: str, identity: Mapping[str, Any]) -> str:
    return f"{kind}-{identity_digest(identity)}"


def check_identity(folder: Path) -> None:
    """Raise `WorkError` where a folder of a workspace does not have the name that its identity gives it."""
    remedy = f"delete {folder} and run again"
    identity = read_json(folder / "identity.json", remedy)
    if folder.name != _named(folder.name.partition("-")[0], identity):
        raise WorkError(f"{folder} is not what its identity.json says; {remedy}.")


class Workspace:
    """A folder of intermediate results, each kept under the digest of what it was made from."""

    def __init__(self, root: Path) -> None:
        try:
            there = next(path for path in (root, *root.absolute().parents) if path.exists())
        except OSError as error:  # as of a name that is too long
            raise OutputError(f"{root} cannot be looked at ({error.strerror}); give --work another.") from error
        if not there.is_dir():
            raise OutputError(f"{there} is a file, so the working folder {root} cannot be made; give --work another.")
        self.root = root

    def folder(self, kind: str, identity: Mapping[str, Any]) -> Path:
        """The folder for results of one kind and identity; made, with the identity written into it, where missing."""
        path = self.root / _named(kind, identity)
        note = path / "identity.json"
        if not note.exists():
            write_json(note, dict(identity))
        elif read_json(note) != json.loads(json.dumps(identity)):
            raise WorkError(f"{path} belongs to something else; delete it or choose another working folder.")
        return path
