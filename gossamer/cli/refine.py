"""gossamer refine DIR --out DIR"""

from typing import Annotated

import typer

from gossamer.cli import _options as o
from gossamer.cli import _printing as p
from gossamer.recipes.refine import refine


def run(
    model: o.Pupil,
    out: o.TaughtOut,
    text: o.LessonText = None,
    tokens: Annotated[int, typer.Option(help="Tokens that every block reads; 0 for the whole text.")] = 16_384,
    rate: o.Rate = 0.001,
    seed: o.Seed = o.DEFAULTS.seed,
    dense: o.DenseModel = None,
    work: o.Work = None,
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Train a compressed model's blocks, one by one, to give what the dense model's give; resumable."""
    done = refine(
        model, out, text=text, tokens=tokens, rate=rate, seed=seed, dense=dense, work=work, progress=p.watcher(quiet)
    )
    p.show_taught("refined", model, out, done, quiet=quiet, as_json=json)
