"""The pages: made of what lies on disk, complete in one file, and clear about what is missing."""

import html
import http.client
import io
import json
import os
import re
import shlex
import shutil
import threading
from dataclasses import replace

import pytest
import vl_convert
from rich.console import Console

from gossamer import Budget, plan, settings
from gossamer.checkpoints.store import identity_digest
from gossamer.errors import WorkError
from gossamer.recipes.explore import LOOPBACK, Desk, serve
from gossamer.recipes.planning import Bundles, landscape, make_plan, remembered
from gossamer.recipes.report import report
from gossamer.reports import _charts, compare_page, explore_page, report_page, taught_page, terminal
from gossamer.reports._layers import place

UNITS = ("params", "macs", "bytes")


@pytest.fixture(scope="session")
def offer(model_folder, tiny_settings, tmp_path_factory):
    """A working folder in which one tiny model was priced, its name, and what lies there."""
    work = tmp_path_factory.mktemp("priced")
    model = str(model_folder("llama"))
    plan(model, Budget(unit="params", amount=0.6), tiny_settings, work=work)
    (note,) = work.glob("curves-*/asked-*.json")
    return work, model, remembered(note)


@pytest.fixture
def small(compressed, tmp_path):
    """A copy of a compressed folder that a test may spoil."""
    return shutil.copytree(compressed("llama").folder, tmp_path / "small")


def data_of(page):
    """What the page's script reads."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


# ── the report ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_compressing_leaves_a_page_that_asks_for_nothing_else(compressed):
    page = (compressed("llama").folder / "report.html").read_text(encoding="utf-8")
    markup = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?!#|data:)', markup)
    assert "default-src 'none'" in markup
    assert "connect-src" not in markup
    assert len(page) < 1_500_000


def test_the_page_says_in_words_what_came_out(compressed):
    made = compressed("llama")
    page = (made.folder / "report.html").read_text(encoding="utf-8")
    found = made.document("report.json")
    for said in (
        f"{found['score']['divergence']:.4f}",
        f"{made.done.report.score.perplexity:.2f}",
        found["asked"]["digest"],
        found["asked"]["calibration"]["ids_sha256"],
        found["machine"]["torch"],
        "No quantized model of at most this size stands beside it",
        f"read on this machine in windows of {found['speed']['window']}",
    ):
        assert said in page


def test_the_map_shows_the_plan(compressed):
    made = compressed("llama")
    shown, planned = data_of((made.folder / "report.html").read_text()), made.document("plan.json")["choices"]
    assert {n: (o["structure"], o["size"], o["error"]) for n, o in shown["choices"].items()} == {
        n: (o["structure"], o["size"], o["predicted"]) for n, o in planned.items()
    }
    assert [w["name"] for w in shown["weights"]] == list(planned)


def test_every_chart_is_one_that_the_library_accepts(compressed):
    for name, spec in data_of((compressed("llama").folder / "report.html").read_text())["charts"].items():
        assert "<svg" in vl_convert.vegalite_to_svg({**spec, "width": 400}), name


@pytest.fixture(scope="session")
def quantized(run, model_folder, tiny, work, tmp_path_factory):
    """A folder of the same model, quantized, judged on the same text."""
    out = tmp_path_factory.mktemp("quantized") / "four"
    told = run("compress", model_folder("llama"), "--bits", "6", "--method", "rtn", *tiny, "--work", work, "--out", out)
    assert told.code == 0, told.err
    return out


def cells_of(page, row):
    """The cells of a row of the page's first table."""
    found = re.search(rf'<tr><th scope="row">{row}</th>(.*?)</tr>', page)[1]
    return [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?</td>", found)]


def _but_kept(cells):
    return cells[:2] + cells[3:]


def test_what_else_was_measured_stands_beside(small, quantized, run):
    found, other = (json.loads((folder / "report.json").read_text()) for folder in (small, quantized))
    told = run("report", small, "--beside", quantized)
    assert told.code == 0, told.err
    page = (small / "report.html").read_text()
    assert "No quantized model" not in page
    assert [c.split()[0] for c in _but_kept(cells_of(page, "whole model, size"))] == [
        f"{o['bytes'] / 1e3:.2f}" for o in (found["dense_total"], found["small_total"], other["small_total"])
    ]
    assert _but_kept(cells_of(page, "KL divergence, nats a token"))[1:] == [
        f"{o['score']['divergence']:.4f}" for o in (found, other)
    ]
    assert len([c for c in cells_of(page, "tokens a second, reading") if c != "–"]) == 4
    assert "four" in [m["what"].split(",")[0] for m in frontier_marks(page)]
    taken = other["small"]["params"] / found["dense"]["params"]
    assert re.search(rf"four, measured [0-9.e-]+ at {taken:g} of", page), page[page.index("four, meas") :][:200]
    assert "structures asymmetric" in page or "structures symmetric" in page


def frontier_marks(page):
    (layer,) = (layer for layer in data_of(page)["charts"]["frontier"]["layer"] if layer["data"]["name"] == "marks")
    return layer["data"]["values"]


def test_what_is_kept_of_a_weight_is_counted_in_bytes_where_numbers_become_shorter(small, quantized):
    """Of the parameters a quantized weight keeps all, and its scales on top."""
    for folder, kept_in in ((small, "params"), (quantized, "bytes")):
        data = data_of((folder / "report.html").read_text())
        assert data["kept_in"] == kept_in
        seen = 0
        for weight in data["weights"]:
            chosen = data["choices"][weight["name"]]
            shares = {size: share for size, share, _ in weight["ways"].get(chosen["structure"], ())}
            if chosen["size"] in shares:
                seen += 1
                assert shares[chosen["size"]] == pytest.approx(
                    chosen["cost"][kept_in] / weight["cost"][kept_in], rel=1e-3
                )
            assert all(share < 1 for share in shares.values()) or kept_in == "params"
        assert seen


def test_speed_of_another_machine_is_not_set_beside(small, quantized, tmp_path):
    other = shutil.copytree(quantized, tmp_path / "other")
    told = json.loads((other / "report.json").read_text())
    told["machine"]["system"] = "elsewhere"
    (other / "report.json").write_text(json.dumps(told))
    page = report(small, beside=[other]).read_text()
    assert cells_of(page, "tokens a second, reading")[3] == "–"
    assert "or elsewhere" in page


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        (("asked", "digest"), "other", "not made from the same model"),
        (("score", "protocol", "ids_sha256"), "other", "only one protocol compares"),
        (("score", "protocol", "window"), 8, "only one protocol compares"),
        (("score",), None, "other was written by another version"),
        (("asked", "budget"), None, "other was written by another version"),
        (("small_total", "bytes"), "many", "other was written by another version"),
    ],
)
def test_what_was_measured_otherwise_cannot_stand_beside(entry, value, said, small, quantized, refused, tmp_path):
    other = shutil.copytree(quantized, tmp_path / "other")
    told = at = json.loads((other / "report.json").read_text())
    for key in entry[:-1]:
        at = at[key]
    at[entry[-1]] = value
    (other / "report.json").write_text(json.dumps(told))
    before = (small / "report.html").read_text()
    assert said in refused("report", small, "--beside", other)
    assert (small / "report.html").read_text() == before


