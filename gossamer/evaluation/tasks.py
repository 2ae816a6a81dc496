"""Benchmark tasks, through lm-evaluation-harness."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import constants

from gossamer.checkpoints.opening import Opened, anywhere, open_model
from gossamer.checkpoints.store import read_json, write_json
from gossamer.errors import GossamerError, ModelError
from gossamer.evaluation.confined import confine, passed, walls

LEAVE = "HF_ALLOW_CODE_EVAL"
"""The variable of the environment in which the metric of code tasks looks for the user's leave."""
CACHES = ("HF_DATASETS_CACHE", "HF_EVALUATE_CACHE", "HF_METRICS_CACHE", "HF_MODULES_CACHE", "TMPDIR")
"""Where the harness writes while it reads."""
LONGEST = 2**26
"""Bytes of results that are read."""
SOURCES = tuple(dict.fromkeys([Path(__file__).parents[2], *(Path(p) for p in sys.path if p.endswith("-packages"))]))
"""Where modules beside Python's own come from: the folder of this package, and those of installed ones. A script's own
folder, which Python looks into as well, may be anything."""
TOGETHER = 8
"""Texts that are written at once where code is: a token of each takes SmolLM2-135M about 0.08 s of one core for one
text and for eight, 0.14 for sixteen. Other tasks go one by one: the logits of eight whole texts can be too many."""
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")


@dataclass(frozen=True)
class Tasks:
    """Tasks that the harness has, ready to run; `limit` examples of each, or all.

    `folder` holds tasks of the user's own; `unsafe` says that one of them runs the code that the model writes.
    """

    names: tuple[str, ...]
    limit: int | None
    folder: Path | None
    unsafe: bool

    def run(self, opened: Opened, cache: Path) -> dict[str, Any]:
        """The harness's results, with its version; raises `ModelError` where a task fails.

        Tasks that run what the model writes are run in a confined process, which opens the model again; what they read
        is fetched before, by one that has a network and no model.
        """
        if not self.unsafe:
            with _no_leave():
                return self._results(opened)
        with TemporaryDirectory(prefix="gossamer-", ignore_cleanup_errors=True) as folder:
            scratch = Path(folder).resolve()
            for name in CACHES:
                (scratch / name).mkdir()
            asked: dict[str, Any] = {
                "names": self.names,
                "limit": self.limit,
                "folder": str(self.folder.resolve()) if self.folder else None,
                "model": anywhere(opened.name),
                "digest": opened.digest,
                "cache": str(cache.resolve()),
            }
            write_json(scratch / "asked.json", asked)
            hub = str(Path(constants.HF_HUB_CACHE).resolve())
            ours = {name: str(scratch / name) for name in CACHES} | {LEAVE: "1", "HF_HUB_CACHE": hub}
            ours["PYTHONPATH"] = os.pathsep.join(map(str, SOURCES))
            # Without the folder it is called in on Python's path.
            words = [sys.executable, "-P", "-c", f"from {__name__} import apart; apart()", str(scratch)]
            _told([*words, "fetch"], os.environ | ours, scratch)
            alone = passed(os.environ) | ours | {"HOME": str(scratch)} | dict.fromkeys(OFFLINE, "1")
            readable = [Path(p) for p in (asked["model"], asked["cache"], asked["folder"], hub) if p]
            found = _told(confine([*words, "judge"], scratch, [*SOURCES, *readable]), alone, scratch)
            return {**found, "confined": True}

    def _results(self, opened: Opened) -> dict[str, Any]:
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        try:
            found = lm_eval.simple_evaluate(
                model=HFLM(opened.model, tokenizer=opened.tokenizer, batch_size=TOGETHER if self.unsafe else 1),
                tasks=list(self.names),
                task_manager=_manager(self.folder),
                limit=self.limit,
                bootstrap_iters=100,
                confirm_run_unsafe_code=self.unsafe,
            )
        except (KeyError, ValueError, OSError, ConnectionError) as error:
            raise ModelError(f"The harness could not run {', '.join(self.names)}: {error}") from error
        version = getattr(lm_eval, "__version__", "unknown")
        return {"lm_eval": version, "limit": self.limit, "confined": False, "results": found["results"]}


