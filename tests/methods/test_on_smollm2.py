"""The inequalities that papers report, on layers of a real model: blocks 2, 15 and 28 of SmolLM2-135M.

Calibrated on this project's pages, and judged in the second moment of the inputs, on that text or on what follows it.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from gossamer import discover, methods, metrics, structures
from gossamer.bottlenecks.leverage_neurons import LeverageNeurons
from gossamer.checkpoints.opening import PACKAGED, Opened, open_model
from gossamer.data import cut
from gossamer.linalg.elimination import elimination_losses
from gossamer.metrics import Metric
from gossamer.recipes.measuring import find_sites
from gossamer.sites import frozen_twin, host
from gossamer.solvers import choose
from gossamer.statistics import SumsFolder, gather
from gossamer.structures import Structure
from gossamer.vocabulary import Site

MODEL = "smollm2-135m"
MODULE, _, PACKAGE = PACKAGED[MODEL]
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(importlib.util.find_spec(MODULE) is None, reason=f"{PACKAGE} is not installed"),
]

BLOCKS = (2, 15, 28)
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
READER = "mlp.down_proj"
LAYERS = [f"model.layers.{block}.{part}" for block in BLOCKS for part in (*ATTENTION, READER)]
WINDOW, LEARNED, HELD_OUT = 512, 9, 4
"""Eight tokens for each of 576 inputs, and some behind them."""
NEEDS = ("input_second_moment", "input_square", "input_absolute_mean", "fisher_rows", "fisher_diagonal")
SHAPES = discover.catalogue(structures, Structure)
PAGES = Path(__file__).parents[2] / "docs"

each_layer = pytest.mark.parametrize("name", LAYERS)


@dataclass(frozen=True)
class Model:
    """What is known of the layers: their weights, and statistics of the text and of what follows it."""

    sites: dict[str, Site]
    weights: dict[str, Tensor]
    learned: SumsFolder
    held_out: SumsFolder

    def metric(self, kind: str, name: str) -> Metric:
        found, site = metrics.metric(kind), self.sites[name]
        return found(site.shape, self.learned.moments(site, found.needs), LEARNED * WINDOW)

    def lost(
        self, method: str, name: str, size: int, structure: str | None = None, metric: str | None = None
    ) -> Tensor:
        """What a weight of this size lacks, written by a method, or in the structure or metric that is named."""
        row = methods.method(method)
        form, ruler = SHAPES[structure or row.structures[0]](), self.metric(metric or row.metric, name)
        weight, solver = self.weights[name], choose(type(form), type(ruler))
        return weight - solver.matrix(weight, form, size, ruler, solver.prepare(weight, form, ruler))

    def felt(self, lost: Tensor, name: str, *, held_out: bool = False) -> float:
        """The mean square of what the outputs lack."""
        moment = (self.held_out if held_out else self.learned).mean("input_second_moment", self.sites[name])
        return float((lost @ moment * lost).sum())

    def largest(self, structure: str, name: str, kept: float) -> int:
        """The largest size within a share of the dense weight's bytes in 16 bits, masks counted."""
        form, shape = SHAPES[structure](), self.sites[name].shape
        most = kept * 2 * shape[0] * shape[1]
        return max(size for size in form.sizes(shape) if form.cost(shape, size, 2).bytes <= most)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = shared(tmp_path_factory) / "smollm2"
    with FileLock(f"{folder}.lock"):
        opened = open_model(MODEL, folder / "cache")
        layers = [site for site in find_sites(opened, embeddings=False) if site.name.startswith(within())]
        if not (folder / "held-out").exists():
            measure(opened, layers, folder)
    weights = {s.name: host(s.kind).weight(opened.model.get_submodule(s.name)).detach().double() for s in layers}
    learned = SumsFolder({need: folder / "learned" / need for need in NEEDS})
    held_out = SumsFolder({NEEDS[0]: folder / "held-out" / NEEDS[0]})
    return Model({site.name: site for site in layers}, weights, learned, held_out)


def within() -> tuple[str, ...]:
    return tuple(f"model.layers.{block}." for block in BLOCKS)