def test_layers_are_not_set_beside_where_other_weights_were_counted(small, quantized, tmp_path):
    other = shutil.copytree(quantized, tmp_path / "other")
    told = json.loads((other / "report.json").read_text())
    told["asked"]["settings"]["embeddings"] = True
    (other / "report.json").write_text(json.dumps(told))
    page = report(small, beside=[other]).read_text()
    assert cells_of(page, "linear layers, size")[3] == "–" != cells_of(page, "whole model, size")[3]
    assert "other weights were counted" in page
    assert "other" not in [m["what"].split(",")[0] for m in frontier_marks(page)]


def test_only_a_compressed_model_stands_beside(small, refused, tmp_path):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "compare.json").write_text(json.dumps({"cells": {}}))
    assert "holds a comparison" in refused("report", small, "--beside", tmp_path / "table")
    assert "put others beside" in refused("report", tmp_path / "table", "--beside", small)
    assert "no folder" in refused("report", small, "--beside", tmp_path / "nowhere")


def test_the_page_says_how_to_measure_the_baseline_that_it_lacks(compressed, run, work, tmp_path):
    """The command on the page is one that can be run, and its folder may stand beside."""
    made = compressed("llama")
    page = (made.folder / "report.html").read_text()
    first = html.unescape(re.search(r"draw it here:</p><pre><code>(.*?)\n", page)[1])
    words = shlex.split(first)
    words[words.index("--out") + 1] = str(tmp_path / "quantized")
    told = run(*words[1:], "--work", work)
    assert told.code == 0, told.err
    report(made.folder, tmp_path / "page.html", beside=[tmp_path / "quantized"])
    assert "quantized" in (tmp_path / "page.html").read_text()
    assert "No quantized model" not in (tmp_path / "quantized" / "report.html").read_text()


# ── what a training leaves ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session", params=["heal", "refine"])
def taught(request, compressed, run, work, tmp_path_factory):
    """(the step, its folder)."""
    out = tmp_path_factory.mktemp(request.param) / "taught"
    told = run(request.param, compressed("llama").folder, "--work", work, "--out", out)
    assert told.code == 0, told.err
    return request.param, out


