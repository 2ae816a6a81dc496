"""`gossamer compare`: many methods at many budgets under one protocol, kept cell by cell."""

import contextlib
import csv
import json
import re
import subprocess
import sys
import time

import psutil
import pytest
import vl_convert

from gossamer import discover, methods
from gossamer.recipes import compare as recipe

SMALL = ("--test-window", 32, "--test-tokens", 256)


@pytest.fixture
def ask(run, model_folder, tiny, text_file, work, tmp_path):
    """A function: `gossamer compare` on the tiny llama with these methods and budgets."""

    def told(methods, keep, *more, out="table"):
        words = ("--methods", methods, "--keep", keep, "--test", text_file, "--out", tmp_path / out, "--work", work)
        return run("compare", model_folder("llama"), *words, *SMALL, *tiny, *more)

    return told


@pytest.fixture
def within(monkeypatch):
    """Methods run in this process: what is asked of them is the same, and a process takes seconds to start."""
    monkeypatch.setattr(recipe, "_apart", recipe._cells)


def cells(folder):
    return json.loads((folder / "table" / "compare.json").read_text())["cells"]


def test_each_method_runs_in_a_process_of_its_own(ask, tmp_path):
    told = ask("pivoted", "0.7")
    assert told.code == 0, told.err
    cell = cells(tmp_path)["pivoted 0.7"]
    assert cell["kept"] <= 0.7 and cell["perplexity"] > 1 and cell["peak_memory"] > 1e8
    assert f"{cell['perplexity']:.2f}" in told.out


def test_a_killed_comparison_leaves_nobody_behind(model_folder, tiny, text_file, tmp_path):
    """SIGKILL asks nobody to tidy up: the process that computes has to notice by itself."""
    words = ("--methods", "pivoted", "--keep", "0.7", "--test", text_file, "--out", tmp_path / "out", *SMALL, *tiny)
    script = "from gossamer.cli._app import main; main()"
    asked = [sys.executable, "-c", script, "compare", model_folder("llama"), *words, "--work", tmp_path / "work"]
    parent = psutil.Popen([str(word) for word in asked], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers = []
    while parent.poll() is None and not workers:
        with contextlib.suppress(psutil.Error):  # a child that is just going
            workers = [p for p in parent.children() if any("spawn_main" in word for word in p.cmdline())]
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    assert workers
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_a_table_has_a_row_a_method_and_a_column_a_budget(ask, within, tmp_path):
    told = ask("svd,mixed", "0.8,0.6")
    assert told.code == 0, told.err
    found = cells(tmp_path)
    assert set(found) == {"svd 0.8", "svd 0.6", "mixed 0.8", "mixed 0.6"}
    assert len({cell["protocol"]["ids_sha256"] for cell in found.values()}) == 1
    for budget in ("0.8", "0.6"):
        best = min(("svd", "mixed"), key=lambda name: found[f"{name} {budget}"]["perplexity"])
        assert f"{budget}: {best} is best; nats a token above it" in told.out
    with (tmp_path / "table" / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["method"], r["asked"]) for r in rows] == [tuple(key.split()) for key in found]
    assert [float(r["perplexity"]) for r in rows] == [cell["perplexity"] for cell in found.values()]


def test_layers_that_fell_back_are_named_on_top_of_every_report(run, within, with_neurons, tiny, text_file, tmp_path):
    prime = with_neurons(47)  # which no tensor train can split
    work = ("--work", tmp_path / "work")
    words = ("--method", "compactifai", "--keep", 0.7, "--out", tmp_path / "small", *tiny, *work)
    single = run("compress", prime, *words)
    words = ("--methods", "svd,compactifai", "--keep", "0.8,0.7", "--test", text_file, *SMALL, *tiny, *work)
    several = run("compare", prime, *words, "--out", tmp_path / "table")
    assert (single.code, several.code) == (0, 0), single.err + several.err
    fell = "Instead of tensor_train weights become plain low rank, for one of their sides has no divisors (6): model."
    for told, line in ((single, f"note: {fell}"), (several, f"note: compactifai: {fell}")):
        assert told.out.count(fell) == 1 and line in told.out.partition("┏")[0]
    for page, above in (
        (tmp_path / "small" / "report.html", fell),
        (tmp_path / "table" / "compare.html", f"compactifai: {fell}"),
    ):
        top = page.read_text().partition("<table")[0]
        assert f'<p class="note">{above}' in top


