"""Gossamer beside llama.cpp's quantizers at the bytes of the whole file, embeddings and head included.

    pip install llama-cpp-python
    python benchmarks/k_quants.py rotated --calibration wiki.valid.raw --test wiki.test.raw

The model, one of Llama's kind with a head of its own, is written as GGUF in 16 bits and quantized by llama.cpp with an
importance matrix: the mean square of every linear layer's inputs over the very tokens that Gossamer is calibrated on.
Each file is read back with the package `gguf`, and its weights are judged in PyTorch on the windows and in the format
that judge Gossamer. Then Gossamer compresses to the bytes of that file. No file holds a tokenizer. Rows of queries and
keys stay in the order of transformers: every row is quantized by itself, so that their order changes nothing here.

Rows whose length 256 does not divide cannot become a K-quant: llama.cpp takes another of its types for them, which the
figures say.
"""

import argparse
import copy
import ctypes
import json
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from gossamer import Budget, GossamerError, compress, data, methods
from gossamer.checkpoints.opening import open_model
from gossamer.evaluation import fidelity
from gossamer.evaluation.machine import machine
from gossamer.recipes.measuring import FORMAT, default_work
from gossamer.recipes.pricing import Priced, price_model

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""What a module is called in a GGUF file; those of a block follow its number."""


def gguf_name(parameter: str) -> str:
    module = parameter.removesuffix(".weight")
    if module.startswith("model.layers."):
        block, _, inside = module.removeprefix("model.layers.").partition(".")
        return f"blk.{block}.{NAMES[inside]}.weight"
    return f"{NAMES[module]}.weight"


def write(model: Any, path: Path) -> None:
    """The model as GGUF: matrices in 16 bits, norms in 32."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for name, parameter in model.named_parameters():
        wide = parameter.dim() == 1
        writer.add_tensor(gguf_name(name), parameter.detach().numpy().astype(np.float32 if wide else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def importance(priced: Priced) -> dict[str, np.ndarray]:
    """The mean square of every layer's inputs, by the layer's name in GGUF."""
    found = {}
    for site in priced.sites:
        if site.role == "layer":
            moment = priced.sums.moments(site, ("input_second_moment",))["input_second_moment"]
            found[gguf_name(site.name)] = moment.diagonal().numpy().astype(np.float32).copy()
    return found


def quantize(library: Any, source: Path, out: Path, kind: str, matrix: dict[str, np.ndarray]) -> None:
    params = library.llama_model_quantize_default_params()
    params.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = torch.get_num_threads()
    entries = (library.llama_model_imatrix_data * (len(matrix) + 1))()  # the last one is empty and ends the list
    for entry, (name, values) in zip(entries, matrix.items(), strict=False):
        pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.name, entry.data, entry.size = name.encode(), pointer, len(values)
    params.imatrix = entries
    if library.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)):
        sys.exit(f"llama.cpp could not write {kind}; leave it out of --types.")


def read_back(model: Any, path: Path) -> tuple[Any, dict[str, int]]:
    """(a copy of the model with the file's weights, how many of its weights are of each of llama.cpp's types)."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    found, kinds = copy.deepcopy(model), Counter[str]()
    for name, parameter in found.named_parameters():
        tensor = tensors[gguf_name(name)]
        kinds[tensor.tensor_type.name] += parameter.numel()
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        parameter.data = torch.from_numpy(np.array(values, dtype=np.float32)).view(parameter.shape)
    return found, dict(kinds)


def kept(path: Path, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that an earlier run of the same left."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    if found.get("identity") != json.loads(json.dumps(identity)):
        sys.exit(f"{path} has rows of another model, text, method or version of gossamer; give --out another file.")
    return list(found["rows"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Gossamer beside llama.cpp's quantizers, whole files.")
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--types", default="Q4_K_M,Q3_K_M,Q3_K_S,Q2_K,IQ3_XXS,IQ2_XS")
    parser.add_argument("--method", default="structure_and_bits")
    parser.add_argument("--tokens", type=int, default=20_480)
    parser.add_argument("--work", type=Path, default=default_work())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/k_quants.json"))
    given = parser.parse_args()
    try:
        from llama_cpp import llama_cpp as library
    except ImportError:
        sys.exit("llama.cpp is not installed, and there is nothing to compare with: pip install llama-cpp-python")
    library.llama_backend_init()
    settings = methods.settings(given.method, text=given.calibration, embeddings=True)
    opened = open_model(given.model, given.work)
    windows = data.cut(data.read(given.test), Path(given.test).name, opened.tokenizer, 1024)
    windows = replace(windows, ids=windows.ids[: given.tokens // 1024])
    read = {**asdict(settings), "text": data.digest(data.read(given.calibration))}
    judged = {**windows.identity(), "source": None}
    identity = {"format": FORMAT, "model": opened.digest, "settings": read, "test": judged}
    rows = kept(given.out, identity)
    priced = price_model(given.model, settings, work=given.work)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.gguf"
        write(opened.model, whole)
        for kind in given.types.split(","):
            if any(row["type"] == kind for row in rows):
                continue
            file = Path(folder) / f"{kind}.gguf"
            quantize(library, whole, file, kind, importance(priced))
            theirs, kinds = read_back(opened.model, file)
            limit = file.stat().st_size
            row: dict[str, Any] = {"type": kind, "bytes": limit, "weights": kinds}
            try:
                out = Path(folder) / kind
                ours = compress(given.model, Budget(unit="bytes", amount=limit), out, settings, work=given.work)
            except GossamerError as error:
                sys.exit(f"{kind}: {error}")
            row["gossamer bytes"] = (out / "model.safetensors").stat().st_size
            row["plan"] = dict(Counter(f"{o.structure} {o.size}" for o in ours.plan.choices.values()))
            scores = fidelity.compare(opened.model, [theirs, ours.model], windows)
            behind = [a - b for a, b in zip(scores[0].by_window, scores[1].by_window, strict=True)]
            row |= {
                "llama.cpp": {"perplexity": scores[0].perplexity, "divergence": scores[0].divergence},
                "gossamer": {"perplexity": scores[1].perplexity, "divergence": scores[1].divergence},
                "nats that llama.cpp is behind": [
                    statistics.fmean(behind),
                    statistics.stdev(behind) / len(behind) ** 0.5,
                ],
                "dense": scores[0].dense_perplexity,
                "protocol": scores[0].protocol,
            }
            rows.append(row)
            given.out.parent.mkdir(parents=True, exist_ok=True)
            found = {"model": Path(given.model).name, "identity": identity, "machine": machine(), "rows": rows}
            given.out.write_text(json.dumps(found, indent=1) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
