"""HumanEval from a file: what passes, what does not, and the whole way from a file to pass@1 with a tiny model."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gossamer.evaluation.confined import confine

FOLDER = Path(__file__).parents[2] / "benchmarks" / "humaneval"
needs_walls = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

DOUBLE = {
    "task_id": "made up/0",
    "prompt": 'def double(x: int) -> int:\n    """Twice x.\n    >>> double(2)\n    4\n    """\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "\ndef check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}
COMPLETIONS = {
    "right": "    return x + x\n",
    "right, then more": "    return x + x\n\n\nX = double(1)\n",
    "prints": "    print('x' * 1_000_000)\n    return x + x\n",
    "wrong": "    return x * x\n",
    "nothing": "",
    "no Python": "    return return\n",
    "raises": "    raise ValueError(x)\n",
    "ends": "    raise SystemExit(0)\n",
    "ends at once": "    import os\n    os._exit(0)\n",
    "asks": "    return int(input()) + x\n",
    "takes memory": "    return 2 * x if bytearray(2**33) else 0\n",
    "loops": "    while True:\n        pass\n",
}
PASSING = {"right", "right, then more", "prints"}


@pytest.fixture(scope="module")
def utils():
    spec = importlib.util.spec_from_file_location("humaneval_utils", FOLDER / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COMPLETIONS)
def test_what_passes(name, utils):
    seconds = 1.0 if name == "loops" else 30.0  # machines are busy
    assert utils.passes(DOUBLE, COMPLETIONS[name], seconds) == (name in PASSING)


def test_what_a_program_starts_and_writes_ends_with_it(utils, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    late = tmp_path / "late"
    waits = f"import time; time.sleep(2); open({str(late)!r}, 'w')"
    does = (
        "    import subprocess, sys\n"
        "    open('mine', 'w').write('x')\n"
        f"    subprocess.Popen([sys.executable, '-c', {waits!r}])\n"
        "    return 2 * x\n"
    )
    assert utils.passes(DOUBLE, does, 30.0)
    time.sleep(3)
    assert not list(tmp_path.iterdir())


def test_pass_at_k_is_the_chance_that_a_draw_holds_a_right_one(utils):
    assert utils.pass_at(1, 4, 1) == pytest.approx(0.25)
    assert utils.pass_at(2, 4, 1) == pytest.approx(1 - 3 / 6)
    assert utils.pass_at(3, 4, 2) == 1.0
    assert utils.pass_at(4, 4, 0) == 0.0
    assert utils.judged(DOUBLE, [COMPLETIONS["right"], COMPLETIONS["wrong"]]) == {"pass@1": 0.5}


@needs_walls
def test_confined_a_program_writes_nowhere_else(tmp_path):
    outside, scratch = tmp_path / "outside", tmp_path / "scratch"
    outside.mkdir()
    scratch.mkdir()
    writes = f"    open({str(outside / 'mine')!r}, 'w').write('x')\n    return 2 * x\n"
    asked = [[DOUBLE, writes], [DOUBLE, COMPLETIONS["right"]]]
    script = (
        f"import json, sys; sys.path.insert(0, {str(FOLDER)!r}); import utils; "
        f"print(json.dumps([utils.passes(*one, 30.0) for one in json.loads({json.dumps(asked)!r})]))"
    )
    words = confine([sys.executable, "-B", "-c", script], scratch, [FOLDER, outside])
    told = subprocess.run(words, env=os.environ | {"TMPDIR": str(scratch)}, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == [False, True]
    assert not list(outside.iterdir())


@pytest.fixture
def task(tmp_path):
    """The project's task beside two problems of our own: what a tiny model writes passes the second alone."""
    pytest.importorskip("lm_eval.tasks", reason="lm-evaluation-harness is not installed")
    folder = tmp_path / "humaneval"
    folder.mkdir()
    for name in ("humaneval_local.yaml", "utils.py"):
        shutil.copy(FOLDER / name, folder)
    # A tiny model may read 64 tokens; whatever it writes in a line is a comment.
    recipe = folder / "humaneval_local.yaml"
    short = recipe.read_text().replace("max_gen_toks: 512", "max_gen_toks: 8")
    recipe.write_text(short.replace("until: [", r'until: ["\n", "\r", "\0", '))
    judge = folder / "utils.py"  # machines are busy
    judge.write_text(judge.read_text().replace("SECONDS = 3.0", "SECONDS = 60.0"))
    any_will_do = {**DOUBLE, "prompt": "def f():\n  return 1\n#", "entry_point": "f"}
    any_will_do["test"] = "def check(candidate):\n    assert candidate() == 1\n"
    too_hard = {**DOUBLE, "prompt": "def double(x):\n  "}
    (folder / "HumanEval.jsonl").write_text("\n".join(json.dumps(p) for p in (too_hard, any_will_do)))
    return folder


@needs_walls
def test_from_a_file_to_pass_at_1(task, model_folder, text_file, work, run, tmp_path):
    words = ("evaluate", model_folder("llama"), "--text", text_file, "--tokens", 64, "--window", 32, "--work", work)
    asked = ("--tasks", "humaneval_local", "--task-folder", task, "--run-code", "--out", tmp_path / "out.json")
    told = run(*words, *asked)
    assert told.code == 0, told.err
    found = json.loads((tmp_path / "out.json").read_text())["tasks"]
    assert found["confined"]
    assert found["results"]["humaneval_local"]["pass@1,none"] == 0.5


@needs_walls
def test_without_the_file_a_sentence_says_where_it_belongs(task, model_folder, text_file, work, run):
    (task / "HumanEval.jsonl").unlink()
    words = ("evaluate", model_folder("llama"), "--text", text_file, "--tokens", 64, "--window", 32, "--work", work)
    told = run(*words, "--tasks", "humaneval_local", "--task-folder", task, "--run-code")
    said = told.err.strip().splitlines()[-1]  # the harness has its own to say before
    assert told.code == 1 and said.startswith("error: ") and "Traceback" not in told.err
    assert "HumanEval.jsonl" in said and str(task) in said