def test_a_training_has_a_page(taught, run, tmp_path):
    step, folder = taught
    told = run("report", folder, "--out", tmp_path / "again.html")
    assert told.code == 0, told.err
    page = (tmp_path / "again.html").read_text()
    assert page == (folder / "report.html").read_text()
    found = json.loads((folder / f"{step}.json").read_text())
    assert cells_of(page, "KL divergence, nats a token") == [
        "0", *(f"{found[when]['divergence']:.4f}" for when in ("before", "after"))
    ]  # fmt: skip
    assert [s["step"] for s in found["history"]] == ["compress", step]
    for s in found["history"]:
        assert s["calibration"]["ids_sha256"] in page
        assert f"<li>{s['step']}: " in page


def test_a_trained_model_may_stand_beside(taught, compressed, tmp_path):
    step, folder = taught
    page = report(compressed("llama").folder, tmp_path / "page.html", beside=[folder]).read_text()
    found = json.loads((folder / f"{step}.json").read_text())
    assert cells_of(page, "KL divergence, nats a token")[3] == f"{found['after']['divergence']:.4f}"
    assert cells_of(page, "linear layers, size")[3] == "–"
    assert f"; then {step}" in page


def test_the_command_on_the_page_asks_for_the_same(compressed, run, tmp_path, work):
    made = compressed("llama")
    words = shlex.split(report_page.command(made.document("report.json")))
    assert words[0] == "gossamer" and words[words.index("--out") + 1] == "again"
    words[words.index("--out") + 1] = str(tmp_path / "again")
    told = run(*words[1:], "--work", work)
    assert told.code == 0, told.err
    again = json.loads((tmp_path / "again" / "plan.json").read_text())
    assert again == made.document("plan.json")


def test_the_command_names_the_text_that_judged_even_if_it_is_the_one_read(run, model_folder, tiny, work, tmp_path):
    """The whole of a text and the end of it are two protocols."""
    words = ("--keep", "0.6", *tiny, "--test", tiny[1], "--work", work, "--out", tmp_path / "out")
    told = run("compress", model_folder("llama"), *words)
    assert told.code == 0, told.err
    again = shlex.split(report_page.command(json.loads((tmp_path / "out" / "report.json").read_text())))
    assert again[again.index("--test") + 1] == tiny[1]


def test_a_plan_that_was_applied_is_applied_again(compressed, run, tmp_path, work):
    """No budget leads to a plan that was edited: the page says how to carry out the plan in its folder."""
    made = compressed("llama").document("plan.json")
    first = next(iter(made["choices"]))
    made["choices"][first] = {"structure": "dense", "size": 32}
    (tmp_path / "edited.json").write_text(json.dumps(made))
    told = run("apply", tmp_path / "edited.json", "--out", tmp_path / "out", "--work", work)
    assert told.code == 0, told.err
    words = shlex.split(report_page.command(json.loads((tmp_path / "out" / "report.json").read_text())))
    assert words == ["gossamer", "apply", str(tmp_path / "out" / "plan.json"), "--out", "again"]


def test_only_a_page_of_its_own_is_drawn_over(small, refused, tmp_path):
    (tmp_path / "precious.txt").write_text("precious")
    assert "precious.txt exists" in refused("report", small, "--out", tmp_path / "precious.txt")
    assert (tmp_path / "precious.txt").read_text() == "precious"
    assert "cannot be looked at" in refused("report", small, "--out", tmp_path / ("a" * 300))
    assert report(small, small / "report.html") == small / "report.html"


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_every_kind_of_model_has_a_page(kind, compressed):
    page = (compressed(kind).folder / "report.html").read_text(encoding="utf-8")
    assert ("Perplexity goes from" in page) == (kind == "gpt2")
    for spec in data_of(page)["charts"].values():
        assert "<svg" in vl_convert.vegalite_to_svg({**spec, "width": 400})


def test_where_the_metric_counts_no_loss_nothing_measured_is_drawn_beside_it(run, model_folder, tiny, work, tmp_path):
    words = ("compress", model_folder("llama"), "--bytes", "90kB", "--method", "svd", *tiny, "--work", work)
    assert run(*words, "--out", tmp_path / "out").code == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "counts no loss of the model" in page
    assert list(data_of(page)["charts"]) == ["spectrum", "frontier"]
    assert "measured" not in json.dumps(data_of(page)["charts"]["frontier"])


def test_report_draws_the_same_page_from_the_folder(small, run):
    before = (small / "report.html").read_text()
    (small / "report.html").unlink()
    told = run("report", small)
    assert told.code == 0, told.err
    assert told.out.strip() == str(small / "report.html")
    assert (small / "report.html").read_text() == before


