"""Tasks of lm-evaluation-harness: what runs a model's code does so only when told to, and nothing slow comes first."""

import json
import os
import shutil
import socket
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from gossamer.errors import ModelError
from gossamer.evaluation.confined import confine, passed
from gossamer.evaluation.tasks import LEAVE, _told

SAFE, UNSAFE = {"task": "arc_easy"}, {"task": "humaneval", "unsafe_code": True}


def entry(config=None, tags=()):
    return SimpleNamespace(cfg=config, tags=set(tags))


INDEX = {
    "arc_easy": entry(SAFE),
    "humaneval": entry(UNSAFE),
    "a_group": entry({"group": "a_group", "task": ["arc_easy", {"task": "humaneval"}]}),
    "a_nested_group": entry({"group": "a_nested_group", "task": [{"group": "inner", "task": ["humaneval"]}]}),
    "a_tag": entry(tags=["arc_easy", "humaneval"]),
    "a_safe_group": entry({"group": "a_safe_group", "task": ["arc_easy"]}),
}


@pytest.fixture
def harness(monkeypatch):
    """A stand-in for the harness: it notes what it is asked, and whether leave was given meanwhile."""
    seen = {}

    def simple_evaluate(**asked):
        seen.update(asked, leave=os.environ.get(LEAVE))
        return {"results": {name: {"acc": 0.5} for name in asked["tasks"]}}

    parts = {
        "lm_eval": {"simple_evaluate": simple_evaluate, "__version__": "0"},
        "lm_eval.tasks": {"TaskManager": lambda include_path: SimpleNamespace(task_index=INDEX)},
        "lm_eval.models": {},
        "lm_eval.models.huggingface": {"HFLM": lambda model, **settings: SimpleNamespace(model=model, **settings)},
    }
    for name, content in parts.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


@pytest.fixture
def words(compressed, text_file, work):
    """The command, up to its tasks."""
    folder = compressed("llama").folder
    return ("evaluate", folder, "--text", text_file, "--tokens", 64, "--window", 32, "--work", work)


@pytest.mark.parametrize("tasks", ["humaneval", "arc_easy,humaneval", "a_group", "a_nested_group", "a_tag"])
def test_code_is_not_run_without_leave(tasks, harness, words, refused, monkeypatch):
    monkeypatch.setenv(LEAVE, "1")  # set for another tool; it is no leave for this one
    said = refused(*words, "--tasks", tasks)
    assert "--run-code" in said and "code that the model writes" in said
    assert not harness


def test_what_the_harness_does_not_know_is_refused_before_anything_slow(harness, refused, tmp_path):
    said = refused("evaluate", tmp_path / "no-such-model", "--tasks", "arc_eazy")
    assert "arc_eazy" in said