def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that processes running tests side by side have in common: measuring once is enough."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def measure(opened: Opened, layers: list[Site], folder: Path) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("*.md")))
    ids = cut(text, "docs", opened.tokenizer, WINDOW).ids
    parts = {"learned": (ids[:LEARNED], NEEDS), "held-out": (ids[LEARNED : LEARNED + HELD_OUT], NEEDS[:1])}
    for name, (windows, needs) in parts.items():
        gather(frozen_twin(opened.model, torch.float32), layers, windows, needs, seed=0).save(folder / name)


@each_layer
def test_no_low_rank_loses_less_output_than_by_all_second_moments(name, model):
    rank = model.largest("low_rank", name, 0.8)
    lost = {method: model.lost(method, name, rank) for method in ("svd_llm", "asvd", "fwsvd", "svd")}
    felt = {method: model.felt(delta, name) for method, delta in lost.items()}
    assert felt["svd_llm"] < min(felt["asvd"], felt["fwsvd"], felt["svd"])
    rows = model.metric("row_fisher", name)
    assert rows.error(lost["fwsvd"]) < rows.error(lost["svd"])
    if model.sites[name].shape[1] * 8 <= LEARNED * WINDOW:
        assert model.felt(lost["svd_llm"], name, held_out=True) < model.felt(lost["asvd"], name, held_out=True)


@each_layer
def test_feedback_loses_a_third_less_than_rounding_on_any_text_and_scaling_no_more(name, model):
    for bits in (2, 3):
        nearest, fed_back = (model.lost(method, name, bits) for method in ("rtn", "gptq"))
        assert model.felt(fed_back, name) <= 0.7 * model.felt(nearest, name)
        assert model.felt(fed_back, name, held_out=True) < model.felt(nearest, name, held_out=True)
    scaled = model.lost("awq", name, 3, "scaled_64")
    assert model.felt(scaled, name) <= model.felt(nearest, name) * (1 + 1e-6)


@each_layer
def test_half_the_entries_go_at_least_cost_with_an_update_and_by_inputs_at_less_than_by_size(name, model):
    kept = model.sites[name].shape[1] // 2
    mended, by_inputs = (model.lost(method, name, kept) for method in ("sparsegpt", "wanda"))
    by_size = model.lost("wanda", name, kept, metric="identity")
    assert model.felt(mended, name) < 0.7 * model.felt(by_inputs, name)
    assert model.felt(by_inputs, name) < 0.9 * model.felt(by_size, name)


@each_layer
def test_levels_by_fisher_information_lose_less_of_it_than_even_ones_and_rounding(name, model):
    fisher = model.metric("diagonal_fisher", name)
    weighted = fisher.error(model.lost("squeezellm", name, 3, "codebook"))
    unweighted = fisher.error(model.lost("squeezellm", name, 3, "codebook", "identity"))
    rounded = fisher.error(model.lost("rtn", name, 3, "asymmetric_row"))
    assert weighted < min(unweighted, rounded)


@pytest.mark.parametrize("kept", [0.7, 0.5])
def test_a_dictionary_loses_less_than_low_rank_of_as_many_bytes_with_its_mask_counted(kept, model):
    names = [f"model.layers.{block}.self_attn.{part}" for block in BLOCKS for part in ("k_proj", "v_proj")]
    ratios = []
    for name in names:
        coded, low = (
            model.felt(model.lost(method, name, model.largest(structure, name, kept)), name)
            for method, structure in (("cospadi", "dictionary"), ("svd_llm", "low_rank"))
        )
        ratios.append(coded / low)
    assert sum(ratio < 1 for ratio in ratios) >= 0.8 * len(ratios), ratios


@pytest.mark.parametrize("kept", [0.8, 0.6])
def test_neurons_chosen_by_leverage_lose_less_than_chance_and_a_refit_saves_half(kept, model):
    saved = []
    for block in BLOCKS:
        name = f"model.layers.{block}.{READER}"
        weight = model.weights[name]
        moment = model.learned.mean("input_second_moment", model.sites[name])
        order = LeverageNeurons().order(weight, moment)
        count = int(kept * len(order))
        chance = torch.randperm(len(order), generator=torch.Generator().manual_seed(block))
        refitted, random = (float(elimination_losses(weight, moment, o)[count]) for o in (order, chance))
        assert refitted < 0.9 * random
        gone = torch.zeros_like(weight).index_copy_(1, order[count:], weight[:, order[count:]])
        saved.append(refitted / (0.5 * model.felt(gone, name)))
    assert max(saved) < 1
    assert fmean(saved) <= 0.5
