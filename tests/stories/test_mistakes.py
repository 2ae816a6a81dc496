"""Whatever is wrong is said in one sentence; nothing is left half-written, and nothing is lost."""

import errno
import hashlib
import json
import re
import shutil
import sys
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gossamer
from gossamer.checkpoints import store
from gossamer.errors import BudgetError

LAYER = "model.layers.0.mlp.up_proj.weight"
OWN = ("--tokens", 256, "--window", 32)


def contents(folder):
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).digest() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def place(tmp_path):
    """A folder where an output would go, and where nothing may be left."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def fails(refused, tiny, place):
    """A function: compressing this model with these options is refused, and leaves no trace of an output.

    It is refused before anything slow, unless a working folder is named.
    """

    def said(model, *words, work=None, text=tiny):
        options = ("--keep", 0.5, *text, "--out", place / "out", *words)
        sentence = refused("compress", model, *options, *(("--work", work) if work else ()), early=work is None)
        assert not list(place.iterdir())
        return sentence

    return said


# ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def weights(change):
    def spoil(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return spoil


def config(**changes):
    def spoil(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return spoil


def cut(folder, file="model.safetensors", share=0.5):
    path = folder / file
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


MODELS = {
    "no config": (lambda f: (f / "config.json").unlink(), "without a config.json"),
    "a config that is no JSON": (lambda f: (f / "config.json").write_text("{"), "JSON"),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[]"), "config"),
    "an empty config": (lambda f: (f / "config.json").write_text("{}"), "model_type|model type"),
    "an unknown kind of model": (config(model_type="spaghetti"), "spaghetti"),
    "a model with code of its own": (config(architectures=["SpaghettiForCausalLM"]), "SpaghettiForCausalLM.*never run"),
    "a config that asks for other shapes": (config(intermediate_size=56), "shape|size"),
    "a config with words for numbers": (config(hidden_size="wide"), "hidden_size|wide"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "safetensors"),
    "a missing weight": (weights(lambda t: t.pop(LAYER)), f"lacks 1 of its weights.*{LAYER}"),
    "weights cut short": (cut, "cut short or altered; fetch it again"),
    "a header cut short": (lambda f: cut(f, share=0.005), "cut short or altered; fetch it again"),
    "empty weights": (lambda f: cut(f, share=0), "cut short or altered; fetch it again"),
    "weights that are not a number": (weights(lambda t: t[LAYER].view(-1)[7:8].fill_(torch.nan)), f"{LAYER}.*NaN"),
    "infinite weights": (weights(lambda t: t[LAYER].view(-1)[7:8].fill_(-torch.inf)), f"{LAYER}.*infinite"),
    "weights as a pickle": (pickled, "safetensors"),
}


@pytest.mark.parametrize("mistake", MODELS)
def test_a_broken_model(mistake, fails, copied):
    spoil, words = MODELS[mistake]
    folder = copied("llama")
    spoil(folder)
    before = contents(folder)
    said = fails(folder)
    assert re.search(words, said), said
    assert str(folder) in said, said
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("float32", 3e38, r"model\.layers\.0\.mlp\.\w+: .* not finite"),
        ("float32", 1e25, r"model\.layers\.0\.mlp\.down_proj: its input_second_moment is too large"),
        ("float16", 6e4, "not finite .*in a wider format"),  # measured in float32, judged in half
    ],
)
def test_weights_so_large_that_activations_overflow(dtype, value, words, fails, copied, work):
    folder = copied("llama")
    weights(lambda t: t[LAYER].fill_(value))(folder)
    assert re.search(words, fails(folder, "--dtype", dtype, work=work))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/folder", "no model at /no/such/folder"),
        ("./nowhere", "no model at"),
        ("nowhere.gguf", "no model at"),
        ("nobody/nothing", "nobody/nothing"),
        ("nothing-by-that-name", "nothing-by-that-name"),
    ],
)
def test_no_model_there(name, words, fails):
    assert words in fails(name)


def test_a_file_that_is_no_model(fails, text_file):
    assert "not a .gguf" in fails(text_file)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_what_was_compressed_is_not_compressed_again(kind, fails, compressed):
    """Also where some layers are still dense, as an encoder's pooler is."""
    assert "compressed already" in fails(compressed(kind).folder)