EVIL = "</script><img/src=x/onerror=alert(1)>"
NAMED = ("cells", "choices", "predicted", "rivals", "ways", "samples")


def marked(found, at=""):
    """The same with markup in every name and every text."""
    if isinstance(found, dict):
        return {f"{k}{EVIL}" if at in NAMED else k: marked(v, k) for k, v in found.items()}
    if isinstance(found, list):
        return [marked(v, at) for v in found]
    return f"{found}{EVIL}" if isinstance(found, str) and at not in ("unit", "digest", "kept_in") else found


def test_no_name_or_text_can_become_markup(compressed):
    found, land = (marked(compressed("llama").document(f"{name}.json")) for name in ("report", "landscape"))
    found["notes"], found["speed"]["window"] = [EVIL], EVIL
    taught = {**found, "history": [{**found["asked"], "step": EVIL, "model": EVIL}], "name": EVIL, "windows": EVIL}
    taught |= {"before": found["score"], "after": found["score"]}
    cells = {"svd 0.6": cell(20.0, notes=["why"]), "svd 0.5": {"failed": "why"}, "other 0.6": cell(30.0)}
    for page in (
        report_page.page(found, land),
        report_page.page(found, None, missing=EVIL, beside={EVIL: found}),
        taught_page.page("heal", taught),
        compare_page.page(marked({"cells": {f"{key.replace(' ', f'{EVIL} ')}": c for key, c in cells.items()}})),
        explore_page.page(land, layers="linear layers", of=EVIL, others={EVIL: EVIL, "other": EVIL}, token=EVIL),
    ):
        assert html.escape(EVIL) in page
        assert "<img" not in page.partition("</header>")[2].partition("<script")[0]
        assert page.count("</script>") == 3


# ── what is missing or wrong ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_without_files_is_refused(refused, tmp_path):
    assert "no report.json and no heal.json" in refused("report", tmp_path)
    assert "no folder" in refused("report", tmp_path / "nowhere")


def test_a_page_without_its_map_says_what_is_missing(small, run):
    land = json.loads((small / "landscape.json").read_text())
    empty = {**land, "weights": [{**weight, "ways": None} for weight in land["weights"]]}
    for spoil in (
        lambda p: p.write_text('{"model": "ll'),
        lambda p: p.write_text("null"),
        lambda p: p.write_text("[" * 100_000),
        lambda p: p.write_text(json.dumps(empty)),
        lambda p: p.unlink(),
    ):
        spoil(small / "landscape.json")
        assert run("report", small).code == 0
        assert "No map and no frontier: landscape.json is" in (small / "report.html").read_text()


def test_half_written_and_foreign_files_are_refused(small, refused):
    land = json.loads((small / "landscape.json").read_text())
    (small / "landscape.json").write_text(json.dumps({**land, "digest": "other"}))
    assert "same model" in refused("report", small)
    land["choices"].popitem()
    (small / "landscape.json").write_text(json.dumps(land))
    assert "damaged" in refused("report", small)
    (small / "landscape.json").unlink()
    found = json.loads((small / "report.json").read_text())
    del found["score"]
    (small / "report.json").write_text(json.dumps(found))
    assert "another version" in refused("report", small)
    for text in ('{"model":', "[" * 100_000):
        (small / "report.json").write_text(text)
        told = refused("report", small)
        assert "cannot be read" in told and "make it anew in another folder" in told


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found["dense"].update(params=0),
        lambda found: found["speed"].update(dense=0),
        lambda found: found["score"].update(divergence=float("inf")),
    ],
)
def test_figures_that_are_none_are_refused(spoil, small, refused):
    found = json.loads((small / "report.json").read_text())
    spoil(found)
    (small / "report.json").write_text(json.dumps(found))
    assert "does not have what the page shows" in refused("report", small)


# ── the frontier and the offer ────────────────────────────────────────────────────────────────────────────────────────


def test_prices_on_disk_make_the_plan_that_the_model_makes(offer, tiny_settings):
    work, model, found = offer
    for budget in (*(Budget(unit="params", amount=k) for k in (0.35, 0.6, 0.85)), Budget(unit="bytes", amount=90_000)):
        assert make_plan(found, budget, "knapsack") == plan(model, budget, tiny_settings, work=work)


@pytest.mark.parametrize("method", ["modegpt", "asvd", "slicegpt", "cospadi_shared", "two_sided"])
def test_so_do_those_of_methods_that_look_at_more(method, model_folder, tiny_settings, tmp_path):
    open_ones = {k: getattr(tiny_settings, k) for k in ("text", "tokens", "window")}
    chosen = settings(method, **open_ones, tie=method == "two_sided")
    budget = Budget(unit="params", amount=0.7)
    made = plan(str(model_folder("llama")), budget, chosen, work=tmp_path)
    (note,) = tmp_path.glob("curves-*/asked-*.json")
    assert make_plan(remembered(note), budget, chosen.allocator) == made
    assert data_of(Desk(tmp_path, tmp_path).page())["choices"].keys() == made.choices.keys()


