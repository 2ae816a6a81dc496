"""From a model to what its layers saw: sites → text → windows → statistics. The first half of the way to curves."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs
import psutil
import torch
from torch import Tensor, nn

from gossamer import data, sites
from gossamer.checkpoints.opening import Opened
from gossamer.checkpoints.store import Workspace, read_tensors, write_tensors
from gossamer.data import Windows
from gossamer.errors import ModelError, ResourceError, TextError
from gossamer.evaluation.memory import trimming
from gossamer.evaluation.recalled import Recalled
from gossamer.sites import frozen_twin, passes_dtype
from gossamer.statistics import Sums, SumsFolder
from gossamer.statistics._gather import gather, shared_inputs
from gossamer.vocabulary import Progress, Settings, Site, silent

FORMAT = 10
"""Of all in the working folder but prices: statistics, influences, the model's own writing, what it said to judges."""
HELD_OUT = 4
"""Windows at the end of the text that judge a plan instead of making it; of a short text a tenth."""
FRESH = 8_192
"""Tokens between the calibration text and the held-out one that correct a plan, where there are any. Of 2,048 the
logarithm of a layer's ratio is off by 0.34 on SmolLM2-135M in 3 bits, and its spread is 0.49 (lab/LOG.md)."""


def default_work() -> Path:
    """Where intermediate results are kept unless a working folder is named."""
    return Path(platformdirs.user_cache_dir("gossamer"))


def find_sites(opened: Opened, embeddings: bool) -> tuple[Site, ...]:
    """The model's sites, each knowing which other site its input is shared with."""
    found = sites.find(opened.model, embeddings=embeddings)
    kind = type(opened.model).__name__
    try:
        outputs, reads = shared_inputs(
            opened.model, [s.name for s in found if s.role != "head"], torch.zeros(1, 8, dtype=torch.int64)
        )
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:
        raise ModelError(f"{opened.name} is a {kind}, which does not run on token ids alone: {error}") from error
    output = getattr(outputs, "logits", None)
    if output is None:
        output = getattr(outputs, "last_hidden_state", None)
    width = opened.model.config.get_text_config().vocab_size
    if (
        output is None
        or output.dim() != 3
        or (getattr(outputs, "logits", None) is not None and output.shape[-1] < width)
    ):
        raise ModelError(
            f"{opened.name} is a {kind}, which does not predict tokens; give a causal or masked language model, or an "
            "encoder without a head."
        )
    return tuple(replace(s, reads=reads.get(s.name, s.name)) for s in found)


def longest_window(model: Any, wanted: int) -> int:
    """`wanted` tokens, or as many as the model has positions for."""
    named = (getattr(model.config, name, None) for name in ("max_position_embeddings", "n_positions"))
    positions = min((count for count in named if count), default=wanted)
    # RoBERTa and its kin begin to count behind the row of their table of positions that padding has.
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == positions)
    passed = max((table.padding_idx + 1 for table in tables if table.padding_idx is not None), default=0)
    return min(wanted, positions - passed)


def windows_of(opened: Opened, text: str, source: str, longest: int) -> Windows:
    """The text in windows of `longest` tokens, or of as many as the model reads; raises `TextError`."""
    if opened.tokenizer is None:
        raise TextError(f"{opened.name} has no tokenizer, so no text can be read for it.")
    windows = data.cut(text, source, opened.tokenizer, longest_window(opened.model, longest))
    vocabulary, most = opened.model.get_input_embeddings().weight.shape[0], int(windows.ids.max())
    if most >= vocabulary:
        raise TextError(
            f"{opened.name} knows {vocabulary} tokens and its tokenizer gives id {most}; the tokenizer belongs to "
            "another model."
        )
    return windows


def shortened(wanted: int, found: Windows) -> tuple[str, ...]:
    """A note where windows are shorter than they were asked for."""
    length = found.ids.shape[1]
    return (f"Windows have {length} tokens instead of {wanted}: the model takes no more.",) if length < wanted else ()


def scarce(found: Sequence[Site], calibration: Windows) -> tuple[str, ...]:
    """A note where tokens are fewer than a layer's inputs, so that correlations between these cannot be known."""
    widest = max((site for site in found if site.role == "layer"), key=lambda site: site.shape[1], default=None)
    tokens = calibration.ids.numel()
    if widest is None or tokens >= widest.shape[1]:
        return ()
    return (
        f"Calibrated on {tokens:,} tokens, fewer than the {widest.shape[1]:,} inputs of {widest.name}: correlations "
        "between them are partly chance; give more text, or more --tokens.",
    )