def test_nor_where_the_first_compression_left_layers_dense(run, fails, model_folder, tiny, work, tmp_path):
    first = tmp_path / "first"
    words = ("--keep", 0.9, "--method", "pivoted", *tiny, "--work", work)
    assert run("compress", model_folder("llama"), *words, "--out", first).code == 0
    choices = json.loads((first / "plan.json").read_text())["choices"].values()
    assert {c["structure"] for c in choices} == {"dense", "pivoted_low_rank"}
    assert "compressed already" in fails(first)


def test_layers_with_inputs_that_are_always_zero_are_named(run, copied, tiny, text_file, place):
    """A note beside the result, also of a second run, which reads the prices of the first; and of a comparison."""
    folder = copied("llama")
    weights(lambda t: t[LAYER][3:5].zero_())(folder)
    said = r"An input or an output was zero on every token .*\(1\): model\.layers\.0\.mlp\.down_proj\n"
    asked = (folder, "--keep", 0.6, "--method", "svd_llm", *tiny, "--work", place / "work")
    for out in ("first", "second"):
        told = run("compress", *asked, "--out", place / out)
        assert told.code == 0, told.err
        assert len(re.findall(f"note: {said}", told.out)) == 1
    words = ("--methods", "svd,svd_llm", "--keep", 0.6, "--test", text_file, "--test-tokens", 256, *tiny)
    told = run("compare", folder, *words, "--work", place / "work", "--out", place / "table")
    assert len(re.findall(f"note: svd_llm: {said}", told.out)) == 1
    (doubts,) = (path for path in place.glob("work/curves-*/doubts.json") if "true" in path.read_text())
    doubts.write_text(doubts.read_text().replace("true", "false"))
    assert f"{doubts} is damaged" in run("compress", *asked, "--out", place / "third").err
    doubts.unlink()  # as it says
    assert len(re.findall(f"note: {said}", run("compress", *asked, "--out", place / "third").out)) == 1


def test_statistics_that_are_not_positive_definite_are_named_with_what_is_added(
    run, model_folder, text_file, monkeypatch, place
):
    """Eight tokens through layers of 32 and 48 inputs, in a metric without its damping."""
    monkeypatch.setattr("gossamer.metrics.activation.regularized", lambda moment, damping: moment)
    words = ("--keep", 0.6, "--method", "svd_llm", "--text", text_file, "--tokens", 8, "--window", 8)
    told = run("compress", model_folder("llama"), *words, "--work", place / "work", "--out", place / "out")
    assert told.code == 0, told.err
    assert re.search(
        r"note: Statistics are not positive definite, so roots .* up to \de-\d+ .* added \(\d+\): model\.layers\.0\.",
        told.out,
    )


def test_a_layer_that_no_token_reaches_stays_dense_and_is_named(run, model_folder, tiny, work, place):
    told = run("compress", model_folder("bert"), "--keep", 0.6, *tiny, "--work", work, "--out", place / "out")
    assert told.code == 0
    assert re.search(r"note: Stay dense .*never reached.*pooler\.dense", told.out)
    report = json.loads((place / "out" / "report.json").read_text())
    assert any("pooler.dense" in note for note in report["notes"])
    dense, small = (
        load_file(path)["pooler.dense.weight"]
        for path in (model_folder("bert") / "model.safetensors", place / "out" / "model.safetensors")
    )
    assert torch.equal(dense, small)


def test_a_pattern_that_does_not_divide_a_layer_s_inputs(refused, with_neurons, tiny, place):
    words = ("--keep", 0.6, "--method", "wanda", "--structures", "n_of_8", *tiny, "--work", place / "work")
    said = refused("compress", with_neurons(42), *words, "--out", place / "out", early=True)
    assert said.startswith("model.layers.0.mlp.down_proj cannot become n_of_8: its 42 inputs"), said


