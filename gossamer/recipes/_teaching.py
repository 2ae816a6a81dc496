"""What heal and refine share: open → learn from the dense original → judge before and after → save."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossamer import data
from gossamer.checkpoints import plugin, saving
from gossamer.checkpoints.opening import Opened, open_model, open_original
from gossamer.checkpoints.store import Workspace
from gossamer.errors import ModelError, NumericsError
from gossamer.evaluation import fidelity
from gossamer.evaluation.machine import machine
from gossamer.evaluation.memory import peak_bytes
from gossamer.recipes._noting import Clock, located, recorded
from gossamer.recipes.measuring import default_work, recalled, windows_for
from gossamer.recipes.menus import total_cost
from gossamer.reports import taught_page
from gossamer.sites import passes_dtype
from gossamer.vocabulary import Cost, Progress, Score, Settings


@dataclass(frozen=True)
class Taught:
    """The model as it came out, its scores on held-out text before and after, and what that cost.

    `history` is all that was done to the dense model, this training last; `dense_total` and `small_total` are the costs
    of the whole model, which training leaves as they were.
    """

    model: Any
    tokenizer: Any
    name: str
    out: str
    history: tuple[dict[str, Any], ...]
    dense_total: Cost
    small_total: Cost
    before: Score
    after: Score
    windows: int
    seconds: dict[str, float]
    peak_memory: int
    machine: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(replace(self, model=None, tokenizer=None)).items() if v is not None}


@dataclass(frozen=True)
class Lesson:
    """A compressed model, its dense original, what it reads (windows × length), and a folder to keep state in."""

    small: Opened
    dense: Opened
    ids: Tensor
    folder: Path


def teach(
    verb: str,
    learn: Callable[[Lesson], None],
    name: str,
    out: Path | str | None,
    *,
    text: str | None,
    tokens: int,
    rate: float,
    seed: int,
    dense: str | None,
    work: Path | str | None,
    progress: Progress,
) -> Taught:
    """Open the compressed model `name`, let it `learn` from its dense original, judge it, and save it in `out`.

    `verb` names the step in the history and its folder in `work`. Raises a `GossamerError`; a model that came out no
    better is refused, and nothing is saved.
    """
    if out is not None:
        saving.free_output(Path(out), 0)
    if not 0 < rate < float("inf"):
        raise NumericsError(f"A rate of {rate:g} cannot {verb}; give a positive one, as 0.0001.")
    Settings(seed=seed)  # refuses one that cannot be
    if text is not None:
        data.read(text)
    workspace = Workspace(Path(work or default_work()))
    clock = Clock()
    opened = open_model(name, workspace.root)
    history = plugin.history_of(opened.model)
    original = open_original(opened, workspace.root, dense)
    if not history or original is None:
        raise ModelError(f"{name} is not a model that gossamer compressed, so there is nothing to {verb}.")
    settings = _settings(recorded(history[-1]), text, tokens, seed)
    written = None if settings.text is None else data.read(settings.text)
    lesson, held_out, _ = windows_for(original, settings, written, workspace, progress)
    if settings.text is None:  # what judges lies behind what was read of it to compress, where a longer lesson begins
        held_out = windows_for(original, recorded(history[0]), None, workspace, progress)[1]
        judging = (lesson.ids[:, None] == held_out.ids).all(-1).any(1)
        lesson = replace(lesson, ids=lesson.ids[~judging])
    ids = lesson.ids[torch.randperm(len(lesson.ids), generator=torch.Generator().manual_seed(seed))]
    identity = {
        "model": opened.digest,
        "dense": original.digest,
        "text": {**lesson.identity(), "source": None},
        "seed": seed,
        "rate": rate,
        "passes": str(passes_dtype(opened.model)),
    }
    folder = workspace.folder(verb, identity)
    judge = recalled(original, workspace)
    clock.lap("open")
    before = fidelity.compare(judge, [opened.model], held_out, progress=progress)[0]
    clock.lap("judge before")
    learn(Lesson(opened, original, ids, folder))
    clock.lap(verb)
    after = fidelity.compare(judge, [opened.model], held_out, progress=progress)[0]
    clock.lap("judge after")
    if after.divergence >= before.divergence:
        raise NumericsError(
            f"It came out worse: the divergence on held-out text went from {before.divergence:.4f} to "
            f"{after.divergence:.4f}. Nothing was saved; use a smaller --rate, or more text."
        )
    step = {
        "step": verb,
        "gossamer": version("gossamer"),
        "model": history[-1]["model"] if dense is None else dense,
        "digest": original.digest,
        "settings": {**asdict(settings), "text": located(settings.text), "rate": rate},
        "calibration": lesson.identity(),
    }
    plugin.mark(opened.model, [*history, step])
    found = Taught(
        model=opened.model,
        tokenizer=opened.tokenizer,
        name=name,
        out="(not saved)" if out is None else str(out),
        history=(*history, step),
        dense_total=total_cost(original.model),
        small_total=total_cost(opened.model),
        before=before,
        after=after,
        windows=len(ids),
        seconds=clock.laps,
        peak_memory=peak_bytes(),
        machine=machine(),
    )
    if out is not None:
        said = found.to_json()
        documents = {f"{verb}.json": said, "report.html": taught_page.page(verb, said)}
        saving.save(opened.model, opened.tokenizer, Path(out), documents)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _settings(settings: Settings, text: str | None, tokens: int, seed: int) -> Settings:
    """Those the folder was made with, but for what the call says; a model's own writing is the same as then."""
    if text is None and settings.text is None:
        return replace(settings, tokens=tokens or settings.tokens)
    return replace(settings, text=text or settings.text, tokens=tokens, seed=seed)
