"""A budget in any unit is kept, and one that is malformed, out of reach or needless is refused."""

import json
import re

import pytest
from safetensors import safe_open

KIND = "llama"


@pytest.fixture
def spend(run, model_folder, tiny, work, tmp_path):
    """A function: compress with these budget options → (report, folder)."""

    def of(*words, kind=KIND, **_):
        out = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        told = run("compress", model_folder(kind), *words, "--out", out, "--work", work, *tiny)
        assert told.code == 0, told.err
        return json.loads((out / "report.json").read_text()), out

    return of


@pytest.fixture
def turned_down(refused, model_folder, tiny, tmp_path):
    """A function: these budget options must be refused, before anything is written."""

    def of(*words, kind=KIND):
        said = refused("compress", model_folder(kind), *words, "--out", tmp_path / "out", *tiny, early=True)
        assert not list(tmp_path.iterdir())
        return said

    return of


def header(path):
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


@pytest.mark.parametrize(("kind", "share"), [("llama", 0.7), ("llama_untied", 0.85), ("gpt2", 0.7), ("bert_mlm", 0.85)])
def test_the_saved_file_is_within_the_bytes_that_were_given(kind, share, spend, model_folder):
    dense = model_folder(kind) / "model.safetensors"
    budget = int(share * (dense.stat().st_size - header(dense)))
    report, out = spend("--bytes", f"{budget}B", kind=kind)
    small = out / "model.safetensors"
    saved = small.stat().st_size - header(small)
    assert header(small) < 10_000
    assert 0.95 * budget < saved <= budget
    assert report["small_total"]["bytes"] == saved
    with safe_open(small, "pt") as file:
        assert saved == sum(file.get_tensor(k).nbytes for k in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(("option", "amount", "unit"), [("--bytes", "60kB", "bytes"), ("--macs", 0.6, "macs")])
def test_a_plan_over_structure_and_bits_keeps_to_bytes_and_to_multiply_adds(option, amount, unit, spend):
    report, out = spend(option, amount, "--method", "structure_and_bits")
    if unit == "bytes":
        small = out / "model.safetensors"
        spent, most = small.stat().st_size - header(small), 60_000
    else:
        spent, most = report["small"]["macs"], 0.6 * report["dense"]["macs"]
    assert 0.95 * most < spent <= most


@pytest.mark.parametrize(("word", "bytes"), [("0.08MB", 80_000), ("78KiB", 79_872), ("80000", 80_000)])
def test_sizes_are_read_in_every_unit(word, bytes, spend):
    report, _ = spend("--bytes", word)
    assert report["asked"]["budget"] == {"unit": "bytes", "amount": pytest.approx(bytes)}
    assert 0.95 * bytes < report["small_total"]["bytes"] <= bytes


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_keep_is_a_share_of_the_linear_layers_parameters(keep, spend):
    report, _ = spend("--keep", keep)
    assert 0.95 * keep < report["small"]["params"] / report["dense"]["params"] <= keep


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_macs_is_a_share_of_the_linear_layers_multiply_adds(share, spend):
    report, _ = spend("--macs", share)
    assert 0.95 * share < report["small"]["macs"] / report["dense"]["macs"] <= share
    assert report["asked"]["budget"] == {"unit": "macs", "amount": share}


def test_less_budget_is_never_better(spend):
    errors = [spend("--keep", keep)[0]["predicted"] for keep in (0.3, 0.6, 0.9)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_the_smallest_budget_that_is_named_can_be_spent(spend, turned_down):
    said = turned_down("--keep", "0.001")
    floor = re.search(r"smallest possible is ([\d,]+), which is (0\.\d+)", said)
    assert floor, said
    report, _ = spend("--keep", float(floor[2]) + 1e-4)
    assert report["small"]["params"] == int(floor[1].replace(",", ""))


def test_the_smallest_size_that_is_named_can_be_asked_for(run, turned_down, model_folder, tiny, work, tmp_path):
    """The user gave the size of the whole file, so that is the size the answer must speak of."""
    said = turned_down("--bytes", "1KB")
    scales = {"": 1, "bytes": 1, "B": 1, "KB": 1e3, "kB": 1e3, "MB": 1e6}
    numbers = re.findall(r"(\d[\d,]*(?:\.\d+)?) ?(bytes|B|KB|kB|MB|)\b", said)
    sizes = [int(float(number.replace(",", "")) * scales[unit]) for number, unit in numbers]
    told = [
        run("compress", model_folder(KIND), "--bytes", f"{n}B", "--out", tmp_path / f"{n}", "--work", work, *tiny).code
        for n in sizes
        if n > 1000
    ]
    assert 0 in told, said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "exactly one budget.*none"),
        (("--keep", "0.5", "--bytes", "80KB"), "exactly one budget.*--keep and --bytes"),
        (("--keep", "0.5", "--macs", "0.5", "--bytes", "80KB"), "exactly one budget"),
        (("--keep", "0"), "Keeping 0 of the params is impossible"),
        (("--keep", "-0.5"), "Keeping -0.5 .* impossible"),
        (("--keep", "nan"), "impossible"),
        (("--keep", "-inf"), "impossible"),
        (("--keep", "inf"), "needs no compression"),
        (("--keep", "1.0"), "needs no compression"),
        (("--keep", "60"), "needs no compression"),
        (("--macs", "0"), "Keeping 0 of the macs is impossible"),
        (("--macs", "1"), "needs no compression"),
        (("--bytes", "10MB"), "needless.*0.1 MB"),
        (("--bytes", "0MB"), "impossible"),
        (("--bytes", "-3MB"), "impossible"),
        (("--bytes", "12 parsecs"), "'12 parsecs' is not a size.*120MB"),
        (("--bytes", "MB"), "'MB' is not a size"),
        (("--bytes", ""), "not a size"),
        (("--bytes", "nan"), "not a size"),
        (("--bytes", "1,5GB"), "not a size"),
        (("--macs", "0.000001"), "smallest possible is [1-9]"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(words, said, turned_down):
    found = turned_down(*words)
    assert re.search(said, found), found


def test_what_is_already_small_enough_is_said_with_the_size_it_has(turned_down, model_folder):
    dense = model_folder(KIND) / "model.safetensors"
    said = turned_down("--bytes", f"{dense.stat().st_size}B")
    assert "needless" in said


def test_an_encoder_s_unreached_layer_counts_and_stays(spend):
    """The pooler stays dense, and its parameters are part of the budget all the same."""
    report, out = spend("--keep", 0.5, kind="bert")
    assert report["small"]["params"] <= 0.5 * report["dense"]["params"]
    assert json.loads((out / "plan.json").read_text())["choices"]["pooler.dense"]["structure"] == "dense"


def test_a_budget_that_the_unreached_layer_alone_exceeds(refused, model_folder, tiny, work, tmp_path):
    """That a layer is never reached shows in what was measured, so this cannot be told before."""
    words = ("--keep", "0.05", "--out", tmp_path / "out", "--work", work)
    assert "smallest possible" in refused("compress", model_folder("bert"), *words, *tiny)
    assert not list(tmp_path.iterdir())