# ── the text ──────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = {
    "empty": (b"", "is empty"),
    "blank": (b" \n\t\n ", "is empty"),
    "a few words": (b"w1 w2 w3", "8 tokens, fewer than one window of 32"),
    "one window": (b"w1 w2 w3 " * 5, "fills one window of 32 tokens; two are needed"),
    "binary": (bytes(range(256)) * 20, "cannot be read as UTF-8"),
    "in another encoding": ("ein Größenwahn " * 99).encode("utf-16")
    and (
        ("ein Größenwahn " * 99).encode("latin-1"),
        "cannot be read as UTF-8",
    ),
}


@pytest.mark.parametrize("option", ["--text", "--test"])
@pytest.mark.parametrize("mistake", TEXTS)
def test_a_text_that_cannot_be_used(mistake, option, fails, model_folder, tmp_path):
    content, words = TEXTS[mistake]
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    if option == "--test" and mistake == "one window":
        pytest.skip("one window is enough to judge by")
    said = fails(model_folder("llama"), option, path)
    assert words in said
    assert str(path) in said


@pytest.mark.parametrize("option", ["--text", "--test"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/text", "no text file /no/such/text"),
        ("missing.txt", "no text file missing.txt"),
        ("missing", "no file missing"),
        ("missing.csv", "no file missing.csv"),
        ("/tmp", "/tmp is a folder"),
        ("", "text"),
        ("word " * 1000, "5000 characters long"),
        ("/" + "x" * 300, "no text file"),
    ],
)
def test_a_text_that_is_not_there(name, words, option, fails, model_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    said = fails(model_folder("llama"), option, name)
    assert re.search(words, said), said


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("llama", ("--window", 1), "at least 2"),
        ("llama", ("--window", 0), "at least 2"),
        ("llama", ("--window", -32), "at least 2"),
        ("llama", ("--tokens", -1), "tokens"),
        ("bert", ("--window", 2), "window"),
    ],
)
def test_a_window_in_which_nothing_fits(kind, words, said, fails, model_folder):
    assert said in fails(model_folder(kind), *words)


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20])
def test_a_seed_that_cannot_be(seed, fails, refused, model_folder, compressed, place):
    assert f"seed of {seed} is impossible" in fails(model_folder("llama"), "--seed", seed)
    for step in ("heal", "refine"):
        said = refused(step, compressed("llama").folder, "--seed", seed, "--out", place / "out", early=True)
        assert f"seed of {seed} is impossible" in said


def test_a_tokenizer_of_another_model(fails, copied, tmp_path, text_file):
    """It gives ids that the model has no embedding for."""
    folder = copied("llama")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: i + (500 if token == "w" else 0) for token, i in vocab.items()}
    path.write_text(json.dumps(tokenizer))
    assert "tokenizer" in fails(folder)


# ── the output ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_output_folder_that_is_not_empty(refused, model_folder, tiny, place):
    (place / "mine.txt").write_text("precious")
    said = refused("compress", model_folder("llama"), "--keep", 0.5, *tiny, "--out", place, early=True)
    assert "exists and is not empty" in said
    assert [(p.name, p.read_text()) for p in place.iterdir()] == [("mine.txt", "precious")]


def test_an_output_that_is_a_file(refused, model_folder, tiny, place):
    (place / "out").write_text("precious")
    said = refused("compress", model_folder("llama"), "--keep", 0.5, *tiny, "--out", place / "out", early=True)
    assert "is a file" in said
    assert (place / "out").read_text() == "precious"


def test_an_output_below_a_file(refused, model_folder, tiny, place):
    (place / "file").write_text("precious")
    for command in ("compress", "plan"):
        out = place / "file" / "out"
        said = refused(command, model_folder("llama"), "--keep", 0.5, *tiny, "--out", out, early=True)
        assert "file" in said
    assert (place / "file").read_text() == "precious"


def test_an_empty_output_folder_is_taken(run, model_folder, tiny, work, place):
    words = ("--keep", 0.5, *tiny, "--work", work, "--out", place)
    assert run("compress", model_folder("llama"), *words).code == 0
    assert (place / "model.safetensors").exists()


