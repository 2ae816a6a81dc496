"""Benchmark tasks, through lm-evaluation-harness."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gossamer.errors import ModelError

LEAVE = "HF_ALLOW_CODE_EVAL"
"""The variable of the environment in which the metric of code tasks looks for the user's leave."""


@dataclass(frozen=True)
class Tasks:
    """Tasks that the harness has, ready to run; `limit` examples of each, or all."""

    names: tuple[str, ...]
    manager: Any
    limit: int | None
    run_code: bool

    def run(self, model: Any, tokenizer: Any) -> dict[str, Any]:
        """The harness's results, with its version.

        Where `run_code` gives leave, code tasks run what the model wrote. Raises `ModelError` where a task fails.
        """
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        try:
            with _leave(self.run_code):
                found = lm_eval.simple_evaluate(
                    model=HFLM(pretrained=model, tokenizer=tokenizer),
                    tasks=list(self.names),
                    task_manager=self.manager,
                    limit=self.limit,
                    bootstrap_iters=100,
                    confirm_run_unsafe_code=self.run_code,
                )
        except (KeyError, ValueError, OSError, ConnectionError) as error:
            raise ModelError(f"The harness could not run {', '.join(self.names)}: {error}") from error
        return {"lm_eval": getattr(lm_eval, "__version__", "unknown"), "limit": self.limit, "results": found["results"]}


def find(names: Sequence[str], limit: int | None, *, run_code: bool) -> Tasks:
    """The named tasks, groups or tags of tasks, looked up without running or loading any of them.

    Raises `ModelError` where the limit leaves nothing, and where the harness is not installed, does not know a task, or
    would run code that the model writes without the user's leave.
    """
    if limit is not None and limit < 1:
        raise ModelError(f"A limit of {limit} examples leaves nothing to run; give --limit of at least 1.")
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ModelError("Tasks run through lm-evaluation-harness: pip install 'gossamer[tasks]'.") from error
    manager = TaskManager()
    stranger = next((name for name in names if name not in manager.task_index), None)
    if stranger is not None:
        raise ModelError(f"The harness has no task {stranger!r}; 'lm-eval ls tasks' lists those it has.")
    unsafe = next((name for name in names if _runs_code(name, manager.task_index)), None)
    if unsafe is not None and not run_code:
        raise ModelError(
            f"{unsafe} runs the code that the model writes, on this machine and with your rights; give --run-code to "
            "let it, best in a container without a network."
        )
    return Tasks(tuple(names), manager, limit, run_code)


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
def _leave(given: bool) -> Iterator[None]:
    """The user's leave, for as long as the tasks run."""
    before = os.environ.pop(LEAVE, None)
    if given:
        os.environ[LEAVE] = "1"
    try:
        yield
    finally:
        os.environ.pop(LEAVE, None)
        if before is not None:
            os.environ[LEAVE] = before
