"""Without gossamer nobody is handed random weights: a compressed folder refuses to load, an exported one just loads."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import json, sys, torch, transformers
from safetensors.torch import save_file
transformers.logging.set_verbosity_error()
job = json.loads(sys.stdin.read())
told, logits = {}, {}
for word, (kind, folder) in job["folders"].items():
    try:
        model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
        missing, unknown = len(info["missing_keys"]), len(info["unexpected_keys"])
        told[word] = ["loaded", f"{missing} weights are random, {unknown} unknown"]
        with torch.no_grad():
            out = model.eval()(input_ids=torch.tensor(job["ids"]))
        logits[word] = out.logits if "logits" in out else out.last_hidden_state
    except Exception as error:
        told[word] = [type(error).__name__, str(error)]
assert not any(m.partition(".")[0] == "gossamer" for m in sys.modules)
save_file(logits, job["logits"])
print(json.dumps(told))
"""
CLASSES = {
    "llama": ("AutoModelForCausalLM", "AutoModel", "LlamaForCausalLM"),
    "gpt2": ("AutoModelForCausalLM", "GPT2LMHeadModel"),
    "bert": ("AutoModel", "BertModel"),
}
CASES = [(kind, name) for kind, names in CLASSES.items() for name in names]
EXPORTED = {
    "llama": "AutoModelForCausalLM",
    "llama_untied": "LlamaForCausalLM",
    "gpt2": "AutoModelForCausalLM",
    "bert_mlm": "AutoModelForMaskedLM",
}


@pytest.fixture(scope="module")
def outcomes(compressed, exported, load, answers, tmp_path_factory):
    """(which folder, kind, class) → what came of loading it, and its outputs; all asked in one process."""
    place = tmp_path_factory.mktemp("strangers")
    folders = {("exported", kind, name): exported(kind) for kind, name in EXPORTED.items()}
    for kind, names in CLASSES.items():
        load(compressed(kind).folder, kind).save_pretrained(place / kind)
        folders |= {("compressed", kind, name): compressed(kind).folder for name in names}
        folders |= {("saved again", kind, name): place / kind for name in names}
    job = {
        "ids": answers.ids.tolist(),
        "logits": str(place / "logits.safetensors"),
        "folders": {"/".join(case): [case[2], str(folder)] for case, folder in folders.items()},
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(job),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    told, logits = json.loads(done.stdout.strip().splitlines()[-1]), load_file(job["logits"])
    return {case: (*told["/".join(case)], logits.get("/".join(case))) for case in folders}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_compressed_folder_does_not_load(kind, name, outcomes):
    what, message, _ = outcomes["compressed", kind, name]
    assert what in {"ValueError", "OSError", "FileNotFoundError"}, message
    assert "gossamer" in message or "safetensors" in message, message


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_nor_does_one_that_was_loaded_and_saved_again(kind, name, outcomes):
    what, message, _ = outcomes["saved again", kind, name]
    assert what in {"ValueError", "OSError", "FileNotFoundError"}, message


@pytest.mark.parametrize(("kind", "name"), EXPORTED.items())
def test_an_exported_folder_loads_and_answers_as_the_compressed_model(kind, name, outcomes, compressed, answers):
    what, message, logits = outcomes["exported", kind, name]
    assert (what, message) == ("loaded", "0 weights are random, 0 unknown")
    torch.testing.assert_close(logits, answers(compressed(kind).model), atol=1e-4, rtol=0)
