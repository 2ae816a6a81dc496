"""The pages in a real browser: they open, draw, follow the slider, and nothing leaves them."""

import json
import shutil
import threading
from dataclasses import replace

import pytest

from gossamer import Budget, plan
from gossamer.cli.explore import LOOPBACK
from gossamer.recipes.explore import Desk, serve
from gossamer.recipes.report import report
from gossamer.reports import report_page

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e .[test]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
LOOKS = {
    "wide and light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "phone and dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """A function: URL → the page once it has drawn. At the end nothing may have gone wrong or left the machine."""
    wrong, contexts = [], []

    def opened(url, **look):
        context = browser.new_context(**(look or LOOKS["wide and light"]))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith((url, "data:")) else wrong.append(asked.url))
        page.goto(url)
        page.wait_for_selector("body[data-ready]", state="attached")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope="module")
def small(compressed):
    return compressed("llama").folder


@pytest.fixture(scope="module")
def explorer(model_folder, tiny_settings, tmp_path_factory):
    """(the address of a running explorer, its folder for plans)."""
    work, out = tmp_path_factory.mktemp("priced"), tmp_path_factory.mktemp("plans")
    plan(str(model_folder("llama")), Budget(unit="params", amount=0.6), tiny_settings, work=work)
    with serve(Desk(work, out), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}/", out
        server.shutdown()


def drawn(page):
    """The charts that hold a line or a point."""
    return [
        c.get_attribute("data-chart")
        for c in page.query_selector_all(".chart")
        if c.query_selector("svg .mark-symbol path, svg .mark-line path")
    ]


def labels(page):
    return [cell.get_attribute("aria-label") for cell in page.query_selector_all(".map > button")]


@pytest.mark.parametrize("look", LOOKS)
def test_the_report_draws(visit, small, look):
    page = visit((small / "report.html").as_uri(), **LOOKS[look])
    assert drawn(page) == ["frontier", "against", "spectrum"]
    assert len(labels(page)) == 14
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click(".weights summary")
    page.wait_for_selector(".weights tbody tr")
    assert page.locator(".weights tbody tr").count() == 14


def test_the_map_can_be_walked_by_keyboard(visit, small):
    page = visit((small / "report.html").as_uri())
    cell = page.locator('.map > button[tabindex="0"]')
    assert cell.count() == 1
    page.locator(".map > button").first.click()
    assert "layers.0.self_attn.q_proj" in page.inner_text(".picked h3")
    page.keyboard.press("ArrowRight")
    assert "layers.1.self_attn.q_proj" in page.inner_text(".picked h3")
    page.keyboard.press("ArrowDown")
    assert "layers.1.self_attn.k_proj" in page.inner_text(".picked h3")
    page.keyboard.press("ArrowRight")  # the map ends here
    assert "layers.1.self_attn.k_proj" in page.inner_text(".picked h3")
    assert page.locator('.map > button[aria-pressed="true"]').count() == 1


def test_the_spectrum_marks_a_size_that_is_not_drawn_at_its_own_loss(visit, small, tmp_path):
    """Large models' spectra draw some of the sizes only, so the chosen one may lie between two of them."""
    land, found = (json.loads((small / f"{name}.json").read_text()) for name in ("landscape", "report"))
    told = {}
    for at, weight in enumerate(land["weights"]):
        chosen = land["choices"][weight["name"]]
        rows = weight["ways"].get(chosen["structure"], [])
        weight["ways"][chosen["structure"]] = drawn_sizes = [row for row in rows if row[0] != chosen["size"]]
        if drawn_sizes and chosen["error"]:  # what is narrowed jointly has its loss at one of the weights
            told[at] = chosen["error"]
    assert told
    (tmp_path / "sparse.html").write_text(report_page.page(found, land), encoding="utf-8")
    page = visit((tmp_path / "sparse.html").as_uri())
    for at, error in told.items():
        page.evaluate(f"pick({at}, false)")
        assert page.evaluate("views.spectrum.data('chosen').map((point) => point.loss)") == [error]


