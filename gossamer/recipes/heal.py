"""Heal a compressed model: open → train towards the dense original → judge before and after → save."""

from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from gossamer import data
from gossamer.checkpoints import plugin, saving
from gossamer.checkpoints.opening import open_model, open_original
from gossamer.checkpoints.store import Workspace, read_tensors, write_tensors
from gossamer.errors import ModelError, NumericsError
from gossamer.evaluation import fidelity
from gossamer.evaluation.memory import peak_bytes
from gossamer.recipes.measuring import default_work, recalled, windows_for
from gossamer.statistics._gather import passes_dtype
from gossamer.training import healing
from gossamer.vocabulary import Progress, Score, Settings, silent


@dataclass(frozen=True)
class Healed:
    """The model as it came out, its scores on held-out text before and after, and what that cost."""

    model: Any
    tokenizer: Any
    before: Score
    after: Score
    windows: int
    seconds: dict[str, float]
    peak_memory: int

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(replace(self, model=None, tokenizer=None)).items() if v is not None}


def heal(
    name: str,
    out: Path | str | None = None,
    *,
    text: str | None = None,
    tokens: int = 0,
    rate: float = 0.0001,
    seed: int = 0,
    dense: str | None = None,
    work: Path | str | None = None,
    progress: Progress = silent,
) -> Healed:
    """Train the compressed model in the folder `name` towards its dense original, and save it in the new folder `out`.

    `text` is by default the one the model was calibrated on, read once from its start but for the windows at its end
    that judge (`tokens` reads less of it); `seed` shuffles its windows. `rate` is the largest step relative to the
    size of each tensor. Interrupted, the same call goes on where it stopped.
    Raises a `GossamerError`; a model that came out no better is refused, and nothing is saved.
    """
    if out is not None:
        saving.free_output(Path(out), 0)
    if not 0 < rate < float("inf"):
        raise NumericsError(f"A rate of {rate:g} cannot heal; give a positive one, as 0.0001.")
    if text is not None:
        data.read(text)
    workspace = Workspace(Path(work or default_work()))
    started = monotonic()
    opened = open_model(name, workspace.root)
    history = plugin.history_of(opened.model)
    original = open_original(opened, workspace.root, dense)
    if not history or original is None:
        raise ModelError(f"{name} is not a model that gossamer compressed, so there is nothing to heal.")
    settings = _settings(history[-1]["settings"], text, tokens, seed)
    written = None if settings.text is None else data.read(settings.text)
    lesson, held_out = windows_for(original, settings, written, workspace, progress)
    ids = lesson.ids[torch.randperm(len(lesson.ids), generator=torch.Generator().manual_seed(seed))]
    identity = {
        "model": opened.digest,
        "dense": original.digest,
        "text": {**lesson.identity(), "source": None},
        "seed": seed,
        "rate": rate,
        "passes": str(passes_dtype(opened.model)),
    }
    kept = workspace.folder("healing", identity) / "state.safetensors"
    judge = recalled(original, workspace)
    before = fidelity.compare(judge, [opened.model], held_out, progress=progress)[0]
    state = healing.State(opened.model)
    if kept.exists():
        state.restore(read_tensors(kept)[0])
    opening = monotonic()
    healing.heal(
        opened.model,
        original.model,
        ids,
        rate=rate,
        state=state,
        keep=lambda s: write_tensors(kept, s.tensors(), {}),
        progress=progress,
    )
    healed = monotonic()
    after = fidelity.compare(judge, [opened.model], held_out, progress=progress)[0]
    if after.divergence >= before.divergence:
        raise NumericsError(
            f"Healing made it worse: the divergence on held-out text went from {before.divergence:.4f} to "
            f"{after.divergence:.4f}. Nothing was saved; use a smaller --rate, or more text."
        )
    step = {
        "step": "heal",
        "gossamer": version("gossamer"),
        "model": history[-1]["model"] if dense is None else dense,
        "digest": original.digest,
        "settings": {**asdict(settings), "rate": rate},
        "calibration": lesson.identity(),
    }
    plugin.mark(opened.model, [*history, step])
    found = Healed(
        model=opened.model,
        tokenizer=opened.tokenizer,
        before=before,
        after=after,
        windows=len(ids),
        seconds={"open, judge": opening - started, "heal": healed - opening, "judge": monotonic() - healed},
        peak_memory=peak_bytes(),
    )
    if out is not None:
        saving.save(opened.model, opened.tokenizer, Path(out), {"healing.json": found.to_json()})
    kept.unlink(missing_ok=True)
    return found


def _settings(made: dict[str, Any], text: str | None, tokens: int, seed: int) -> Settings:
    """Those of the compression, but for what the call says; a model's own writing is read again, and no more of it."""
    own = text is None and made["text"] is None
    return Settings(
        text=text or made["text"],
        tokens=made["tokens"] if own and not tokens else tokens,
        window=made["window"],
        seed=made["seed"] if own else seed,
        dtype=made["dtype"],
    )