@pytest.mark.parametrize(
    ("chosen", "units"),
    [({"name": "gptq"}, ["bytes", "bits"]), ({"name": "mixed", "structures": ("neurons",)}, None)],
)
def test_explore_offers_the_units_in_which_there_is_room(chosen, units, model_folder, tiny_settings, tmp_path):
    open_ones = {k: getattr(tiny_settings, k) for k in ("text", "tokens", "window")}
    total = sum(f.stat().st_size for f in model_folder("llama").glob("*.safetensors"))
    budget = Budget(unit="bytes", amount=0.8 * total)
    plan(str(model_folder("llama")), budget, settings(**chosen, **open_ones), work=tmp_path)
    desk = Desk(tmp_path, tmp_path)
    shown = data_of(desk.page())
    assert [slider["name"] for slider in shown["units"]] == (units or ["params", "macs", "bytes", "bits"])
    for slider in shown["units"]:
        for end in ("min", "start", "max"):
            answer = desk.answer({"of": shown["of"], "unit": slider["name"], "amount": str(slider[end])})
            assert answer["x"] <= slider[end]


@pytest.mark.parametrize("unit", UNITS)
def test_no_plan_lies_below_the_frontier(offer, unit):
    found = offer[2]
    budget = Budget(unit="params", amount=0.6)
    line = landscape(found, [make_plan(found, budget, "knapsack")]).frontiers[unit]
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    for amount, least in line[1:-1:7]:
        made = make_plan(found, Budget(unit=unit, amount=amount * (1 + 1e-4)), "knapsack")
        assert made.predicted >= least * (1 - 1e-2) - 1e-9
        assert made.bound <= least * (1 + 1e-3) + 1e-9


def test_a_landscape_is_small_however_many_sizes_there_are(offer):
    found = offer[2]
    land = landscape(found, [make_plan(found, Budget(unit="params", amount=0.6), "knapsack")])
    assert all(len(points) <= 100 for points in land.frontiers.values())
    assert all(len(points) <= 24 for weight in land.weights for points in weight.ways.values())


@pytest.mark.parametrize(
    ("names", "layers", "kinds", "where"),
    [
        (
            ["model.layers.0.a.q", "model.layers.0.b.q", "model.layers.1.a.q"],
            ["0", "1"],
            ["a.q", "b.q"],
            [(0, 0), (0, 1), (1, 0)],
        ),
        (["h.3.attn.c", "score"], ["3", "other"], ["c", "score"], [(0, 0), (1, 1)]),
        (["enc.0.w", "dec.0.w"], ["enc 0", "dec 0"], ["w"], [(0, 0), (1, 0)]),
        (["l.0.experts.0.w", "l.0.experts.1.w"], ["0"], ["0.w", "1.w"], [(0, 0), (0, 1)]),
        ([], [], [], []),
    ],
)
def test_a_weight_finds_its_place_by_its_name(names, layers, kinds, where):
    assert place(names) == (layers, kinds, where)


# ── explore ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_explore_shows_and_writes_what_plan_writes(offer, run, tiny, tmp_path):
    work, model, _ = offer
    desk = Desk(work, tmp_path)
    of = data_of(desk.page())["of"]
    for option, unit, amount in (("--keep", "params", "0.55"), ("--macs", "macs", "0.7"), ("--bytes", "bytes", "0.09")):
        asked = {"of": of, "unit": unit, "amount": amount}
        told = run(
            "plan",
            model,
            option,
            amount + "MB" * (unit == "bytes"),
            "--out",
            tmp_path / f"{unit}.json",
            "--work",
            work,
            *tiny,
        )
        assert told.code == 0, told.err
        expected = json.loads((tmp_path / f"{unit}.json").read_text())
        assert json.loads((tmp_path / desk.write(asked)["path"]).read_text()) == expected
        shown = desk.answer(asked)["choices"]
        assert {n: (o["structure"], o["size"]) for n, o in shown.items()} == {
            n: (o["structure"], o["size"]) for n, o in expected["choices"].items()
        }


def test_plans_that_share_their_bundles_are_those_made_alone(offer):
    """`explore` works out once what no budget changes; its plans must be those of `gossamer plan` all the same."""
    found = offer[2]
    shared = Bundles(found, "knapsack")
    for unit, amount in (("params", 0.4), ("params", 0.75), ("macs", 0.5), ("bits", 16.0), ("bits", 24.0)):
        budget = Budget(unit=unit, amount=amount)
        assert make_plan(found, budget, "knapsack", shared) == make_plan(found, budget, "knapsack")
    first = [make_plan(found, Budget(unit="params", amount=0.6), "knapsack")]
    assert landscape(found, first, shared) == landscape(found, first)


