"""How fast measuring and pricing are, beside a plain implementation and beside the floor, all in one run.

    python benchmarks/speed.py --calibration wiki.valid.raw

*Plain*: float32 passes, softmax less one drawn label as the gradient at the logits, a full product for every layer's A
and G, and for every layer two float64 eigendecompositions and one float64 SVD of the whitened weight. *Floor*: the
model's forward and backward passes in the number format that gossamer uses (with the plain gradient, through the head,
which gossamer goes around), and one float64 eigendecomposition of the smaller side a layer. Passes are timed on a few
windows and scaled to the 16,384 tokens of the protocol; plain pricing is timed on some blocks and scaled to all.
Gossamer's pricing is that of low rank (the method `pivoted`), which is what the plain one does; what the neurons of the
default method add is a line of its own.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gossamer
from gossamer import data
from gossamer.checkpoints.opening import open_model
from gossamer.checkpoints.store import Workspace
from gossamer.evaluation.machine import machine
from gossamer.recipes.measuring import find_sites, windows_for
from gossamer.recipes.prices import weight_of
from gossamer.recipes.pricing import price_model
from gossamer.sites import frozen_twin, passes_dtype
from gossamer.statistics import Sums
from gossamer.statistics._gather import gather
from gossamer.vocabulary import Site

NEEDS = ("input_second_moment", "gradient_second_moment")
TOKENS = 16_384


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


Pairs = dict[str, tuple[Tensor, Tensor]]


def plain_measure(model: Any, found: tuple[Site, ...], windows: Tensor, sums: Pairs) -> None:
    handles = []
    for site in found:

        def hook(_m: Any, args: Any, out: Tensor, site: Site = site) -> None:
            x = args[0].detach().reshape(-1, site.shape[1])
            sums[site.name][0].addmm_(x.T, x)

            def back(g: Tensor) -> None:
                g = g.reshape(-1, site.shape[0])
                sums[site.name][1].addmm_(g.T, g)

            out.register_hook(back)

        handles.append(model.get_submodule(site.name).register_forward_hook(hook))
    passes(model, windows)
    for handle in handles:
        handle.remove()


def passes(model: Any, windows: Tensor, batch: int = 1) -> None:
    handle = model.get_input_embeddings().register_forward_hook(lambda _m, _i, out: out.requires_grad_())
    generator = torch.Generator().manual_seed(0)
    for ids in windows.split(batch):
        outputs = model(input_ids=ids, use_cache=False)
        outputs.logits.backward(one_label(outputs.logits, generator))
    handle.remove()


@torch.no_grad()
def one_label(logits: Tensor, generator: torch.Generator) -> Tensor:
    flat = logits.flatten(0, 1)
    gradient = torch.empty_like(flat)
    for rows, part in zip(flat.split(16), gradient.split(16), strict=True):  # few at a time stay in the cache
        chances = rows.softmax(-1, dtype=torch.float32)
        cumulative = chances.cumsum(-1)
        draw = torch.rand(len(rows), 1, generator=generator) * cumulative[:, -1:]
        label = torch.searchsorted(cumulative, draw).clamp_max_(flat.shape[1] - 1)
        part.copy_(chances.scatter_add_(-1, label, -torch.ones_like(draw)))
    return gradient.view_as(logits)


def plain_price(weight: Tensor, a: Tensor, g: Tensor) -> Tensor:
    roots = []
    for moment in (g.double(), a.double()):
        values, vectors = torch.linalg.eigh(moment + 1e-3 * moment.diagonal().mean() * torch.eye(len(moment)))
        roots.append((vectors * values.clamp_min(0).sqrt()) @ vectors.T)
    spectrum: Tensor = torch.linalg.svd(roots[0] @ weight @ roots[1], full_matrices=False)[1]
    return spectrum


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--model", default="smollm2-135m")
    ask.add_argument("--calibration", required=True)
    ask.add_argument("--windows", type=int, default=8)
    ask.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "speed.json")
    given = ask.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Workspace(Path(folder) / "cache")
        opened = open_model(given.model, cache.root)
        found = find_sites(opened, embeddings=False)
        settings = gossamer.settings("pivoted", text=given.calibration, tokens=TOKENS)
        text = data.read(given.calibration)
        ids = windows_for(opened, settings, text, cache)[0].ids[: given.windows]
        scale = TOKENS / ids.numel()
        dtype = passes_dtype(opened.model)
        twin, plain = frozen_twin(opened.model, dtype), frozen_twin(opened.model, torch.float32)
        passes(twin, ids[:1])
        kept = {s.name: (torch.zeros(s.shape[1], s.shape[1]), torch.zeros(s.shape[0], s.shape[0])) for s in found}
        sums = Sums.zero(found, NEEDS, torch.device("cpu"))
        rivals: dict[str, Callable[[int], object]] = {
            "floor passes": lambda i: passes(twin, ids[i : i + 1]),
            "gossamer measure": lambda i: gather(twin, found, ids[: i + 1], NEEDS, seed=0, sums=sums),
            "plain measure": lambda i: plain_measure(plain, found, ids[i : i + 1], kept),
        }
        # Window by window in turn, and the median of each: a busy moment of the machine then spoils no one figure.
        laps = [[timed(partial(work, i)) for work in rivals.values()] for i in range(len(ids))]
        seconds = dict(
            zip(rivals, (scale * len(ids) * statistics.median(lap) for lap in zip(*laps, strict=True)), strict=True)
        )
        blocks = [s for s in found if any(f".{b}." in s.name for b in (0, 15, 29))]
        share = len(found) / len(blocks)
        seconds["plain price"] = share * timed(
            lambda: [plain_price(weight_of(opened, s), *(k / ids.numel() for k in kept[s.name])) for s in blocks]
        )
        squares = [torch.randn(min(s.shape), min(s.shape), dtype=torch.float64) for s in blocks]
        seconds["floor price"] = share * timed(lambda: [torch.linalg.eigh(q + q.T) for q in squares])
        small = replace(settings, tokens=ids.numel())
        seconds["gossamer price"] = price_model(given.model, small, work=cache.root).seconds["price"]
        seconds["gossamer price, kept curves"] = price_model(given.model, small, work=cache.root).seconds["price"]
        default = gossamer.settings("mixed", text=small.text, tokens=small.tokens)
        seconds["gossamer price, neurons too"] = price_model(given.model, default, work=cache.root).seconds["price"]
    plain_total = seconds["plain measure"] + seconds["plain price"]
    own_total = seconds["gossamer measure"] + seconds["gossamer price"]
    floor_total = seconds["floor passes"] + seconds["floor price"]
    result = {
        "tokens": TOKENS,
        "passes": str(dtype),
        "seconds": {k: round(v, 2) for k, v in seconds.items()},
        "plain over gossamer": round(plain_total / own_total, 2),
        "gossamer over floor": round(own_total / floor_total, 2),
        "machine": machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