@pytest.mark.parametrize("free", [1000, 50_010_000])
def test_a_full_disk_is_noticed_before_anything_is_done(free, fails, model_folder, tmp_path, monkeypatch):
    """Room for the small files alone is not enough: the weights are counted too."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, used=10**9 - free, free=free))
    assert "MB free" in fails(model_folder("llama"), work=tmp_path / "work")
    assert not list((tmp_path / "work").rglob("*.safetensors"))


def test_a_disk_that_fills_while_the_model_is_saved(fails, run, model_folder, tiny, work, place, monkeypatch):
    import transformers.modeling_utils as saving

    write = saving.safe_save_file

    def half(tensors, filename, metadata=None):
        write(dict(list(tensors.items())[:3]), filename, metadata=metadata)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "safe_save_file", half)
    assert "No space left on device" in fails(model_folder("llama"), work=work)
    monkeypatch.setattr(saving, "safe_save_file", write)
    words = ("--keep", 0.5, *tiny, "--work", work, "--out", place / "out")
    assert run("compress", model_folder("llama"), *words).code == 0


@pytest.mark.parametrize("after", [3, 30])
def test_a_disk_that_fills_while_statistics_are_saved(
    after, fails, run, model_folder, tiny, place, tmp_path, monkeypatch
):
    """And once there is room again, the same command goes on."""
    left = [after]

    def half(tensors, path, facts):
        left[0] -= 1
        if left[0] < 0:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, facts)

    monkeypatch.setattr(store, "save_file", half)
    assert "No space left on device" in fails(model_folder("llama"), work=tmp_path / "work")
    monkeypatch.setattr(store, "save_file", save_file)
    words = ("--keep", 0.5, *tiny, "--work", tmp_path / "work", "--out", place / "out")
    assert run("compress", model_folder("llama"), *words).code == 0


@pytest.mark.parametrize("command", ["compress", "inspect"])
def test_a_working_folder_that_is_a_file(command, refused, model_folder, tiny, place):
    (place / "work").write_text("precious")
    words = ("--keep", 0.5, "--out", place / "out") if command == "compress" else ()
    said = refused(command, model_folder("llama"), *words, *tiny, "--work", place / "work")
    assert str(place / "work") in said
    assert [(p.name, p.read_text()) for p in place.iterdir()] == [("work", "precious")]


def test_a_working_folder_with_a_name_that_no_folder_can_have(refused, model_folder, tiny, place):
    words = ("--keep", 0.5, *tiny, "--out", place / "out", "--work", "w" * 300)
    assert "cannot be looked at" in refused("compress", model_folder("llama"), *words)
    assert not list(place.iterdir())


# ── the machine ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def left(monkeypatch):
    """A function: from now on so many bytes of memory are free."""

    def bytes_free(free):
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free, total=10**9))

    return bytes_free


@pytest.mark.parametrize(
    ("free", "words"), [(1000, "for its weights alone"), (10**8, "Measuring .* needs about 0.5 GB")]
)
@pytest.mark.parametrize("text", ["a file", "its own"])
def test_too_little_memory(text, free, words, fails, model_folder, tiny, left):
    """Also for a model that would first write its text: it is refused before."""
    left(free)
    said = fails(model_folder("llama"), text=tiny if text == "a file" else OWN)
    assert re.search(words, said), said
    assert "memory" in said


def test_statistics_that_are_there_need_no_memory(run, model_folder, left, tmp_path):
    words = ("plan", model_folder("llama"), "--keep", 0.5, *OWN, "--work", tmp_path / "work")
    assert run(*words, "--out", tmp_path / "first.json").code == 0
    left(10**8)
    again = run(*words, "--structures", "low_rank", "--out", tmp_path / "second.json")  # prices anew, measures nothing
    assert again.code == 0, again.err
    assert "price:" in again.err and "measure:" not in again.err


def test_a_number_format_too_wide_for_memory(fails, copied, left):
    """Weights in bfloat16 take twice the size of their file in float32."""
    folder = copied("llama")
    weights(lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))(folder)
    left(int(1.5 * (folder / "model.safetensors").stat().st_size))
    assert "for its weights alone" in fails(folder, "--dtype", "float32")
    assert "Measuring" in fails(folder, "--dtype", "bfloat16")


def test_a_quantized_file_too_large_for_memory(fails, left, tmp_path):
    """It is refused from its head, before it is dequantized: 4 bits become 32."""
    writer = gguf.GGUFWriter(tmp_path / "large.gguf", "llama")
    kind = gguf.GGMLQuantizationType.Q4_0
    numbers = gguf.quantize(np.ones((512, 512), dtype=np.float32), kind)
    writer.add_tensor("token_embd.weight", numbers, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    left(512 * 512 * 4 - 1)
    assert re.search(r"large\.gguf needs .* for its weights alone", fails(tmp_path / "large.gguf"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_memory_that_runs_out_all_the_same(error, fails, model_folder, tmp_path, monkeypatch):
    def never(*_, **__):
        raise error

    monkeypatch.setattr("gossamer.recipes.measuring.gather", never)
    assert "memory" in fails(model_folder("llama"), work=tmp_path / "work")


# ── the working folder ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def finished(run, model_folder, tiny, tmp_path_factory):
    """A working folder that holds everything."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "plan.json"
    assert run("plan", model_folder("llama"), "--keep", 0.5, *tiny, "--work", folder / "work", "--out", path).code == 0
    return folder / "work"