def test_explore_says_which_layers_a_budget_counts(model_folder, tiny_settings, tmp_path):
    chosen = replace(tiny_settings, structures=("low_rank",), embeddings=True)
    plan(str(model_folder("llama")), Budget(unit="params", amount=0.6), chosen, work=tmp_path)
    page = Desk(tmp_path, tmp_path).page()
    assert "parameters of the linear layers and embeddings kept" in page
    assert page.count("linear layers") == page.count("linear layers and embeddings")


def test_explore_refuses_what_it_cannot_plan_with(offer, refused, tmp_path):
    assert "holds no prices" in refused("explore", tmp_path)
    shutil.copytree(offer[0], tmp_path / "work")
    (note,) = (tmp_path / "work").glob("curves-*/asked-*.json")
    whole = json.loads(note.read_text())
    for spoilt, said in (
        ({**whole, "format": 0}, "another version"),
        ({name: value for name, value in whole.items() if name != "checksum"}, "another version"),
        ({**whole, "itemsize": 8}, "checksum does not match; delete it and run 'gossamer plan' again"),
        (sealed({**whole, "sites": [{}]}), "damaged"),
    ):
        note.write_text(json.dumps(spoilt))
        assert re.search(said, refused("explore", tmp_path / "work"))
    note.write_text(json.dumps(whole))
    assert "There is no folder" in refused("explore", tmp_path / "nowhere")
    assert "cannot be looked at" in refused("explore", tmp_path / "work", "--out", "a" * 300)
    identity = note.parent / "identity.json"
    for spoilt, said in (("{}", "is not what its identity.json says"), ("{", "cannot be read")):
        identity.write_text(spoilt)
        assert said in refused("explore", tmp_path / "work")
    note.parent.rename(f"{note.parent}.partial")
    assert "holds no prices" in refused("explore", tmp_path / "work")


def sealed(note):
    note = {name: value for name, value in note.items() if name != "checksum"}
    return {**note, "checksum": identity_digest(note)}


def test_explore_leaves_out_what_it_cannot_read(offer, tiny_settings, tmp_path):
    work = shutil.copytree(offer[0], tmp_path / "work")
    (note,) = work.glob("curves-*/asked-*.json")
    plan(offer[1], Budget(unit="params", amount=0.6), replace(tiny_settings, seed=1), work=work)
    (other,) = (path.parent for path in work.glob("curves-*/asked-*.json") if path != note)
    (other / "asked-older.json").write_text(json.dumps({**json.loads(note.read_text()), "format": 0}))
    next(path for path in other.glob("asked-*.json") if "older" not in path.name).rename(other / "asked-newer.json")
    (other / "curves.json").unlink()
    os.utime(other / "asked-newer.json", (2e9, 2e9))
    page = Desk(work, tmp_path).page()
    assert data_of(page)["of"] == note.stem.removeprefix("asked-")
    assert re.search("Left out: [^<]*asked-older.json was written by another version", page)
    assert re.search("Left out: [^<]*curves.json cannot be read", page)
    assert "of-model" not in page.partition("<script")[0]


def test_what_was_only_inspected_or_not_finished_is_not_offered(run, model_folder, tiny, tmp_path, monkeypatch):
    told = run("inspect", model_folder("llama"), "--method", "pivoted", *tiny, "--work", tmp_path)
    assert told.code == 0, told.err

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gossamer.recipes.probing._rises", stop)
    words = ("--keep", "0.6", "--method", "asvd", *tiny, "--work", tmp_path, "--out", tmp_path / "plan.json")
    assert run("plan", model_folder("llama"), *words).code == 130
    assert not (tmp_path / "plan.json").exists()
    assert len(list(tmp_path.glob("curves-*/curves.json"))) == 2
    assert not list(tmp_path.glob("curves-*/asked-*.json"))


@pytest.fixture
def asking(offer, tmp_path):
    """(what asks the explorer over HTTP, its desk, its folder for plans); the first gives status and body."""
    desk = Desk(offer[0], tmp_path / "plans")
    with serve(desk, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(verb, path, body=None, **headers):
            line = http.client.HTTPConnection(LOOPBACK, server.server_port, timeout=60)
            line.request(verb, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = line.getresponse()
            return answer.status, answer.read().decode()

        yield ask, desk, tmp_path / "plans"
        server.shutdown()


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 404), ("localhost:80", 404), ("evil.example", 403), ("evil.example:80", 403), ("", 403)],
)
def test_the_explorer_answers_under_its_own_name_only(host, status, asking):
    assert asking[0]("GET", "/nothing", Host=host)[0] == status


