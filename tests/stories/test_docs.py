"""The pages are true: their Python runs, their commands run and print what they show, their links lead somewhere."""

import doctest
import importlib
import pkgutil
import re
import shlex
import shutil
from contextlib import chdir
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import typer
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

import gossamer.cli
from gossamer import discover, methods
from gossamer.recipes import compare

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))
LINKING = (*PAGES, "CONTRIBUTING.md")
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PROMPT = "$ "
every_page = pytest.mark.parametrize("page", PAGES)
linking_page = pytest.mark.parametrize("page", LINKING)


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


# ── what the pages do ─────────────────────────────────────────────────────────────────────────────────────────────────


class Shell:
    """Evaluates a block of commands: `gossamer …` runs in this process, `ls` and `echo $?` do what they do.

    A command must end with code 0, unless `echo $?` or an output that begins with "error: " follows it. What the block
    shows as output must be there, `...` standing for anything; `compares` turns that off.
    """

    def __init__(self, run, compares):
        self.run = run
        self.compares = compares
        self.ran = 0

    def __call__(self, example):
        steps = self.steps(example.parsed)
        code = 0
        for (line, shown), (following, _) in pairwise([*steps, ("", "")]):
            said = self.said(line, code)
            if said is None:
                continue
            code, text = said
            self.ran += 1
            fails = following == "echo $?" or shown.startswith("error: ")
            assert (code != 0) if shown.startswith("error: ") else (code == 0 or fails), f"{line}: {code}\n{text}"
            if self.compares and not doctest.OutputChecker().check_output(shown, text, LOOSE):
                raise AssertionError(f"{line}\nthe page shows:\n{shown}\nthe command said:\n{text}")

    @staticmethod
    def steps(source):
        """(command, the output shown below it); a backslash at the end of a line goes on."""
        steps = []
        for line in source.replace("\\\n", " ").splitlines():
            if line.startswith(PROMPT):
                steps.append((line.removeprefix(PROMPT).strip(), ""))
            elif steps:
                steps[-1] = (steps[-1][0], f"{steps[-1][1]}{line}\n")
        return steps

    def said(self, line, before):
        words = shlex.split(line, comments=True)
        if line == "echo $?":
            return 0, f"{before}\n"
        if words[0] == "ls":
            return 0, "".join(f"{p.name}\n" for p in sorted(Path(words[1]).iterdir()))
        if words[0] != "gossamer":
            return None
        told = self.run(*words[1:])
        return told.code, told.out + told.err


def commands(shell):
    """Finds blocks of commands: ```console with output, ```bash without a prompt, and unnamed ones with a prompt."""

    def parser(document):
        for region in RawFencedCodeBlockLexer(re.compile(r"(?P<language>console|bash|)$\n", re.MULTILINE))(document):
            source = str(region.lexemes["source"])
            if region.lexemes["language"] == "bash":
                source = re.sub(r"^(?=[^\s#])", PROMPT, source, flags=re.MULTILINE)
            region.parsed, region.evaluator = source, shell
            yield region

    return parser


@pytest.fixture
def place(model_folder, tmp_path, monkeypatch):
    """A folder with what the pages name: models and a text. The packaged model's name stands for the tiny one there."""
    for name in ("my-model", "smollm2-135m"):
        shutil.copytree(model_folder("llama"), tmp_path / name)
    generator = torch.Generator().manual_seed(7)
    words = torch.randint(0, 61, (4000,), generator=generator).tolist()
    (tmp_path / "text.txt").write_text(" ".join(f"w{word}" for word in words), encoding="utf-8")
    monkeypatch.setattr("gossamer.checkpoints.opening.PACKAGED", {})
    monkeypatch.setattr(compare, "_apart", compare._cells)  # a fresh process takes seconds
    with chdir(tmp_path):
        yield tmp_path


def walk(path, run, *, compares=True):
    """Every example of a page, in its order and in one namespace: (blocks of Python, commands)."""
    shell = Shell(run, compares)
    document = Sybil([PythonCodeBlockParser(doctest_optionflags=LOOSE), commands(shell)]).parse(path)
    pieces = 0
    for example in document.examples():
        example.evaluate()
        pieces += not isinstance(example.region.evaluator, Shell)
    return pieces, shell.ran


@every_page
def test_a_page_does_what_it_says(page, place, run):
    """The README's figures are a real model's, so of its commands only the end is looked at."""
    pieces, ran = walk(ROOT / page, run, compares=page != "README.md")
    text = read(page)
    assert pieces >= text.count("```python")
    assert ran >= len(re.findall(r"^\$ (?:gossamer|ls|echo) ", text, re.MULTILINE))


@pytest.mark.parametrize(
    "block",
    [
        "```python\nraise RuntimeError\n```",
        "```python\nassert 1 == 2\n```",
        "```python\n>>> 1 + 1\n3\n```",
        "```python\nimport gossamer\ngossamer.squeeze\n```",
        "```console\n$ gossamer inspect my-model --colour\n...\n```",
        "```console\n$ gossamer squeeze my-model\n...\n```",
        "```console\n$ gossamer export my-model --out x\n...\n```",
        "```console\n$ gossamer export my-model --out x\nerror: Nothing is wrong.\n```",
        "```console\n$ gossamer --help\nerror: ...\n```",
        "```console\n$ gossamer export my-model --out x\nerror: ...\n$ echo $?\n0\n```",
        "```\n$ gossamer squeeze my-model\n```",
        "```bash\ngossamer squeeze my-model\n```",
    ],
)
def test_a_page_that_is_wrong_is_noticed(block, place, run):
    page = place / "page.md"
    page.write_text(f"# Page\n\n{block}\n", encoding="utf-8")
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever the block raises
        walk(page, run)


# ── what the pages name ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def options():
    """Command → its options, as the real command line has them."""
    app = typer.Typer()
    for found in pkgutil.iter_modules(gossamer.cli.__path__):
        if not found.name.startswith("_"):
            app.command(found.name)(importlib.import_module(f"gossamer.cli.{found.name}").run)
    group = typer.main.get_command(app)
    return {name: {o for p in c.params for o in p.opts} | {"--help"} for name, c in group.commands.items()}


@linking_page
def test_commands_and_options_in_the_text_exist(page, options):
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`gossamer ([^`]+)`", prose):
        command, *words = span.split()
        assert command in options, span
        assert {w for w in words if w.startswith("--")} <= options[command], span
    for span in re.findall(r"`(--[a-z-]+)[^`]*`", prose):
        assert any(span in known for known in options.values()), span


def anchors(path):
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@linking_page
def test_links_lead_somewhere(page):
    here = ROOT / page
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", here.read_text(encoding="utf-8")):
        path = (here.parent / target).resolve() if target else here
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def test_every_page_is_on_the_map():
    for page in set(PAGES) - {"README.md", "docs/index.md"}:
        assert f"({Path(page).name})" in read("docs/index.md"), page


def test_the_methods_page_has_a_row_for_each_method():
    rows = re.findall(r"^\| `(\w+)` \|", read("docs/methods.md"), re.MULTILINE)
    assert sorted(rows) == discover.names(methods)