def test_colours_follow_what_is_asked_for(visit, small):
    page = visit((small / "report.html").as_uri())
    seen = set()
    for by in ("kept", "loss", "structure"):
        page.check(f'input[value="{by}"]')
        cells = page.locator(".map > button")
        seen.add(tuple(cells.nth(i).evaluate("c => getComputedStyle(c).backgroundColor") for i in range(cells.count())))
        assert page.inner_text(".key")
    assert len(seen) == 3


def test_a_page_without_a_map_opens(visit, small, tmp_path):
    shutil.copy(small / "report.json", tmp_path)
    page = visit(report(tmp_path).as_uri())
    assert "No map" in page.inner_text(".note")


def test_a_map_of_560_weights_follows_a_click(visit, small, tmp_path):
    land, found = (json.loads((small / f"{name}.json").read_text()) for name in ("landscape", "report"))
    kinds = [w for w in land["weights"] if ".layers.0." in w["name"]]
    pairs = [(w, w["name"].replace(".0.", f".{i}.")) for i in range(80) for w in kinds]
    land["choices"] = {name: land["choices"][w["name"]] for w, name in pairs}
    land["weights"] = [{**w, "name": name} for w, name in pairs]
    (tmp_path / "big.html").write_text(report_page.page(found, land), encoding="utf-8")
    page = visit((tmp_path / "big.html").as_uri())
    assert len(labels(page)) == 560
    page.locator(".map > button").nth(559).click()
    assert "layers.79.mlp.down_proj" in page.inner_text(".picked h3")


def test_the_slider_moves_the_plan_and_the_button_writes_it(visit, explorer):
    address, out = explorer
    page = visit(address)
    page.wait_for_selector("#write:enabled")
    before = labels(page)
    page.locator("#amount").evaluate("(s) => { s.value = 0.5; s.dispatchEvent(new Event('input')); }")
    page.wait_for_selector("body:not(.waiting)")
    assert page.inner_text("#figure-params-2") <= "0.500"
    assert labels(page) != before
    assert drawn(page) == ["frontier", "spectrum"]
    page.click("#write")
    page.wait_for_selector("#said:has-text('Written')")
    written = json.loads((out / "plan-keep-0.5.json").read_text())
    assert all(
        f"{o['structure']}, size {o['size']}," in said
        for o, said in zip(written["choices"].values(), labels(page), strict=True)
    )
    page.click("#write")
    page.wait_for_selector("#said:has-text('exists')")


@pytest.mark.parametrize("look", LOOKS)
def test_a_choice_of_models_with_long_names_stays_on_the_page(visit, model_folder, tiny_settings, tmp_path, look):
    long = shutil.copytree(model_folder("llama"), tmp_path / f"a-{'very-' * 20}long-name")
    for seed in (0, 1):
        plan(str(long), Budget(unit="params", amount=0.6), replace(tiny_settings, seed=seed), work=tmp_path / "work")
    with serve(Desk(tmp_path / "work", tmp_path / "out"), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = visit(f"http://{LOOPBACK}:{server.server_port}/", **LOOKS[look])
        assert page.locator("option", has_text="long-name").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        server.shutdown()


def test_every_unit_has_a_range_that_can_be_planned(visit, explorer):
    page = visit(explorer[0], **LOOKS["phone and dark"])
    for unit in ("bytes", "macs", "params"):
        page.select_option("#unit", unit)
        for key in ("Home", "End"):
            page.focus("#amount")
            page.keyboard.press(key)
            page.wait_for_selector("body:not(.waiting)")
            assert page.inner_text("#said") == ""
    page.fill("#exact", "7")
    page.keyboard.press("Enter")
    page.wait_for_selector("#said:has-text('fraction')")


def test_the_explorer_answers_its_own_page_only(browser, explorer):
    address, out = explorer
    context = browser.new_context()
    assert context.request.get(address, headers={"Host": "evil.example"}).status == 403
    before = sorted(out.iterdir())
    assert context.request.post(f"{address}write", data={"unit": "params", "amount": "0.7"}).status == 403
    assert sorted(out.iterdir()) == before
    assert context.request.get(f"{address}etc").status == 404
    assert "reload" in context.request.get(f"{address}plan").json()["error"]
    context.close()