def test_the_explorer_answers_whatever_is_sent(asking, offer, capfd):
    ask, desk, plans = asking
    (of,) = (note.stem.removeprefix("asked-") for note in offer[0].glob("curves-*/asked-*.json"))
    asked, token = {"of": of, "unit": "params", "amount": "0.6"}, {"X_Gossamer": desk.token}
    assert ask("POST", "/write", json.dumps(asked))[0] == 403
    assert ask("POST", "/write", json.dumps(asked), X_Gossamer="\u00e9")[0] == 403
    assert ask("POST", "/elsewhere", json.dumps(asked), **token)[0] == 404
    assert ask("GET", "ftp://[")[0] == ask("POST", "ftp://[", **token)[0] == 404
    for body, more in (
        ("{}", {"Content_Length": "two"}),
        (json.dumps({**asked, "of": [of]}), {}),
        (json.dumps({**asked, "amount": []}), {}),
        ("[]", {}),
        ("{", {}),
        ("[" * 9_000, {}),
    ):
        status, told = ask("POST", "/write", body, **token, **more)
        assert status == 200
        assert "reload the page" in json.loads(told)["error"]
    assert not plans.exists()
    told = json.loads(ask("POST", "/write", json.dumps({**asked, "amount": " 0.6\n"}), **token)[1])
    assert told["path"] == str(plans / "plan-keep-0.6.json")
    assert shlex.split(told["command"])[-2:] == ["--work", str(offer[0])]
    assert capfd.readouterr().err == ""


# ── the terminal ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_in_a_pipe_a_row_is_a_line(run, model_folder, tiny, work, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    told = run("inspect", model_folder("llama"), *tiny, "--work", work)
    assert told.code == 0, told.err
    rows = [line for line in told.out.splitlines() if "_proj" in line]
    assert len(rows) == 14
    assert all("model.layers." in row for row in rows)
    assert told.out == "".join(f"{line.rstrip()}\n" for line in told.out.splitlines())


@pytest.mark.parametrize("width", [80, 200])
def test_on_a_terminal_the_table_fits(width, offer):
    found = offer[2]
    screen = Console(width=width, force_terminal=True, file=io.StringIO(), color_system=None)
    sites = [replace(s, name=s.name.replace("model.layers.1.", "model.layers.31.")) for s in found.sites]
    terminal.sites(sites, found.curves, (75, 50, 25), "nats per token", (), screen)
    rows = [line for line in screen.file.getvalue().splitlines() if "_proj" in line]
    assert len(rows) == 14  # none is folded
    assert all(len(row) <= width for row in rows)
    assert ("model.layers.0" in rows[0]) == (width == 200)


def test_json_is_all_that_is_printed(run, model_folder, tiny, work, tmp_path):
    model = model_folder("llama")
    told = run("inspect", model, *tiny, "--work", work, "--json", "--quiet")
    layers = json.loads(told.out)["layers"]
    assert len(layers) == 14
    assert {k: layers[0]["options"][0][k] for k in ("structure", "size")} == {"structure": "dense", "size": 32}
    assert not [line for line in told.err.splitlines() if re.fullmatch(r"[a-z ]+: \d+", line)]
    told = run("compress", model, "--keep", "0.6", *tiny, "--work", work, "--out", tmp_path / "out", "--json")
    assert json.loads(told.out) == json.loads((tmp_path / "out" / "report.json").read_text())
    told = run("evaluate", tmp_path / "out", "--window", "32", "--work", work, "--json")
    assert json.loads(told.out)["score"]["divergence"] > 0


def test_quiet_prints_nothing(run, model_folder, tiny, work, tmp_path):
    told = run(
        "plan", model_folder("llama"), "--keep", "0.6", *tiny, "--work", work, "--out", tmp_path / "p", "--quiet"
    )
    assert told.code == 0, told.err
    assert told.out == ""
    told = run("apply", tmp_path / "p", "--work", work, "--out", tmp_path / "out", "--quiet")
    assert told.code == 0, told.err
    assert told.out == ""


# ── compare ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_comparison_in_several_units_has_a_chart_for_each():
    cells = {
        "a 0.6": cell(20.0), "b 0.6": {"failed": "takes no fewer parameters"},
        "a 4 bits": cell(30.0, bits=3.9), "b 4 bits": cell(12.0, bits=4.0),
    }  # fmt: skip
    page = compare_page.page({"cells": cells})
    assert "At 0.6: a is best. At 4 bits: b is best." in page
    drawn = {name: spec["data"]["values"] for name, spec in data_of(page)["charts"].items() if "methods" in name}
    assert [(v["what"], v["x"]) for v in drawn["methods, params"]] == [("a", 0.6)]
    assert [(v["what"], v["x"]) for v in drawn["methods, bits"]] == [("a", 3.9), ("b", 4.0)]
    assert '<th scope="col">4 bits</th>' in page