def test_budgets_may_be_bits_bytes_and_multiply_adds(ask, within, tmp_path):
    """Quantized methods have no use for fewer parameters; each column is counted in its own unit, and goes on."""
    told = ask("svd,rtn", "0.7", "--bits", "6,8", "--bytes", "60kB", "--macs", "0.7")
    assert told.code == 0, told.err
    found = cells(tmp_path)
    assert [key for key in found if key.startswith("rtn ")] == [
        "rtn 0.7", "rtn 60 kB", "rtn 0.7 macs", "rtn 6 bits", "rtn 8 bits"
    ]  # fmt: skip
    assert "--bits 4" in found["rtn 0.7"]["failed"]
    assert found["rtn 6 bits"]["bits"] <= 6 and found["rtn 6 bits"]["kept"] >= 1
    assert found["rtn 60 kB"]["bytes"] <= 60_000 and found["svd 60 kB"]["bytes"] <= 60_000
    assert found["svd 0.7 macs"]["macs"] <= 0.7
    assert "parameters of the linear layers kept, by bytes of all weights, by multiply-adds" in told.out
    best = min(("svd", "rtn"), key=lambda name: found[f"{name} 6 bits"]["perplexity"])
    assert f"6 bits: {best} is best" in told.out
    with (tmp_path / "table" / "compare.csv").open() as file:
        rows = {(r["method"], r["asked"]): r for r in csv.DictReader(file)}
    assert float(rows["rtn", "6 bits"]["bits"]) == found["rtn 6 bits"]["bits"]
    page = (tmp_path / "table" / "compare.html").read_text()
    charts = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["charts"]
    axes = {name: spec["layer"][0]["encoding"]["x"]["title"] for name, spec in charts.items() if "methods" in name}
    assert {name: " ".join([title] if isinstance(title, str) else title) for name, title in axes.items()} == {
        "methods, params": "parameters of the linear layers kept",
        "methods, bytes": "size of all weights, MB",
        "methods, macs": "multiply-adds of the linear layers kept",
        "methods, bits": "bits a weight of the linear layers",
    }
    for spec in charts.values():
        assert "<svg" in vl_convert.vegalite_to_svg({**spec, "width": 400})


def test_a_comparison_in_bits_goes_on(ask, within, monkeypatch, tmp_path):
    assert ask("rtn", "0.9", "--bits", "6").code == 0
    asked = []
    monkeypatch.setattr(recipe, "_apart", lambda *args: asked.append(args[2]) or [{"failed": "asked"}] * len(args[2]))
    ask("rtn", "0.9", "--bits", "6,8")
    assert [[budget.label for budget in budgets] for budgets in asked] == [
        ["0.9", "8 bits"]
    ]  # what failed is tried again
    assert "perplexity" in cells(tmp_path)["rtn 6 bits"]


def test_what_is_done_is_not_done_again(ask, within, monkeypatch, tmp_path):
    assert ask("pivoted", "0.7").code == 0
    asked = []
    monkeypatch.setattr(recipe, "_apart", lambda *args: asked.append(args[2]) or [{"failed": "asked"}] * len(args[2]))
    told = ask("pivoted", "0.7,0.5")
    assert [[budget.amount for budget in budgets] for budgets in asked] == [[0.5]]
    assert "pivoted 0.5 failed: asked" in told.out
    assert "perplexity" in cells(tmp_path)["pivoted 0.7"]


