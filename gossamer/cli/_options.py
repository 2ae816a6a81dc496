"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gossamer import methods
from gossamer.errors import BudgetError
from gossamer.vocabulary import Budget, Settings, Unit

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Hub name, folder, GGUF file, or smollm2-135m / minilm-l6-v2.")
]
Keep = Annotated[float | None, typer.Option(help="Keep this fraction of the linear layers' parameters.")]
Bytes = Annotated[str | None, typer.Option(help="Size of the weights on disk, as 120MB, 1.5GB or 800MiB.")]
Bits = Annotated[
    float | None,
    typer.Option(help="Bits that a weight of the linear layers may take on average, everything stored counted."),
]
Macs = Annotated[float | None, typer.Option(help="Keep this fraction of the linear layers' multiply-adds.")]
Text = Annotated[
    str | None, typer.Option(help="Calibration text: a UTF-8 file or a Hub data set; by default the model's own.")
]
Test = Annotated[str | None, typer.Option(help="Text to judge by; by default the end of the calibration text.")]
Tokens = Annotated[int, typer.Option(help="Calibration tokens to read; 0 for the whole text.")]
Window = Annotated[int, typer.Option(help="Tokens in a window.")]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn at random.")]
Method = Annotated[str, typer.Option(help="Names metric, structures and allocator: a file of gossamer/methods.")]
Metric = Annotated[
    str | None, typer.Option(help="What an error costs, if not as in the method: a file of gossamer/metrics.")
]
Structures = Annotated[
    str | None,
    typer.Option(
        "--structures",
        help="What weights may become, if not as in the method: names in structures and bottlenecks, by commas.",
    ),
]
Allocator = Annotated[
    str | None,
    typer.Option(help="Who shares out the budget, if not as in the method: a file of gossamer/budgets."),
]
Dtype = Annotated[str, typer.Option(help="Number format to open and save in: auto, float32, bfloat16 or float16.")]
Tie = Annotated[bool, typer.Option("--tie", help="Give layers that are fed by the same input one rank.")]
Embeddings = Annotated[
    bool,
    typer.Option("--embeddings", help="Rewrite token embeddings and output head too, and count them in the budget."),
]
Work = Annotated[
    Path | None, typer.Option(help="Folder for statistics and curves that later budgets re-use.", show_default="cache")
]
Out = Annotated[Path, typer.Option(help="New folder for the compressed model.")]
Pupil = Annotated[str, typer.Argument(metavar="DIR", help="A folder that gossamer wrote.")]
TaughtOut = Annotated[Path, typer.Option(help="New folder for the model as it comes out.")]
LessonText = Annotated[str | None, typer.Option(help="Text to learn from; by default the calibration text.")]
Rate = Annotated[float, typer.Option(help="Largest step, relative to the size of each tensor.")]
DenseModel = Annotated[str | None, typer.Option(help="The dense model, where it is not the one recorded.")]

KEEPS = "0.9,0.8,0.6"
SCALES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def budget(keep: float | None, bytes: str | None, macs: float | None, bits: float | None) -> Budget:
    """The one budget that was given."""
    options = (("--keep", keep), ("--bytes", bytes), ("--macs", macs), ("--bits", bits))
    given = [name for name, value in options if value is not None]
    if len(given) != 1:
        have = " and ".join(given) or "none"
        raise BudgetError(
            f"Give exactly one budget, --keep, --bytes, --macs or --bits (found {have}); for example --keep 0.6."
        )
    if bits is not None:
        return Budget(unit="bits", amount=bits)
    if keep is not None:
        return Budget(unit="params", amount=keep)
    if macs is not None:
        return Budget(unit="macs", amount=macs)
    return Budget(unit="bytes", amount=_size(bytes or ""))


def budgets(keep: str | None, bytes: str | None, macs: str | None, bits: str | None) -> list[Budget]:
    """All the budgets that were listed by commas; three of parameters where none was."""
    keep = KEEPS if keep is bytes is macs is bits is None else keep
    given: list[tuple[str, Unit, str | None]] = [
        ("--keep", "params", keep),
        ("--bytes", "bytes", bytes),
        ("--macs", "macs", macs),
        ("--bits", "bits", bits),
    ]
    return [
        Budget(unit=unit, amount=_size(part) if unit == "bytes" else _number(part, option))
        for option, unit, parts in given
        for part in names(parts or "")
    ]


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        example = "4,3.3" if option == "--bits" else "0.9,0.8,0.6"
        raise BudgetError(f"{text!r} is not a number; write {option} as {example}.") from None


def _size(text: str) -> float:
    number = text.strip().lower().rstrip("abcdefghijklmnopqrstuvwxyz").strip()
    suffix = text.strip().lower()[len(number) :].strip() or "b"
    try:
        return float(number) * SCALES[suffix]
    except (ValueError, KeyError):
        raise BudgetError(f"{text!r} is not a size; write a number and a unit, as 120MB, 1.5GB or 800MiB.") from None


def settings(method: str, metric: str | None, structures: str | None, allocator: str | None, **others: Any) -> Settings:
    """The settings that the options spell out: the method's, unless one of the three is named."""
    named: dict[str, Any] = {"metric": metric, "allocator": allocator}
    if structures is not None:
        named["structures"] = names(structures)
    return methods.settings(method, **{k: v for k, v in named.items() if v is not None}, **others)


def names(text: str) -> tuple[str, ...]:
    """What is listed by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


DEFAULTS = Settings()
METHOD = "mixed"