def test_where_nothing_can_confine_it_no_code_is_run(harness, words, refused, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert "bubblewrap" in refused(*words, "--tasks", "humaneval", "--run-code")
    assert not harness


@pytest.fixture
def processes(monkeypatch):
    """What would be started, in place of starting it: (words, environment, what was asked) of each."""
    started = []

    def told(words, around, scratch):
        started.append((list(words), around, json.loads((scratch / "asked.json").read_text())))
        return {"results": {"humaneval": {"acc": 0.5}}}

    monkeypatch.setattr("gossamer.evaluation.tasks._told", told)
    for room in ("tasks", "confined"):
        monkeypatch.setattr(f"gossamer.evaluation.{room}.walls", lambda: "/usr/bin/bwrap")
    return started


def test_leave_reaches_confined_processes_alone(harness, processes, words, run, monkeypatch, tmp_path):
    monkeypatch.delenv(LEAVE, raising=False)
    monkeypatch.setenv("HF_TOKEN", "secret")
    told = run(*words, "--tasks", "humaneval", "--limit", 3, "--run-code", "--out", tmp_path / "out.json")
    assert told.code == 0, told.err
    assert not harness and LEAVE not in os.environ
    (fetch, _, _), (judge, around, asked) = processes
    assert (fetch[0], fetch[-1]) == (sys.executable, "fetch")
    assert (judge[0], judge[-1]) == ("/usr/bin/bwrap", "judge")
    assert asked["digest"] and "HF_TOKEN" not in around
    assert "--unshare-all" in judge and around[LEAVE] == around["HF_HUB_OFFLINE"] == "1"
    assert (asked["names"], asked["limit"]) == (["humaneval"], 3)
    assert json.loads((tmp_path / "out.json").read_text())["tasks"]["results"] == {"humaneval": {"acc": 0.5}}


@pytest.mark.parametrize("tasks", ["arc_easy", "a_safe_group"])
def test_tasks_that_run_no_code_need_no_leave_and_get_none(tasks, harness, words, run, monkeypatch):
    monkeypatch.setenv(LEAVE, "1")
    assert run(*words, "--tasks", tasks).code == 0
    assert harness["confirm_run_unsafe_code"] is False
    assert harness["leave"] is None
    assert os.environ[LEAVE] == "1"


# With the harness itself, where it is installed.

TASK = """
task: tiny_code
unsafe_code: true
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{test}}}}"
generation_kwargs: {{until: ["z"], max_gen_toks: 4, do_sample: false}}
num_fewshot: 0
metric_list:
  - metric: !function metric.allowed
    aggregation: mean
    higher_is_better: true
"""

METRIC = """
import os
import socket
from pathlib import Path

def allowed(references, predictions, **_):
    try:
        Path({outside!r}).write_text("out")
        return 0.0
    except OSError:
        pass
    try:
        socket.create_connection(("127.0.0.1", {port}), timeout=5)
        return 0.0
    except OSError:
        pass
    return float(os.environ.get("HF_ALLOW_CODE_EVAL") == "1" and isinstance(predictions[0], str))
"""


@pytest.fixture
def listening():
    """A port of this machine that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


needs_walls = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


@needs_walls
def test_a_confined_process_reads_what_it_is_shown_and_can_write_to_its_scratch_folder_alone(tmp_path, listening):
    scratch, shown, outside = (tmp_path / name for name in ("scratch", "shown", "outside"))
    for folder in (scratch, shown, outside):
        folder.mkdir()
        (folder / "file").write_text("as it was")
    os.mkfifo(outside / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(outside / "socket"))
        server.listen()
        tries = {
            "reads": f"open({str(shown / 'file')!r}).read()",
            "writes to scratch": f"open({str(scratch / 'mine')!r}, 'w').write('x')",
            "reads elsewhere": f"open({str(outside / 'file')!r}).read()",
            "writes": f"open({str(shown / 'file')!r}, 'w')",
            "deletes": f"__import__('os').remove({str(shown / 'file')!r})",
            "connects": f"__import__('socket').create_connection(('127.0.0.1', {listening}), timeout=5)",
            "connects to a file": f"__import__('socket').socket(1).connect({str(outside / 'socket')!r})",
            "finds a pipe": f"__import__('os').stat({str(outside / 'pipe')!r})",
            "stops its parent": f"__import__('os').kill({os.getpid()}, 0)",
        }
        found = {}
        for name, expression in tries.items():
            words = confine([sys.executable, "-c", expression], scratch, [shown])
            found[name] = subprocess.run(words, capture_output=True, check=False).returncode == 0
    assert found == {name: name in ("reads", "writes to scratch") for name in tries}
    assert {(f / "file").read_text() for f in (shown, outside)} == {"as it was"}


def test_what_a_confined_process_is_told_of_the_environment_opens_nothing():
    told = passed({"PATH": "/bin", "LC_ALL": "C", "HF_TOKEN": "secret", "SSH_AUTH_SOCK": "/tmp/agent", "HOME": "/root"})
    assert told == {"PATH": "/bin", "LC_ALL": "C"}


def test_a_machine_that_lets_nothing_be_confined_is_told_before_anything_slow(harness, words, refused, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _name: "/bin/false")
    assert "lets nothing be confined" in refused(*words, "--tasks", "humaneval", "--run-code")
    assert not harness


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("exit(3)", "ended early (3)"),
        ("open('told.json', 'w').write('{} and more')", "no results"),
        ("open('told.json', 'w').write('[]')", "no results"),
        ("import os; os.symlink('/etc/hostname', 'told.json')", "ended early"),
        ("open('told.json', 'w').write('{}'); exit(1)", "ended early (1)"),
        ("open('told.json', 'w').write('{\"failed\": \"\\\\u001b[2J gone\"}')", "[2J gone"),
    ],
    ids=["nothing", "garbage", "a list", "a link", "a failure", "a message"],
)
def test_results_are_not_believed(does, said, tmp_path):
    script = f"import os; os.chdir({str(tmp_path)!r}); {does}"
    with pytest.raises(ModelError) as error:
        _told([sys.executable, "-c", script], os.environ, tmp_path)
    assert said in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.fixture
def own_tasks(monkeypatch, tmp_path, listening):
    """A folder with one task of two local examples, whose metric asks for leave and tries what it must not."""
    pytest.importorskip("lm_eval.tasks", reason="lm-evaluation-harness is not installed")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "data.json").write_text("\n".join(json.dumps({"prompt": p, "test": "x"}) for p in ("w1 w2", "w3 w4")))
    (folder / "tiny_code.yaml").write_text(TASK.format(data=folder / "data.json"))
    (folder / "metric.py").write_text(METRIC.format(outside=str(folder / "mine.txt"), port=listening))
    monkeypatch.delenv(LEAVE, raising=False)
    return folder


@needs_walls
def test_a_code_task_of_the_harness_itself(own_tasks, words, run, refused, tmp_path):
    tasks = ("--tasks", "tiny_code", "--task-folder", own_tasks)
    assert "--run-code" in refused(*words, *tasks)
    told = run(*words, *tasks, "--run-code", "--out", tmp_path / "out.json")
    assert told.code == 0, told.err
    found = json.loads((tmp_path / "out.json").read_text())["tasks"]
    assert found["confined"] and found["results"]["tiny_code"]["allowed,none"] == 1.0
    assert not (own_tasks / "mine.txt").exists()


def test_a_folder_of_tasks_that_is_not_there_is_refused(harness, words, refused, tmp_path):
    assert "--task-folder" in refused(*words, "--tasks", "arc_easy", "--task-folder", tmp_path / "none")