def find(names: Sequence[str], limit: int | None, *, folder: Path | None = None, run_code: bool) -> Tasks:
    """The named tasks, groups or tags of tasks, looked up without running or loading any of them.

    `folder` holds tasks beside the harness's own. Raises `ModelError` where the limit leaves nothing, and where the
    harness is not installed, does not know a task, or would run code that the model writes: without the user's leave,
    or on a machine that cannot confine it.
    """
    if limit is not None and limit < 1:
        raise ModelError(f"A limit of {limit} examples leaves nothing to run; give --limit of at least 1.")
    if folder is not None and not os.path.isdir(folder):
        raise ModelError(f"There is no folder {folder}; give --task-folder one that holds tasks as YAML.")
    index = _manager(folder).task_index
    stranger = next((name for name in names if name not in index), None)
    if stranger is not None:
        raise ModelError(f"The harness has no task {stranger!r}; 'lm-eval ls tasks' lists those it has.")
    unsafe = next((name for name in names if _runs_code(name, index)), None)
    if unsafe is not None and not run_code:
        raise ModelError(
            f"{unsafe} runs the code that the model writes; give --run-code to let it, in a process without a network "
            "that can change nothing on this machine."
        )
    if unsafe is not None:
        walls()
    return Tasks(tuple(names), limit, folder, unsafe is not None)


def _manager(folder: Path | None) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ModelError("Tasks run through lm-evaluation-harness: pip install 'gossamer[tasks]'.") from error
    return TaskManager(include_path=None if folder is None else str(folder))


def _runs_code(spec: Any, index: Any) -> bool:
    """Whether a task, by its name or as a group spells it out, or one below a group or tag, says that it is unsafe."""
    entry = index.get(spec) if isinstance(spec, str) else None
    config = spec if isinstance(spec, dict) else (entry.cfg if entry else None) or {}
    below = config.get("task", sorted(entry.tags) if entry else [])  # a tag has no config, only tasks
    if isinstance(spec, dict) and isinstance(below, str):
        below = [below]
    inside = below if isinstance(below, list) else []  # else the task's own name
    return bool(config.get("unsafe_code")) or any(_runs_code(part, index) for part in inside)


@contextmanager
def _no_leave() -> Iterator[None]:
    """Leave that was given to another tool is none for this one."""
    before = os.environ.pop(LEAVE, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[LEAVE] = before


def _told(words: Sequence[str], around: Mapping[str, str], scratch: Path) -> dict[str, Any]:
    """What a process left in `scratch`, of which nothing is believed but its form; raises `ModelError`.

    Its bars and warnings are shown as they come, without what could steer a terminal.
    """
    path = scratch / "told.json"
    with subprocess.Popen(
        words, env=dict(around), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as started:
        assert started.stderr is not None
        while part := started.stderr.read1(4096):  # type: ignore[attr-defined]
            sys.stderr.write(_plain(part.decode(errors="replace")))
    if started.returncode or path.is_symlink() or not path.is_file() or path.stat().st_size > LONGEST:
        raise ModelError(f"A task's process ended early ({started.returncode}), without results.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    path.unlink()
    if not isinstance(found, dict) or "failed" in found:
        raise ModelError(_plain(str(found["failed"])) if isinstance(found, dict) else "A task left no results.")
    return found


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable() or c in "\r\n\t")


def apart() -> None:
    """What the two processes do, by their arguments: a scratch folder, and `fetch` or, confined, `judge`."""
    scratch, step = Path(sys.argv[1]), sys.argv[2]
    asked = read_json(scratch / "asked.json")
    tasks = Tasks(tuple(asked["names"]), asked["limit"], asked["folder"] and Path(asked["folder"]), True)
    found: dict[str, Any] = {}
    try:
        if step == "fetch":
            _manager(tasks.folder).load(list(tasks.names))
        else:
            opened = open_model(asked["model"], Path(asked["cache"]))
            if opened.digest != asked["digest"]:
                raise ModelError(f"{asked['model']} has changed since it was opened.")
            found = tasks._results(opened)
    except GossamerError as error:
        found = {"failed": str(error)}
    except Exception as error:  # whatever the harness meets, the process that asked is told in a sentence
        found = {"failed": f"The harness could not run {', '.join(tasks.names)}: {type(error).__name__}: {error}"}
    (scratch / "told.json").write_text(json.dumps(found, default=str))
