"""What the stories share: the command line in this process, and tiny models compressed once a session."""

import io
import json
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from gossamer import Budget, Compressed, Settings, compress
from gossamer.cli._app import app, main

TINY = ("--tokens", "1024", "--window", "32")
AUTO = {"bert": AutoModel, "bert_mlm": AutoModelForMaskedLM}


@dataclass(frozen=True)
class Told:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Made:
    """A compressed model in memory, and the folder it was saved in."""

    folder: Path
    done: Compressed

    @property
    def model(self) -> Any:
        return self.done.model

    def document(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="session", autouse=True)
def nothing_outside(tmp_path_factory):
    """The default working folder lies in a temporary place, lines are too long to wrap, and samples are short."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patched.setenv("COLUMNS", "400")
        patched.setattr("gossamer.evaluation.sample.TOKENS", 4)
        yield


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> Path:
    """A working folder that the stories share, for those that do not damage it."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="session")
def run():
    """A function: `gossamer WORDS…` in this process. What is not a mistake of the user's passes through as it is."""

    def told(*words: Any) -> Told:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            patch.object(sys, "argv", ["gossamer", *map(str, words)]),
            patch.object(app, "registered_commands", []),  # `main` adds them at each call
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as stop:
                code = 0 if stop.code is None else int(stop.code)
        return Told(code, out.getvalue(), err.getvalue())

    return told


@pytest.fixture(scope="session")
def refused(run, tmp_path_factory):
    """A function: the command must fail with one sentence, which is returned; `early` before any step has begun."""

    def sentence(*words: Any, early: bool = False) -> str:
        # Where the working folder holds everything, nothing slow is left to be late for.
        told = run(*words, *(("--work", tmp_path_factory.mktemp("nothing")) if early else ()))
        assert told.code == 1, f"exit code {told.code}; {told.out}{told.err}"
        # In a pipe every step says a line before it begins.
        said = told.err.strip().splitlines()
        lines = [line for line in said if not re.fullmatch(r"[a-z ]+: \d+", line)]
        assert not early or lines == said, told.err
        assert len(lines) == 1, told.err
        assert lines[0].startswith("error: "), told.err
        assert "Traceback" not in told.out + told.err
        assert not told.out.strip(), f"it printed a result before it failed: {told.out}"
        why = lines[0].removeprefix("error: ")
        assert why[:1].isalnum() or why[:1] in "/.'", why
        assert len(why) < 700, why
        return why

    return sentence


@pytest.fixture(scope="session")
def tiny(text_file) -> tuple[str, ...]:
    """The options that make a run small."""
    return ("--text", str(text_file), *TINY)


@pytest.fixture(scope="session")
def tiny_settings(text_file) -> Settings:
    """The same, for the library."""
    return Settings(text=str(text_file), tokens=1024, window=32)


@pytest.fixture(scope="session")
def compressed(model_folder, tiny_settings, work, tmp_path_factory):
    """A function: kind → that model at six tenths of its parameters, in memory and saved."""
    made: dict[str, Made] = {}

    def of(kind: str) -> Made:
        if kind not in made:
            out = tmp_path_factory.mktemp(f"small-{kind}") / "out"
            budget = Budget(unit="params", amount=0.6)
            made[kind] = Made(out, compress(str(model_folder(kind)), budget, out, tiny_settings, work=work))
        return made[kind]

    return of


@pytest.fixture(scope="session")
def exported(run, compressed, tmp_path_factory):
    """A function: kind → the stock folder that `gossamer export` made of that compressed model."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            out = tmp_path_factory.mktemp(f"stock-{kind}") / "out"
            told = run("export", compressed(kind).folder, "--to", "dense", "--out", out)
            assert told.code == 0, told.err
            assert str(out) in told.out
            made[kind] = out
        return made[kind]

    return of


@pytest.fixture(scope="session")
def load():
    """A function: (folder, kind) → the model as anybody would load it."""

    def loaded(folder: Path, kind: str, **options: Any) -> Any:
        found = AUTO.get(kind, AutoModelForCausalLM).from_pretrained(folder, **options)
        return (found[0].eval(), *found[1:]) if isinstance(found, tuple) else found.eval()

    return loaded


@pytest.fixture(scope="session")
def answers():
    """A function: model → the numbers it gives for one fixed batch of tokens."""
    ids = torch.randint(5, 66, (3, 24), generator=torch.Generator().manual_seed(3))

    @torch.no_grad()
    def of(model: Any) -> torch.Tensor:
        given = model(input_ids=ids)
        return given.logits if hasattr(given, "logits") else given.last_hidden_state

    of.ids = ids
    return of


@pytest.fixture
def copied(model_folder, tmp_path):
    """A function: kind → a copy of the tiny model's folder that a test may spoil."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(model_folder(kind), tmp_path / f"copy-{kind}"))

    return copy


@pytest.fixture
def with_neurons(copied):
    """A function: how many neurons → a tiny llama whose MLPs have as many."""

    def made(neurons: int) -> Path:
        folder = copied("llama")
        config = AutoConfig.from_pretrained(folder)
        config.intermediate_size = neurons
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return folder

    return made
