"""gossamer heal DIR --out DIR"""

from typing import Annotated

import typer

from gossamer.cli import _options as o
from gossamer.cli import _printing as p
from gossamer.recipes.heal import heal


def run(
    model: o.Pupil,
    out: o.TaughtOut,
    text: o.LessonText = None,
    tokens: Annotated[int, typer.Option(help="Tokens to learn from, each once; 0 for the whole text.")] = 0,
    rate: o.Rate = 0.0001,
    seed: o.Seed = o.DEFAULTS.seed,
    dense: o.DenseModel = None,
    work: o.Work = None,
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Train a compressed model towards its dense original for a short while; interrupted, the same command goes on."""
    done = heal(
        model, out, text=text, tokens=tokens, rate=rate, seed=seed, dense=dense, work=work, progress=p.watcher(quiet)
    )
    p.show_taught("healed", model, out, done, quiet=quiet, as_json=json)