def flip(path, at=-5):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def digits(path):
    """Another number of tokens in the header, where the checksum of the tensors does not look."""
    data = path.read_bytes()
    assert b'"1024"' in data
    path.write_bytes(data.replace(b'"1024"', b'"9024"'))


def every(pattern, damage):
    def spoil(folder):
        paths = list(folder.glob(pattern))
        assert paths
        for path in paths:
            damage(path)

    return spoil


SUMS, FACTORS, CURVES = "statistics-*/*/sums-*/*/*.safetensors", "curves-*/whitened_svd/*", "curves-*/curves.json"
DAMAGE = {
    "a byte of the statistics": every(SUMS, flip),
    "the head of the statistics": every(SUMS, lambda p: flip(p, 20)),
    "the count of the statistics": every(SUMS, digits),
    "statistics cut short": every(SUMS, lambda p: p.write_bytes(p.read_bytes()[:-40])),
    "empty statistics": every(SUMS, lambda p: p.write_bytes(b"")),
    "statistics that vanished": every(SUMS, lambda p: p.unlink()),
    "a byte of the factors": every(FACTORS, flip),
    "factors that vanished": every(FACTORS, lambda p: p.unlink()),
    "garbage for curves": every(CURVES, lambda p: p.write_bytes(b"\xff\x00{")),
    "curves cut short": every(CURVES, lambda p: p.write_text(p.read_text()[:-200])),
    "curves of nothing": every(CURVES, lambda p: p.write_text("{}")),
    "curves that are a list": every(CURVES, lambda p: p.write_text("[]")),
    "curves without a price": every(
        CURVES, lambda p: p.write_text(re.sub(r"\[\s*[\d.e-]+,", "[", p.read_text(), count=1))
    ),
    "garbage for an identity": every("statistics-*/identity.json", lambda p: p.write_text("{")),
    "another identity": every("statistics-*/identity.json", lambda p: p.write_text("{}")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_working_folder(damage, fails, finished, model_folder, tmp_path):
    """It is named, and the way out with it."""
    spoil = DAMAGE[damage]
    work = shutil.copytree(finished, tmp_path / "work")
    spoil(work)
    said = fails(model_folder("llama"), work=work)
    assert str(work) in said
    assert "delete" in said


def test_what_is_deleted_is_worked_out_again(run, finished, model_folder, tiny, compressed, place, tmp_path):
    work = shutil.copytree(finished, tmp_path / "work")
    for number, pattern in enumerate(("statistics-*", "curves-*")):
        shutil.rmtree(next(work.glob(pattern)))
        words = ("--keep", 0.6, *tiny, "--work", work, "--out", place / f"{number}")
        assert run("compress", model_folder("llama"), *words).code == 0
        again = place / f"{number}" / "model.safetensors"
        assert again.read_bytes() == (compressed("llama").folder / "model.safetensors").read_bytes()


def test_damaged_writing_of_the_model_s_own(refused, run, model_folder, place, tmp_path):
    words = (model_folder("llama"), "--tokens", 256, "--window", 32, "--work", tmp_path / "work", "--keep", 0.5)
    assert run("plan", *words, "--out", tmp_path / "plan.json").code == 0
    flip(next((tmp_path / "work").glob("writing-*/ids.safetensors")))
    assert "damaged" in refused("compress", *words, "--out", place / "out")


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metric", "taste"), "nothing named 'taste' in metrics; choose one of: absolute_mean, activation"),
        (("--metric", "_base"), "nothing named '_base' in metrics"),
        (
            ("--structures", "butterfly"),
            "nothing named 'butterfly' in structures; choose one of: affine_low_rank, asymmetric_128",
        ),
        (("--structures", "low_rank,butterfly"), "nothing named 'butterfly' in structures"),
        (("--structures", ""), "structure"),
        (("--structures", "dense"), "dense"),
        (
            ("--allocator", "lottery"),
            "nothing named 'lottery' in budgets; choose one of: block_influence, knapsack, sensitivity, uniform",
        ),
        (("--method", "quantized", "--allocator", "sensitivity"), "trellis_256 keeps all of them; choose another"),
        (("--structures", "low_rank,codebook", "--metric", "identity", "--allocator", "sensitivity"), "codebook keeps"),
        (("--dtype", "int3"), "no dtype 'int3'; choose auto, float32, bfloat16 or float16"),
    ],
)
def test_a_name_that_nobody_knows_or_that_does_not_go_with_another(words, said, fails, model_folder):
    assert said in fails(model_folder("llama"), *words)


