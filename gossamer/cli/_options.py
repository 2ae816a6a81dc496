"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.errors import BudgetError
from gossamer.vocabulary import Budget, Settings

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Hub name, folder, GGUF file, or smollm2-135m / minilm-l6-v2.")
]
Keep = Annotated[float | None, typer.Option(help="Keep this fraction of the linear layers' parameters.")]
Bytes = Annotated[str | None, typer.Option(help="Size of the weights on disk, as 120MB, 1.5GB or 800MiB.")]
Macs = Annotated[float | None, typer.Option(help="Keep this fraction of the linear layers' multiply-adds.")]
Text = Annotated[
    str | None, typer.Option(help="Calibration text: a UTF-8 file or a Hub data set; by default the model's own.")
]
Test = Annotated[str | None, typer.Option(help="Text to judge by; by default the end of the calibration text.")]
Tokens = Annotated[int, typer.Option(help="Calibration tokens to read; 0 for the whole text.")]
Window = Annotated[int, typer.Option(help="Tokens in a window.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn at random.")]
Metric = Annotated[str, typer.Option(help="What an error costs: a file of gossamer/metrics.")]
Structures = Annotated[
    str, typer.Option("--structures", help="What weights may become, by commas: files of gossamer/structures.")
]
Allocator = Annotated[str, typer.Option(help="Who shares out the budget: a file of gossamer/budgets.")]
Dtype = Annotated[str, typer.Option(help="Number format to open and save in: auto, float32, bfloat16 or float16.")]
Tie = Annotated[bool, typer.Option("--tie", help="Give layers that are fed by the same input one rank.")]
Work = Annotated[
    Path | None, typer.Option(help="Folder for statistics and curves that later budgets re-use.", show_default="cache")
]
Out = Annotated[Path, typer.Option(help="New folder for the compressed model.")]

SCALES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def budget(keep: float | None, bytes: str | None, macs: float | None) -> Budget:
    """The one budget that was given."""
    given = [name for name, value in (("--keep", keep), ("--bytes", bytes), ("--macs", macs)) if value is not None]
    if len(given) != 1:
        have = " and ".join(given) or "none"
        raise BudgetError(f"Give exactly one budget, --keep, --bytes or --macs (found {have}); for example --keep 0.6.")
    if keep is not None:
        return Budget(unit="params", amount=keep)
    if macs is not None:
        return Budget(unit="macs", amount=macs)
    return Budget(unit="bytes", amount=_size(bytes or ""))


def _size(text: str) -> float:
    number = text.strip().lower().rstrip("abcdefghijklmnopqrstuvwxyz").strip()
    suffix = text.strip().lower()[len(number) :].strip() or "b"
    try:
        return float(number) * SCALES[suffix]
    except (ValueError, KeyError):
        raise BudgetError(f"{text!r} is not a size; write a number and a unit, as 120MB, 1.5GB or 800MiB.") from None


def settings(
    text: str | None, tokens: int, window: int, seed: int, metric: str, structures: str, dtype: str, tie: bool
) -> Settings:
    """The settings that the options spell out."""
    return Settings(
        text=text,
        tokens=tokens,
        window=window,
        seed=seed,
        metric=metric,
        structures=tuple(name.strip() for name in structures.split(",") if name.strip()),
        dtype=dtype,
        tie=tie,
    )


DEFAULTS = Settings()
STRUCTURES = ",".join(DEFAULTS.structures)