def test_a_second_name_for_a_method_is_not_measured_again(ask, within, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(recipe, "_apart", lambda *words: asked.append(words) or recipe._cells(*words))
    assert ask("svd_llm,lord,svd", "0.7").code == 0
    found = cells(tmp_path)
    assert len(asked) == 2 and found["lord 0.7"] == found["svd_llm 0.7"] != found["svd 0.7"]


def test_a_failure_stays_in_its_cell(ask, within, tmp_path):
    told = ask("svd", "0.7,0.001")
    assert told.code == 0, told.err
    assert "perplexity" in cells(tmp_path)["svd 0.7"]
    assert "out of reach" in cells(tmp_path)["svd 0.001"]["failed"]


def test_where_everything_failed_the_exit_code_and_a_sentence_say_so(ask, within):
    told = ask("svd", "0.001")
    assert told.code == 1
    assert told.err.splitlines()[-1] == "error: Every method failed at every budget; the cells say why."


def test_what_no_method_can_reach_is_told_before_anything_slow(ask, within, tmp_path):
    told = ask("gptq", "0.7,0.6", "--work", tmp_path / "fresh")
    assert "measure" not in told.err
    found = cells(tmp_path)
    assert all("out of reach" in cell["failed"] for cell in found.values())
    assert found["gptq 0.7"]["failed"] != found["gptq 0.6"]["failed"], "each budget has its own sentence"


def test_without_names_those_are_compared_that_save_what_the_budget_counts(
    run, monkeypatch, model_folder, text_file, tiny, work, tmp_path
):
    monkeypatch.setattr(recipe, "_apart", lambda *args: [{"failed": "asked"}] * len(args[2]))
    words = ("--keep", 0.7, "--test", text_file, *SMALL, *tiny, "--work", work)
    told = run("compare", model_folder("llama"), *words, "--out", tmp_path / "table")
    compared = {key.split()[0] for key in cells(tmp_path)}
    assert {"svd", "mixed", "modegpt", "wanda"} <= compared
    (line,) = [line for line in told.err.splitlines() if line.startswith("not compared")]
    assert set(line.rpartition(": ")[2].split(", ")) == set(discover.names(methods)) - compared
    assert not {"gptq", "rtn", "awq", "squeezellm", "quantized", "structure_and_bits", "quantized_low_rank"} & compared


def test_a_crash_of_one_method_leaves_the_others(ask, monkeypatch, tmp_path):
    class Pool:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def submit(self, _work, _model, row, *_):
            if row.metric == "identity":
                raise RuntimeError("a bug")
            raise recipe.BrokenProcessPool

    monkeypatch.setattr(recipe, "ProcessPoolExecutor", Pool)
    assert ask("svd,pivoted", "0.7").code == 1
    assert cells(tmp_path)["svd 0.7"]["failed"] == "RuntimeError: a bug"
    assert "memory" in cells(tmp_path)["pivoted 0.7"]["failed"]


def test_another_protocol_needs_another_folder(ask, within, tmp_path):
    assert ask("svd", "0.7").code == 0
    before = (tmp_path / "table" / "compare.json").read_bytes()
    told = ask("svd", "0.7", "--seed", 1)
    assert told.code == 1 and "another protocol" in told.err
    assert (tmp_path / "table" / "compare.json").read_bytes() == before


def test_what_another_version_measured_does_not_stand_in_the_table(ask, within, monkeypatch):
    assert ask("svd", "0.7").code == 0
    monkeypatch.setattr(recipe, "FORMAT", 0)
    told = ask("svd", "0.6")
    assert told.code == 1 and "version of gossamer" in told.err


@pytest.mark.parametrize(
    ("methods", "keep", "said"),
    [
        ("magic", "0.7", "nothing named 'magic' in methods"),
        ("svd", "most", "'most' is not a number; write --keep as 0.9,0.8,0.6"),
        ("svd", "1.5", "needs no compression"),
        ("", "0.7", "needs methods and budgets"),
    ],
)
def test_mistakes_are_told_at_once(methods, keep, said, ask, tmp_path):
    told = ask(methods, keep)
    assert told.code == 1 and said in told.err
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(("option", "value"), [("--test-tokens", -5), ("--test-window", 1)])
def test_a_test_that_nothing_can_be_judged_by(option, value, refused, model_folder, text_file, tiny, tmp_path):
    words = ("--methods", "svd", "--keep", 0.7, "--test", text_file, *tiny, "--out", tmp_path / "table", option, value)
    assert "at least" in refused("compare", model_folder("llama"), *words, early=True)
    assert not (tmp_path / "table").exists()


def test_a_file_is_no_folder_for_a_table(refused, model_folder, text_file, tiny, tmp_path):
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "table"):
        words = ("--methods", "svd", "--test", text_file, "--out", out, *SMALL, *tiny)
        assert "is a file" in refused("compare", model_folder("llama"), *words, early=True)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_with_something_else_in_it_is_refused(ask, tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "notes.txt").write_text("mine")
    assert "holds no comparison" in ask("svd", "0.7").err