@pytest.mark.parametrize(
    "words",
    [
        ("compress",),
        ("compress", "model"),
        ("compress", "model", "--out", "x", "--keep", "much"),
        ("compress", "model", "--out", "x", "--tokens", "1.5"),
        ("decompress", "model"),
    ],
)
def test_a_command_that_is_not_one_shows_how_it_is_used(words, run):
    told = run(*words)
    assert told.code == 2
    assert "Usage" in told.err
    assert "Traceback" not in told.err
    assert not told.out


def test_a_form_that_nothing_can_be_exported_to(refused, tmp_path):
    assert "--to dense" in refused("export", "model", "--to", "gold", "--out", tmp_path / "x")


def test_a_window_longer_than_the_model_takes_is_said(run, model_folder, text_file, tmp_path):
    """The tiny model has 64 positions."""
    words = ("--text", text_file, "--tokens", "512", "--work", tmp_path / "work")
    told = run("inspect", model_folder("llama"), *words, "--window", "100")
    assert "\nnote: Windows have 64 tokens instead of 100: the model takes no more.\n" in told.out
    assert "note:" not in run("inspect", model_folder("llama"), *words, "--window", "64").out
    told = run("evaluate", model_folder("llama"), "--text", text_file, "--window", "128", "--tokens", "256")
    assert "\nnote: Windows have 64 tokens instead of 128" in told.out


def test_a_number_where_python_expects_a_budget(tmp_path):
    work = tmp_path / "work"
    for call in (
        lambda: gossamer.compress("model", 0.6, work=work),
        lambda: gossamer.plan("model", 0.6, work=work),
        lambda: gossamer.compare("model", ["svd"], [0.6], tmp_path / "out", test="text", work=work),
        lambda: gossamer.compare("model", ["svd"], 0.6, tmp_path / "out", test="text", work=work),
    ):
        with pytest.raises(BudgetError, match=r"^0\.6 is no budget; give one as gossamer\.Budget"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("--help",), ("compress", "--help"), ("evaluate", "--help")])
def test_help_is_no_mistake(words, run):
    told = run(*words)
    assert told.code == 0
    assert "Usage" in told.out
    assert not told.err


def test_a_bug_keeps_its_traceback(run, model_folder, tiny, tmp_path, monkeypatch):
    """What is not the user's mistake must not be dressed up as one."""

    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("gossamer.recipes.measuring.gather", broken)
    with pytest.raises(ZeroDivisionError):
        run("compress", model_folder("llama"), "--keep", 0.5, *tiny, "--work", tmp_path / "w", "--out", tmp_path / "o")
