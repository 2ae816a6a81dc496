"""The page of a folder, from the files in it: nothing is measured, and no model is opened."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gossamer.checkpoints import saving
from gossamer.checkpoints.store import read_json, write_text
from gossamer.errors import WorkError
from gossamer.reports import compare_page, report_page, taught_page
from gossamer.reports._words import judged

KINDS = ("compare", "report", *taught_page.DONE)
"""What a folder may be about: a file of this name and `.json` says it."""

LACKING = (LookupError, TypeError, AttributeError)
"""What reading figures raises where they are not there."""


def report(folder: Path | str, out: Path | str | None = None, beside: Sequence[Path | str] = ()) -> Path:
    """Write the page of `folder`, by default into it, and return where it is.

    What was measured of the folders in `beside`, other compressed forms of the same model, stands beside it.
    Raises `WorkError` where a folder holds nothing that can be shown, where a file in it is damaged, and where figures
    were not measured alike, and `OutputError` where another file than the folder's own page would be overwritten.
    """
    folder = Path(folder)
    kind = _kind(folder)
    own = folder / f"{'compare' if kind == 'compare' else 'report'}.html"
    out = Path(out or own)
    if out.resolve() != own.resolve():  # a folder's own page may be drawn again
        saving.new_file(out)
    if beside and kind != "report":
        raise WorkError(
            f"{folder} holds no report.json to put others beside; give the folder of a 'gossamer compress'."
        )
    found = _read(folder, kind)
    with _legible(folder):
        page = _page(folder, kind, found, {})
    others: dict[Path, Any] = {}
    for path in map(Path, beside):
        with _legible(path):  # the page could be drawn without it
            others[path] = _standing(path)
            page = _page(folder, kind, found, _named(folder, found, others))
    write_text(out, page)
    return out


@contextmanager
def _legible(folder: Path) -> Iterator[None]:
    """Raise `WorkError` where a file in `folder` lacks what the page shows."""
    try:
        yield
    except (*LACKING, ValueError, ArithmeticError) as error:  # the last two where they are no figures
        lacks = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise WorkError(
            f"{folder} was written by another version of gossamer, or changed by hand: a file in it does not have what "
            f"the page shows ({lacks}); make it anew."
        ) from error


def _kind(folder: Path) -> str:
    if not os.path.isdir(folder):
        raise WorkError(f"There is no folder {folder}; give one that gossamer wrote.")
    found = next((kind for kind in KINDS if (folder / f"{kind}.json").exists()), None)
    if found is None:
        files = " and ".join(f"no {kind}.json" for kind in KINDS)
        raise WorkError(f"{folder} holds {files}; give a folder that gossamer wrote.")
    return found


def _read(folder: Path, kind: str) -> Any:
    return read_json(folder / f"{kind}.json", "make it anew in another folder")


def _page(folder: Path, kind: str, found: Any, beside: Mapping[str, Any]) -> str:
    if kind == "compare":
        return compare_page.page(found)
    if kind != "report":
        return taught_page.page(kind, found)
    path = folder / "landscape.json"
    if not path.exists():
        why = "landscape.json is not in the folder; compress again to have them."
        return report_page.page(found, None, missing=why, beside=beside)
    landscape = None
    with suppress(WorkError):
        landscape = read_json(path)
    if isinstance(landscape, dict):
        with suppress(*LACKING):
            return report_page.page(found, landscape, beside=beside)
    why = "landscape.json is damaged; compress again to have them."
    return report_page.page(found, None, missing=why, beside=beside)


def _standing(folder: Path) -> Any:
    """What stands beside: a report, or as much of one as a training leaves."""
    kind = _kind(folder)
    found = _read(folder, kind)
    if kind == "compare":
        raise WorkError(f"{folder} holds a comparison, not a compressed model; give --beside the folder of one.")
    if kind != "report":
        first, *later = found["history"]
        then = [step["step"] for step in later]
        found = {"asked": first, "then": then, "small_total": found["small_total"], "score": found["after"]}
    return found


def _named(folder: Path, mine: Any, others: Mapping[Path, Any]) -> dict[str, Any]:
    """The others by short names, once it is sure that their figures were measured as the folder's own."""
    names = [path.name for path in others]
    for path, other in others.items():
        if other["asked"]["digest"] != mine["asked"]["digest"]:
            raise WorkError(
                f"{path} and {folder} were not made from the same model, so they cannot stand side by side."
            )
        if _alike(other) != _alike(mine):
            raise WorkError(
                f"{path} was judged on {judged(other['score']['protocol'])}, and {folder} on "
                f"{judged(mine['score']['protocol'])}: only one protocol compares; compress with the same --text, "
                "--window and --test."
            )
    return {path.name if names.count(path.name) == 1 else str(path): other for path, other in others.items()}


def _alike(report: Any) -> dict[str, Any]:
    """A protocol without the name of its text: the same text under another name is the same."""
    return {**report["score"]["protocol"], "source": None}