@pytest.mark.parametrize("ends", [(0.9, 1.2), (200, 700), (23.0, 24.5), (1.0, 9.0), (1.0, 80.0), (1e-6, 3.0)])
def test_every_logarithmic_axis_has_numbers(ends):
    inside = [tick for tick in _charts._ticks(ends) if ends[0] <= tick <= ends[1]]
    assert 3 <= len(inside) <= 13
    assert inside == sorted(inside)


def cell(perplexity, **more):
    protocol = {"source": "t", "windows": 2, "window": 8, "ids_sha256": "0", "dtype": "float32"}
    return {
        "kept": 0.6, "perplexity": perplexity, "dense_perplexity": 10.0, "divergence": 0.2, "predicted": 0.1,
        "unit": "nats per token", "by_window": [2.0, 2.1], "protocol": protocol,
        "machine": {"system": "here", "threads": 2, "torch": "2"}, **more,
    }  # fmt: skip


def test_a_comparison_of_encoders_says_that_it_shows_divergences():
    cells = {"a 0.6": {"failed": "no memory"}, "b 0.6": {**cell(None), "dense_perplexity": None}}
    assert terminal.what_is_compared(cells).startswith("divergence from the dense model by parameters")
    assert "divergence from the dense model by parameters" in compare_page.page({"cells": cells})


def test_a_comparison_names_the_winner_and_keeps_failures_in_their_cell():
    cells = {"a 0.6": cell(20.0), "b 0.6": cell(15.0, by_window=[1.5, 1.7]), "c 0.6": {"failed": "no memory"}}
    page = compare_page.page({"cells": cells})
    assert "At 0.6: b is best." in page
    assert '<td class="best">15.00 ★</td>' in page
    assert "<td>failed</td>" in page
    assert "<li>c 0.6: no memory</li>" in page
    assert "a +0.450" in page
    for spec in data_of(page)["charts"].values():
        assert "<svg" in vl_convert.vegalite_to_svg({**spec, "width": 400})


def test_a_comparison_has_each_note_once_on_top_with_the_methods_it_is_about():
    few, split = "Calibrated on 8 tokens.", "Split <otherwise>."
    cells = {
        "a 0.6": cell(20.0, notes=[few]), "a 0.3": cell(30.0, notes=[few]), "b 0.6": {"failed": "no memory"},
        "c 0.6": cell(15.0, notes=[few, split]), "d 0.6": cell(16.0, notes=[split]),
    }  # fmt: skip
    assert terminal.remarks(cells) == [f"a, c: {few}", f"c, d: {split}"]
    top = compare_page.page({"cells": cells}).partition("<table")[0]
    assert f'<p class="note">a, c: {few}</p>\n<p class="note">c, d: Split &lt;otherwise&gt;.</p>' in top
    del cells["d 0.6"]
    assert terminal.remarks(cells) == [f"all: {few}", f"c: {split}"]
    assert terminal.remarks({"a 0.6": cells["a 0.6"]}) == [f"a: {few}"]


def test_what_is_hopeless_does_not_press_the_rest_of_a_chart_together():
    """It is named in words, has no line in the legend, and the axis ends below it."""
    cells = {
        "a 0.6": cell(20.0),
        "a 0.3": cell(2e3, kept=0.3),
        "b 0.6": cell(15.0),
        "c 0.6": cell(1e6),
        "d 0.6": cell(30.0),
    }
    page = compare_page.page({"cells": cells})
    assert "Beyond the chart, at more than 20 times that: a, c." in page
    spec = data_of(page)["charts"]["methods, params"]
    there = spec["layer"][1]["encoding"]
    assert there["y"]["scale"]["domain"][1] < 200
    assert there["color"]["legend"]["values"] == ["a", "b", "d"]
    svg = vl_convert.vegalite_to_svg({**spec, "width": 400})
    assert {name: f">{name}<" in svg for name in "abcd"} == {"a": True, "b": True, "c": False, "d": True}


def test_a_comparison_in_which_all_failed_is_a_page_too(tmp_path):
    (tmp_path / "compare.json").write_text(json.dumps({"cells": {"a 0.6": {"failed": "why <b>"}}}))
    assert "why &lt;b&gt;" in report(tmp_path).read_text()
    (tmp_path / "compare.json").write_text(json.dumps({"rows": 1}))
    with pytest.raises(WorkError, match="another version"):
        report(tmp_path)