def windows_for(
    opened: Opened, settings: Settings, text: str | None, workspace: Workspace, progress: Progress = silent
) -> tuple[Windows, Windows, Windows]:
    """(calibration windows from the start of the text, held-out windows from its end, fresh ones behind the first)."""
    length = longest_window(opened.model, settings.window)
    if text is None or settings.text is None:
        whole = _own_writing(opened, settings, length, workspace, progress)
    else:
        whole = windows_of(opened, text, settings.text, length)
    held = min(HELD_OUT, max(1, len(whole.ids) // 10))
    if len(whole.ids) < 2:
        raise TextError(f"{whole.source} fills one window of {length} tokens; two are needed, one to judge by.")
    wanted = -(-settings.tokens // length) if settings.tokens else len(whole.ids)
    count = min(wanted, len(whole.ids) - held)
    fresh = whole.ids[count:-held][: max(1, FRESH // length)]
    return replace(whole, ids=whole.ids[:count]), replace(whole, ids=whole.ids[-held:]), replace(whole, ids=fresh)


def _own_writing(opened: Opened, settings: Settings, length: int, workspace: Workspace, progress: Progress) -> Windows:
    path, done, count = _kept_writing(opened, settings, length, workspace)
    if done is None or len(done) < count:
        done = data.generate(
            frozen_twin(opened.model, passes_dtype(opened.model)),
            count,
            length,
            seed=settings.seed,
            done=done,
            keep=lambda ids: write_tensors(path, {"ids": ids}, {}),
            progress=progress,
        )
    return data.from_ids(done[:count], f"{opened.name}'s own writing, seed {settings.seed}")


def _kept_writing(
    opened: Opened, settings: Settings, length: int, workspace: Workspace
) -> tuple[Path, Tensor | None, int]:
    """(where the model's own writing is kept, the sequences that are there, how many it takes)."""
    identity = {
        "format": FORMAT,
        "model": opened.digest,
        "length": length,
        "seed": settings.seed,
        "passes": str(passes_dtype(opened.model)),
    }
    path = workspace.folder("writing", identity) / "ids.safetensors"
    done = read_tensors(path)[0]["ids"] if path.exists() else None
    return path, done, max(1, -(-settings.tokens // length)) + HELD_OUT


def recalled(opened: Opened, workspace: Workspace) -> Recalled:
    """The model, which need not work out again what it said on windows that judged before."""
    return Recalled(opened.model, workspace.folder("outputs", {"format": FORMAT, "model": opened.digest}))


def refuse_before_writing(
    opened: Opened, found: Sequence[Site], settings: Settings, needs: Sequence[str], workspace: Workspace
) -> None:
    """Raise `ResourceError` for what `measure` would refuse only after the model wrote its text, which takes minutes.

    Where that is written `measure` comes at once, and knows which statistics are there already.
    """
    if settings.text is not None:
        return
    _, done, count = _kept_writing(opened, settings, longest_window(opened.model, settings.window), workspace)
    if done is None or len(done) < count:
        _enough_memory(opened, found, needs)


def measure(
    opened: Opened,
    found: Sequence[Site],
    calibration: Windows,
    settings: Settings,
    needs: Sequence[str],
    workspace: Workspace,
    progress: Progress,
    *,
    elsewhere: bool = False,
) -> tuple[SumsFolder, dict[str, Any]]:
    """The statistics, gathered where the working folder lacks them, and their identity.

    `elsewhere` says that they are not those of the model's sites, so their identity names where they were gathered.
    """
    dtype = passes_dtype(opened.model)
    identity = {
        "format": FORMAT,
        "model": opened.digest,
        "text": {**calibration.identity(), "source": None},  # the same text under another name is the same
        "seed": settings.seed,
        "passes": str(dtype),
    }
    if elsewhere:
        identity["at"] = [place.name for place in found]
    if settings.embeddings:
        identity["embeddings"] = True
    whole = workspace.folder("statistics", identity)
    kept = {path.name: path for path in whole.glob(f"*/sums-{len(calibration.ids)}/*")}
    needs = [name for name in needs if name not in kept]
    if needs:
        # A pass gathers what no earlier one did, in a folder of its own that a resumed run finds again.
        folder = whole / "+".join(needs)
        _enough_memory(opened, found, needs)
        twin = frozen_twin(opened.model, dtype)

        def keep(sums: Sums) -> None:
            older = [path for path in _partial_sums(folder) if path.name != f"sums-{sums.windows}"]
            if (folder / f"sums-{sums.windows}").is_dir():
                return
            sums.save(folder / f"sums-{sums.windows}")
            for path in older:
                shutil.rmtree(path, ignore_errors=True)

        resumed = [Sums.restore(path, found, needs) for path in _partial_sums(folder)[-1:]]
        sums = gather(
            twin,
            found,
            calibration.ids,
            needs,
            seed=settings.seed,
            sums=resumed[0] if resumed else None,
            keep=keep,
            progress=trimming(progress),
        )
        keep(sums)
        kept |= {name: folder / f"sums-{sums.windows}" / name for name in needs}
    return SumsFolder(kept), identity


def _partial_sums(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("sums-*") if not p.name.endswith(".partial")]
    return sorted(found, key=lambda p: int(p.name.removeprefix("sums-")))


def _enough_memory(opened: Opened, found: Sequence[Site], needs: Sequence[str]) -> None:
    """Refuse a measurement that does not fit into memory, with the estimate."""
    shapes = Sums.zero(found, needs, torch.device("meta"))
    sums = sum(t.numel() * 4 for owners in shapes.totals.values() for t in owners.values())
    twin = sum(p.numel() for p in opened.model.parameters()) * passes_dtype(opened.model).itemsize
    needed, free = sums + twin + 500_000_000, psutil.virtual_memory().available
    if needed > free:
        raise ResourceError(
            f"Measuring {opened.name} needs about {needed / 1e9:.1f} GB beyond the model ({sums / 1e9:.1f} GB of them "
            f"statistics) and {free / 1e9:.1f} GB of memory are free; use a machine with more memory."
        )
