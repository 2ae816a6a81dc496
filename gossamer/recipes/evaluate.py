"""Judge a model folder: open → judge, with the dense original beside it where it is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gossamer import data
from gossamer.checkpoints import plugin
from gossamer.checkpoints.opening import Opened, open_model, open_original
from gossamer.checkpoints.store import write_json
from gossamer.errors import OutputError, TextError
from gossamer.evaluation import fidelity, tasks
from gossamer.evaluation.sample import sample
from gossamer.recipes.measuring import default_work, longest_window, shortened
from gossamer.vocabulary import Progress, Score, silent


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
    run_code: bool = False,
    out: Path | None = None,
    work: Path | str | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Score the model `name` on `text`, by default on what its calibration left unread of the text its history names.

    The dense model is the one its history names, or `dense`; a model without a history is scored alone. Tasks that
    run code which the model writes need `run_code`.
    Raises `TextError` where no text is known, `ModelError` where the dense model is not the one compressed, or a task
    cannot be run.
    """
    if out is not None and out.exists():
        raise OutputError(f"{out} exists; give --out the name of a new file.")
    if tokens < 0 or window < 2:
        raise TextError("Judging needs --tokens of at least 0 (0 for all) and a --window of at least 2.")
    asked = tasks.find(task_names, limit, run_code=run_code) if task_names else None
    cache = Path(work or default_work())
    opened = open_model(name, cache)
    history = plugin.history_of(opened.model)
    source, seen = (text, 0) if text else _unread(history)
    if source is None:
        raise TextError(f"There is no text to judge {name} by; give one with --text FILE.")
    if opened.tokenizer is None:
        raise TextError(f"{name} has no tokenizer, so no text can be read for it.")
    original = open_original(opened, cache, dense)
    windows = data.cut(data.read(source), source, opened.tokenizer, longest_window(opened.model, window))
    length = windows.ids.shape[1]
    skipped = -(-seen // length)
    if skipped >= len(windows.ids):
        raise TextError(f"Calibration read {source} to its end; give another text with --text FILE.")
    last = skipped + max(1, tokens // length) if tokens else None
    windows = replace(windows, ids=windows.ids[skipped:last])
    reference = original or opened
    score = fidelity.compare(reference.model, [opened.model], windows, progress=progress)[0]
    found = Evaluation(
        model=name,
        dense=None if original is None else original.name,
        score=score,
        samples=_samples(opened, original, windows.ids[0, :24]),
        tasks=asked.run(opened.model, opened.tokenizer) if asked else {},
        notes=shortened(window, windows),
    )
    if out is not None:
        write_json(out, found.to_json())
    return found


def _unread(history: list[dict[str, Any]]) -> tuple[str | None, int]:
    """The text that a model was calibrated on, and how many of its tokens were read."""
    if not history:
        return None, 0
    read = history[-1]["calibration"]
    return history[-1]["settings"]["text"], read["windows"] * read["window"]


def _samples(opened: Opened, original: Opened | None, ids: Any) -> dict[str, str]:
    if not opened.model.can_generate():
        return {}
    prompt = opened.tokenizer.decode(ids, skip_special_tokens=True)
    texts = {"prompt": prompt}
    if original is not None:
        texts["dense"] = sample(original.model, original.tokenizer, prompt)
    return {**texts, "compressed" if original else "model": sample(opened.model, opened.tokenizer, prompt)}
