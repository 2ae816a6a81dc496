"""Judge a model folder: open → judge, with the dense original beside it where it is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gossamer import data
from gossamer.checkpoints import plugin, saving
from gossamer.checkpoints.opening import Opened, open_model, open_original
from gossamer.checkpoints.store import Workspace, write_json
from gossamer.data import Windows
from gossamer.errors import ModelError, TextError
from gossamer.evaluation import fidelity, tasks
from gossamer.evaluation.sample import samples
from gossamer.recipes._noting import recorded
from gossamer.recipes.measuring import default_work, recalled, shortened, windows_for, windows_of
from gossamer.vocabulary import Progress, Score, silent

OWN = (
    "Judged by the dense model's own writing that judged the compression, as no text is known; --tokens and --window "
    "are for a --text."
)


@dataclass(frozen=True)
class Evaluation:
    """What was found: the score, texts by model, and task results."""

    model: str
    dense: str | None
    score: Score
    samples: dict[str, str]
    tasks: dict[str, Any]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "score": self.score.__dict__}


def evaluate(
    name: str,
    text: str | None = None,
    *,
    tokens: int = 20_480,
    window: int = 1024,
    dense: str | None = None,
    task_names: Sequence[str] = (),
    limit: int | None = None,
    task_folder: Path | None = None,
    run_code: bool = False,
    out: Path | None = None,
    work: Path | str | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Score the model `name` on `text`, by default on what its calibration left unread of the text its history names.

    Where it names none, on the part of the dense model's own writing that judged the compression.

    The dense model is the one its history names, or `dense`; a model without a history is scored alone. Tasks that
    run code which the model writes need `run_code` and are run in a confined process; `task_folder` holds tasks beside
    those of the harness.
    Raises `TextError` where no text is known, `ModelError` where the dense model is not the one compressed, or a task
    cannot be run.
    """
    if out is not None:
        saving.new_file(out)
    if tokens < 0 or window < 2:
        raise TextError("Judging needs --tokens of at least 0 (0 for all) and a --window of at least 2.")
    if not task_names and (limit is not None or task_folder is not None or run_code):
        raise ModelError(
            "A limit of examples, a folder of tasks and leave to run code are for tasks; name some with --tasks."
        )
    asked = tasks.find(task_names, limit, folder=task_folder, run_code=run_code) if task_names else None
    cache = Path(work or default_work())
    opened = open_model(name, cache)
    history = plugin.history_of(opened.model)
    original = open_original(opened, cache, dense)
    source = text or (history[-1]["settings"]["text"] if history else None)
    if source is not None:
        windows = _unread(opened, source, [] if text else history, tokens, window)
        notes = shortened(window, windows)
    elif history and original is not None:
        windows, notes = _own_writing(original, history[0], Workspace(cache), progress), (OWN,)
    else:
        raise TextError(f"There is no text to judge {name} by; give one with --text FILE.")
    reference = original or opened
    score = fidelity.compare(recalled(reference, Workspace(cache)), [opened.model], windows, progress=progress)[0]
    models = {"dense": original.model, "compressed": opened.model} if original else {"model": opened.model}
    found = Evaluation(
        model=name,
        dense=None if original is None else original.name,
        score=score,
        samples=samples(models, opened.tokenizer, windows.ids[0]),
        tasks=asked.run(opened, cache) if asked else {},
        notes=notes,
    )
    if out is not None:
        write_json(out, found.to_json())
    return found


def _own_writing(original: Opened, step: dict[str, Any], workspace: Workspace, progress: Progress) -> Windows:
    """What judged the compression `step` of the dense model's own writing, written again where it is not kept.

    Raises `TextError` where that comes out otherwise: another processor may draw other tokens.
    """
    windows = windows_for(original, recorded(step), None, workspace, progress)[1]
    if windows.text_sha256 != step["calibration"]["text_sha256"]:
        raise TextError(
            f"{original.name} does not write here what it wrote when it was compressed, so what judged then is not "
            "known; give a text with --text FILE."
        )
    return windows


def _unread(opened: Opened, source: str, history: list[dict[str, Any]], tokens: int, window: int) -> Windows:
    """About `tokens` tokens of the text `source` (all for 0), behind what the steps of `history` have read of it."""
    windows = windows_of(opened, data.read(source), source, window)
    length = windows.ids.shape[1]
    framed = sum(len(part) for part in data.frame(opened.tokenizer))
    skipped = -(-_seen(history, windows, framed) // (length - framed)) if history else 0
    if skipped >= len(windows.ids):
        raise TextError(f"Calibration read {source} to its end; give another text with --text FILE.")
    last = skipped + max(1, tokens // length) if tokens else None
    return replace(windows, ids=windows.ids[skipped:last])


def _seen(history: list[dict[str, Any]], windows: Windows, framed: int) -> int:
    """How many tokens of this text any step has read, without the `framed` ones that a window has around it.

    Raises `TextError` where it is not the text that was read.
    """
    read = [step["calibration"] for step in history]
    if read[-1]["text_sha256"] != windows.text_sha256:
        raise TextError(
            f"{windows.source} is not what calibration read: its text has changed since; give one with --text FILE."
        )
    return max(int(r["windows"] * (r["window"] - framed)) for r in read if r["text_sha256"] == windows.text_sha256)
