"""Statistics: the sums of one pass, by hand and by parts; and what they are the moments of."""

from types import SimpleNamespace

import pytest
import torch
from contract_cases import STATISTICS, normal, tiny
from torch import nn

from gossamer.errors import NumericsError, WorkError
from gossamer.sites import find, frozen_twin
from gossamer.statistics import Sums, SumsFolder, _gather
from gossamer.statistics._felt import felt
from gossamer.statistics._gather import gather, shared_inputs
from gossamer.statistics._influence import block_influence
from gossamer.statistics._predictive import DRAWS, ROWS, Passes
from gossamer.vocabulary import Site

VOCAB, build_model = tiny.VOCAB, tiny.build_model
ALL = tuple(STATISTICS)
INPUTS_ALONE = tuple(n for n, s in STATISTICS.items() if s.reads == {"inputs"})

each_statistic = pytest.mark.parametrize("name", ALL)


def kept(folder):
    """The sums that `save` wrote, each statistic in the folder of its name."""
    return SumsFolder({name: folder / name for name in ALL})


def windows(count=6, length=12, seed=0, vocab=VOCAB):
    return torch.randint(0, vocab, (count, length), generator=torch.Generator().manual_seed(seed))


def shared_sites(model):
    """The model's sites, each knowing whose input it shares."""
    found = find(model)
    _, reads = shared_inputs(model, [s.name for s in found], torch.zeros(1, 8, dtype=torch.int64))
    return [Site(name=s.name, kind=s.kind, shape=s.shape, bias=s.bias, reads=reads[s.name]) for s in found]


@pytest.fixture(scope="module")
def llama():
    """(a tiny frozen llama in float32, its sites)."""
    model = build_model("llama")
    return frozen_twin(model, torch.float32), shared_sites(model)


def assert_same(one, other, **tolerance):
    assert one.totals.keys() == other.totals.keys()
    for name, owners in one.totals.items():
        assert owners.keys() == other.totals[name].keys()
        for owner, total in owners.items():
            if tolerance:
                torch.testing.assert_close(total, other.totals[name][owner], **tolerance)
            else:
                assert torch.equal(total, other.totals[name][owner]), (name, owner)
    assert (one.counts, one.tokens, one.windows) == (other.counts, other.tokens, other.windows)


def merged(one, other):
    one.merge(other)
    return one


# What a statistic is.


@each_statistic
def test_batches_add_up_in_any_split_and_order(name):
    kind = STATISTICS[name]
    x, g = normal(0, 40, 6).float(), normal(1, 40, 4).float()
    whole, parts = torch.zeros(kind.extent((4, 6))), torch.zeros(kind.extent((4, 6)))
    kind.add(whole, x, g)
    for rows in (slice(25, 40), slice(0, 1), slice(1, 25)):
        kind.add(parts, x[rows], g[rows])
    torch.testing.assert_close(kind.finished(parts, (4, 6)), kind.finished(whole, (4, 6)), rtol=1e-5, atol=1e-5)


@each_statistic
def test_sums_stay_float32_and_are_precise_for_half_precision_batches(name):
    kind = STATISTICS[name]
    x, g = normal(0, 500, 6).bfloat16(), normal(1, 500, 4).bfloat16()
    half, full = torch.zeros(kind.extent((4, 6))), torch.zeros(kind.extent((4, 6)))
    kind.add(half, x, g)
    kind.add(full, x.float(), g.float())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=1e-5, atol=1e-4)


@each_statistic
def test_a_statistic_does_without_what_it_says_it_does_not_read(name):
    kind = STATISTICS[name]
    x, g = normal(0, 9, 6).float(), normal(1, 9, 4).float()
    both, needed = torch.zeros(kind.extent((4, 6))), torch.zeros(kind.extent((4, 6)))
    kind.add(both, x, g)
    kind.add(needed, x if "inputs" in kind.reads else None, g if "gradients" in kind.reads else None)
    assert torch.equal(both, needed)
    assert both.any()


FORMULAS = {
    "input_second_moment": lambda x, g: x.T @ x,
    "input_mean": lambda x, g: x.sum(0),
    "input_absolute_mean": lambda x, g: x.abs().sum(0),
    "gradient_second_moment": lambda x, g: g.T @ g,
    "fisher_diagonal": lambda x, g: torch.einsum("ti,tj->tij", g, x).square().sum(0),
    "fisher_rows": lambda x, g: torch.einsum("ti,tj->tij", g, x).square().sum((0, 1)),
    "fisher_columns": lambda x, g: torch.einsum("ti,tj->tij", g, x).square().sum((0, 2)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_each_sum_is_its_formula(name):
    kind = STATISTICS[name]
    x, g = normal(0, 30, 300).float(), normal(1, 30, 5).float()
    total = torch.zeros(kind.extent((5, 300)))
    kind.add(total, x, g)
    torch.testing.assert_close(kind.finished(total, (5, 300)), FORMULAS[name](x, g), rtol=1e-4, atol=1e-4)


# What a pass over a model gathers.


def test_input_moments_are_those_of_the_tensors_that_enter_the_layers(llama):
    model, sites = llama
    text = windows()
    sums = gather(model, sites, text, INPUTS_ALONE, seed=0)
    seen = {}
    modules = dict(model.named_modules())
    handles = [
        modules[s.name].register_forward_pre_hook(lambda _m, args, n=s.name: seen.setdefault(n, args[0].detach()))
        for s in sites
    ]
    model(input_ids=text)
    for handle in handles:
        handle.remove()
    owners = {s.reads for s in sites}
    assert sums.totals["input_second_moment"].keys() == owners
    for owner in owners:
        x = seen[owner].reshape(-1, seen[owner].shape[-1])
        found = STATISTICS["input_second_moment"].finished(sums.totals["input_second_moment"][owner], (0, x.shape[1]))
        torch.testing.assert_close(found, x.T @ x, rtol=1e-4, atol=1e-4 * float(x.square().sum()) / len(x))
    assert sums.tokens == text.numel()
    assert sums.windows == len(text)
    assert set(sums.counts.values()) == {text.numel()}


def test_gradient_moments_are_those_of_the_summed_loss_of_the_drawn_labels(llama):
    """The labels are those that the generator of the first batch draws; autograd does the rest."""
    model, sites = llama
    text = windows(2)
    sums = gather(model, sites, text, ("gradient_second_moment", "fisher_diagonal"), seed=3)
    outputs, inputs = {}, {}
    modules = dict(model.named_modules())

    def note(name):
        def hook(_module, args, output):
            inputs[name] = args[0].detach()
            outputs[name] = output

        return hook

    handles = [modules[s.name].register_forward_hook(note(s.name)) for s in sites]
    start = model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_())
    logits = model(input_ids=text).logits
    for handle in (*handles, start):
        handle.remove()
    chances = logits.detach().reshape(-1, VOCAB).softmax(-1)
    draws = torch.rand(len(chances), DRAWS, generator=torch.Generator().manual_seed(3 * 1_000_003))
    labels = (chances.cumsum(-1)[:, None] < draws[:, :, None]).sum(-1).clamp_max(VOCAB - 1)
    weights = torch.tensor([-1.0, 1.0] * (DRAWS // 2)) / DRAWS**0.5
    nats = -logits.reshape(-1, VOCAB).log_softmax(-1).gather(1, labels)
    loss = (weights * nats).sum()
    names = [s.name for s in sites]
    gradients = dict(zip(names, torch.autograd.grad(loss, [outputs[n] for n in names]), strict=True))
    for site in sites:
        g, x = gradients[site.name].reshape(-1, site.shape[0]), inputs[site.name].reshape(-1, site.shape[1])
        for name, by_hand in (
            ("gradient_second_moment", g.T @ g),
            ("fisher_diagonal", g.square().T @ x.square()),
        ):
            found = STATISTICS[name].finished(sums.totals[name][site.name], site.shape)
            torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-4 * float(by_hand.max()))


@pytest.mark.parametrize("kind", ["llama", "llama_untied", "gpt2", "bert", "bert_mlm"])
def test_tables_and_heads_keep_the_diagonal_of_their_wide_side(kind, tmp_path):
    """A table reads unit vectors, whose mean outer product is the diagonal of frequencies."""
    model = frozen_twin(build_model(kind), torch.float32)
    ends = {s.role: s for s in find(model, embeddings=True) if s.role != "layer"}
    text, needs = windows(4), ("input_second_moment", "gradient_second_moment", "fisher_rows", "input_mean")
    gradients = {}
    for role, site in ends.items():

        def note(_m, _a, output, role=role):
            if output.requires_grad:
                output.register_hook(lambda g: gradients.__setitem__(role, g.reshape(-1, g.shape[-1]).double()))

        start = model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_())
        handle = model.get_submodule(site.name).register_forward_hook(note)
        gather(model, [site], text, ("gradient_second_moment",), seed=0, batch_tokens=text.numel())
        start.remove()
        handle.remove()
    sums = gather(model, list(ends.values()), text, needs, seed=0, batch_tokens=text.numel())
    sums.save(tmp_path / "sums")
    moments = {role: kept(tmp_path / "sums").moments(site, needs) for role, site in ends.items()}
    frequencies = torch.bincount(text.flatten(), minlength=VOCAB).double() / text.numel()
    torch.testing.assert_close(moments["embedding"]["input_second_moment"], frequencies)
    torch.testing.assert_close(moments["embedding"]["input_mean"], frequencies)
    g = gradients["embedding"]
    close = {"rtol": 1e-4, "atol": 1e-6 * float(g.square().mean())}
    torch.testing.assert_close(moments["embedding"]["gradient_second_moment"], g.T @ g / len(g), **close)
    weighted = torch.zeros(VOCAB).double().index_add(0, text.flatten(), g.square().sum(1)) / len(g)
    torch.testing.assert_close(moments["embedding"]["fisher_rows"], weighted, **close)
    if "head" in ends:
        g = gradients["head"]
        torch.testing.assert_close(moments["head"]["gradient_second_moment"], g.square().mean(0), rtol=1e-4, atol=1e-9)
        assert moments["head"]["input_second_moment"].shape == (32, 32)


def test_statistics_of_one_pass_agree_with_each_other(llama):
    model, sites = llama
    sums = gather(model, sites, windows(), ALL, seed=0)
    for site in sites:
        diagonal = sums.totals["fisher_diagonal"][site.name]
        torch.testing.assert_close(sums.totals["fisher_rows"][site.name], diagonal.sum(0), rtol=1e-4, atol=1e-6)
        assert diagonal.shape == site.shape
        assert (diagonal >= 0).all() and diagonal.any()


def test_layers_fed_by_one_tensor_share_one_input_sum_and_no_gradient_sum(llama):
    _, sites = llama
    reads = {s.name: s.reads for s in sites}
    for layer in ("model.layers.0", "model.layers.1"):
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        for projection in ("q_proj", "k_proj", "v_proj"):
            assert reads[f"{attention}.{projection}"] == f"{attention}.q_proj"
        for projection in ("gate_proj", "up_proj"):
            assert reads[f"{mlp}.{projection}"] == f"{mlp}.gate_proj"
        for lonely in (f"{attention}.o_proj", f"{mlp}.down_proj"):
            assert reads[lonely] == lonely
    sums = Sums.zero(sites, ALL, torch.device("cpu"))
    assert len(sums.totals["input_second_moment"]) == 8
    for name in set(ALL) - set(INPUTS_ALONE):
        assert len(sums.totals[name]) == len(sites)


def test_two_halves_of_the_text_merge_into_the_whole_for_inputs(llama):
    model, sites = llama
    text = windows(7)
    whole = gather(model, sites, text, INPUTS_ALONE, seed=0)
    halves = [gather(model, sites, part, INPUTS_ALONE, seed=0) for part in (text[:3], text[3:])]
    assert_same(merged(*halves), whole, rtol=1e-4, atol=1e-3)


def test_two_halves_of_the_text_merge_into_the_whole_for_gradients(llama):
    model, sites = llama
    text = windows(6)
    whole = gather(model, sites, text, ALL, seed=5, batch_tokens=24)
    first = gather(model, sites, text[:2], ALL, seed=5, batch_tokens=24)
    # The second half draws the labels of its place in the text.
    second = Sums.zero(sites, ALL, torch.device("cpu"))
    second.windows = 2
    gather(model, sites, text, ALL, seed=5, batch_tokens=24, sums=second)
    second.windows -= 2
    scale = max(float(t.abs().max()) for owners in whole.totals.values() for t in owners.values())
    assert_same(merged(first, second), whole, rtol=1e-4, atol=1e-6 * scale)


def test_a_resumed_pass_equals_an_uninterrupted_one_to_the_bit(llama, tmp_path):
    model, sites = llama
    text = windows(7)
    whole = gather(model, sites, text, ALL, seed=1, batch_tokens=24)
    gather(model, sites, text[:4], ALL, seed=1, batch_tokens=24).save(tmp_path / "sums-4")
    resumed = Sums.restore(tmp_path / "sums-4", sites, ALL)
    assert resumed.windows == 4
    assert_same(gather(model, sites, text, ALL, seed=1, batch_tokens=24, sums=resumed), whole)


def test_a_pass_killed_after_a_save_goes_on_from_there_to_the_same_sums(llama, tmp_path, monkeypatch):
    model, sites = llama
    text = windows(6)
    whole = gather(model, sites, text, ALL, seed=1, batch_tokens=24)
    monkeypatch.setattr(_gather, "SAVE_EVERY", -1.0)

    def keep(sums):
        sums.save(tmp_path / "kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(model, sites, text, ALL, seed=1, batch_tokens=24, keep=keep)
    resumed = Sums.restore(tmp_path / "kept", sites, ALL)
    assert 0 < resumed.windows < len(text)
    assert_same(gather(model, sites, text, ALL, seed=1, batch_tokens=24, sums=resumed), whole)


def test_sums_that_hold_all_windows_are_not_added_to(llama):
    model, sites = llama
    text = windows(2)
    sums = gather(model, sites, text, ALL, seed=0)
    before = {n: {o: t.clone() for o, t in owners.items()} for n, owners in sums.totals.items()}
    again = gather(model, sites, text, ALL, seed=0, sums=sums)
    assert all(torch.equal(before[n][o], t) for n, owners in again.totals.items() for o, t in owners.items())
    assert again.tokens == text.numel()


def test_the_seed_decides_the_labels_and_nothing_else(llama):
    model, sites = llama
    one, same, other = (gather(model, sites, windows(3), ALL, seed=seed) for seed in (0, 0, 1))
    assert_same(one, same)
    for owner, total in one.totals["input_second_moment"].items():
        assert torch.equal(total, other.totals["input_second_moment"][owner])
    for owner, total in one.totals["gradient_second_moment"].items():
        assert not torch.equal(total, other.totals["gradient_second_moment"][owner])


def test_every_batch_draws_labels_of_its_own(llama):
    model, sites = llama
    text = windows(1)
    needs = ("gradient_second_moment",)
    once = gather(model, sites, text, needs, seed=0, batch_tokens=12).totals["gradient_second_moment"]
    twice = gather(model, sites, text.repeat(2, 1), needs, seed=0, batch_tokens=12).totals["gradient_second_moment"]
    for owner, total in once.items():
        assert not torch.allclose(twice[owner], 2 * total, rtol=1e-3)


def test_a_pass_leaves_the_model_without_hooks_or_gradients(llama):
    model, sites = llama
    gather(model, sites, windows(2), ALL, seed=0)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", ["gpt2", "bert", "bert_mlm", "qwen2"])
def test_every_layer_of_every_kind_of_model_is_measured(kind):
    model = build_model(kind)
    sites = shared_sites(model)
    text = windows(2, vocab=60)
    sums = gather(frozen_twin(model, torch.float32), sites, text, ALL, seed=0)
    for site in sites:
        # An encoder's pooler feeds nothing that the last hidden state is read from.
        if site.name != "pooler.dense":
            assert all(sums.totals[n][site.reads if n in INPUTS_ALONE else site.name].any() for n in ALL), site.name
        assert torch.isfinite(sums.totals["gradient_second_moment"][site.name]).all()


def test_the_frozen_twin_is_a_copy_with_the_same_ties_and_other_numbers():
    model = build_model("llama")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    twin = frozen_twin(model, torch.bfloat16)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in twin.parameters())
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())


# What must not pass.


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_reported_with_the_layer_they_reach(value):
    model = build_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = value
    with pytest.raises(NumericsError, match=r"model\.layers\.1\.mlp\.down_proj"):
        gather(frozen_twin(model, torch.float32), shared_sites(model), windows(2), INPUTS_ALONE, seed=0)


def test_gradients_that_are_not_finite_are_reported_with_their_layer():
    model = OneLayer(features=5, classes=4)

    class Root(nn.Module):
        def forward(self, x):
            return (x * 0).sqrt()  # finite, with an infinite slope

    model.head = nn.Sequential(Root(), nn.Linear(4, 4))
    with pytest.raises(NumericsError, match="layer: its gradients"):
        gather(frozen_twin(model, torch.float32), [OneLayer.site(5, 4)], windows(2, vocab=9), ALL, seed=0)


# What the sums are the moments of.


class OneLayer(nn.Module):
    """Embedding and one linear layer: softmax regression, or a reader of the linear layer's outputs themselves."""

    def __init__(self, features, classes, hidden_state=False):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(9, features)
        self.layer = nn.Linear(features, classes)
        self.head = nn.Identity()
        self.field = "last_hidden_state" if hidden_state else "logits"

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids):
        return SimpleNamespace(**{self.field: self.head(self.layer(self.embedding(input_ids)))})

    @staticmethod
    def site(features, classes):
        return Site(name="layer", kind="linear", shape=(classes, features), bias=True, reads="layer")


def mean_of(sums, name, site, folder):
    sums.save(folder)
    return kept(folder).mean(name, site)


def test_the_gradient_moment_of_softmax_regression_is_its_fisher_information(tmp_path):
    model, site = OneLayer(features=5, classes=4), OneLayer.site(5, 4)
    text = windows(300, 64, vocab=9)
    sums = gather(frozen_twin(model, torch.float32), [site], text, ("gradient_second_moment",), seed=0)
    found = mean_of(sums, "gradient_second_moment", site, tmp_path / "sums")
    p = model(text.reshape(-1)).logits.detach().double().softmax(-1)
    expected = torch.diag(p.mean(0)) - p.T @ p / len(p)
    # 19,200 draws of numbers of at most one: five standard errors are below 0.02.
    assert (found - expected).abs().max() < 0.01
    assert expected.abs().max() > 0.1


def test_the_gradient_moment_of_a_hidden_state_is_white_noise_over_its_variance(tmp_path):
    model, site = OneLayer(features=5, classes=3, hidden_state=True), OneLayer.site(5, 3)
    text = windows(300, 64, vocab=9)
    sums = gather(
        frozen_twin(model, torch.float32), [site], text, ("gradient_second_moment",), seed=0, batch_tokens=10**6
    )
    found = mean_of(sums, "gradient_second_moment", site, tmp_path / "sums")
    variance = float(model(text.reshape(-1)).last_hidden_state.detach().var(dim=0).mean())
    assert (found * variance - torch.eye(3)).abs().max() < 0.06


def passes_of(logits):
    """Passes of a model that says the same whatever it is asked: no head, only logits."""
    passes = Passes(OneLayer(features=2, classes=2))
    return passes, SimpleNamespace(logits=logits)


def test_gradients_of_drawn_labels_have_the_moments_of_the_models_own_chances():
    """First, second and fourth: a label's own gradient p − e has the second too, and sixteen times the excess."""
    logits = torch.tensor([3.0, -40.0, 1.0, 0.0, -2.0]).expand(40_000, 5)
    p = logits[0].double().softmax(-1)
    passes, outputs = passes_of(logits)
    gradient = passes.gradient(outputs, torch.Generator().manual_seed(0)).double()
    assert gradient.mean(0).abs().max() < 0.01
    assert (gradient.T @ gradient / len(gradient) - torch.diag(p) + torch.outer(p, p)).abs().max() < 0.01
    assert gradient.sum(-1).abs().max() < 1e-5 and gradient[:, 1].abs().max() < 1e-5
    variance = p * (1 - p)
    excess = variance * (1 - 6 * variance)  # of one Bernoulli variable, as a fourth cumulant
    found = gradient.pow(4).mean(0) - 3 * gradient.square().mean(0).square()
    assert (found - excess / DRAWS).abs().max() < 0.004 < excess.max() / 8  # four labels would have a quarter


@pytest.mark.parametrize("kind", ["llama", "llama_untied", "gpt2", "bert_mlm"])
def test_a_head_left_out_gives_the_layers_the_gradients_that_it_would_pass_on(kind, monkeypatch):
    """The head of each of these ends the model; watched, it is run as it is, and has gradients of its own."""
    model = frozen_twin(build_model(kind), torch.float32)
    sites, text = shared_sites(model), windows(3, ROWS + 3)
    head = next(name for name, m in model.named_modules() if m is model.get_output_embeddings())
    monkeypatch.setattr("gossamer.statistics._predictive.HEAD_ROWS", 2 * ROWS)  # so the head reads in parts
    assert Passes(model).head is model.get_submodule(head)
    assert Passes(model, watched=[head]).head is None
    needs = ("gradient_second_moment", "input_second_moment")
    without = gather(model, sites, text, needs, seed=1, batch_tokens=text.numel())
    assert "forward" not in vars(model.get_submodule(head))  # the head is itself again
    ends = [site for site in find(model, embeddings=True) if site.role == "head"]
    watched = gather(model, [*sites, *ends], text, needs, seed=1, batch_tokens=text.numel())
    for site in sites:
        for name in needs:
            total = watched.totals[name].get(site.name)
            if total is not None:
                close = {"rtol": 1e-3, "atol": 1e-4 * float(total.abs().max())}
                torch.testing.assert_close(without.totals[name][site.name], total, **close)


def test_in_bfloat16_a_head_left_out_gives_the_same_but_for_rounding():
    model = frozen_twin(build_model("llama"), torch.bfloat16)
    passes, ids = Passes(model), windows(2, 40)
    hidden = passes.forward(ids)
    found = passes.gradient(hidden, torch.Generator().manual_seed(0))
    passes.head = None
    at_logits = passes.gradient(model(input_ids=ids), torch.Generator().manual_seed(0))
    through = at_logits.double() @ model.get_output_embeddings().weight.double()
    assert found.dtype == torch.bfloat16 and found.shape == (2, 40, 32)
    torch.testing.assert_close(found.double(), through, rtol=2**-8, atol=1e-6)


def capped(logits):
    return 3.0 * torch.tanh(logits / 3.0)


def never_the_first(logits):
    logits[..., :5] = -1e4
    return logits


def clamped(logits):
    return logits.clamp_(-100.0, 100.0)  # nothing is as large, and the model does not know it


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 2


@pytest.mark.parametrize("change", [capped, never_the_first, clamped, None])
def test_more_than_a_linear_step_at_the_end_keeps_the_head_in(change):
    """Soft caps, logits changed in place, a head of another kind: labels are drawn from what is said in the end."""
    model = frozen_twin(build_model("llama"), torch.float32)
    forward, head = model.forward, model.get_output_embeddings()
    if change is None:
        model.set_output_embeddings(Scaled(*head.weight.T.shape, bias=False).requires_grad_(False))
    else:

        def changed(*args, **kwargs):
            outputs = forward(*args, **kwargs)
            outputs.logits = change(outputs.logits)
            return outputs

        model.forward = changed
    passes = Passes(model)
    assert passes.head is None
    assert passes.forward(windows(1, 8)).logits.shape == (1, 8, VOCAB)


def test_predictions_that_are_not_finite_are_reported():
    passes, outputs = passes_of(torch.tensor([[0.0, torch.inf, 1.0]]))
    with pytest.raises(NumericsError, match="predictions are not finite"):
        passes.gradient(outputs, torch.Generator().manual_seed(0))


def test_an_input_moment_is_a_mean_over_the_tokens_that_reached_the_layer_and_others_over_all(tmp_path):
    class Half(OneLayer):
        def forward(self, input_ids):
            e = self.embedding(input_ids)
            y = self.layer(e[:, : e.shape[1] // 4])
            return SimpleNamespace(logits=torch.cat([y, torch.zeros(len(e), e.shape[1] - y.shape[1], 4)], 1))

    model, site = Half(5, 4), OneLayer.site(5, 4)
    text = windows(10, 16, vocab=9)
    sums = gather(frozen_twin(model, torch.float32), [site], text, ALL, seed=0)
    assert (sums.counts["layer"], sums.tokens) == (40, 160)
    sums.save(tmp_path / "sums")
    folder = kept(tmp_path / "sums")
    x = model.embedding(text[:, :4].reshape(-1)).detach().double()
    torch.testing.assert_close(folder.mean("input_second_moment", site), x.T @ x / 40, rtol=1e-5, atol=1e-6)
    for name in set(ALL) - set(INPUTS_ALONE):
        by_hand = STATISTICS[name].finished(sums.totals[name]["layer"].double(), site.shape) / 160
        torch.testing.assert_close(folder.mean(name, site), by_hand)


# Sums at rest.


def test_saved_sums_come_back_to_the_bit(llama, tmp_path):
    model, sites = llama
    sums = gather(model, sites, windows(3), ALL, seed=0)
    sums.save(tmp_path / "sums")
    assert_same(Sums.restore(tmp_path / "sums", sites, ALL), sums)
    assert [p.name for p in tmp_path.iterdir()] == ["sums"]


def test_sums_of_nothing_can_be_saved_too(llama, tmp_path):
    """A metric that needs no statistics still has a folder of them."""
    model, sites = llama
    gather(model, sites, windows(2), (), seed=0).save(tmp_path / "sums")
    assert (tmp_path / "sums").is_dir()


def test_what_another_run_is_still_writing_stays_its_own(llama, tmp_path):
    """Two runs may share a working folder; what an interrupted one left behind is never read."""
    model, sites = llama
    theirs = tmp_path / "sums.0123abcd.partial" / "input_second_moment" / "junk"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("junk")
    sums = gather(model, sites, windows(2), ALL, seed=0)
    sums.save(tmp_path / "sums")
    assert theirs.exists() and not list((tmp_path / "sums").rglob("junk"))
    assert_same(Sums.restore(tmp_path / "sums", sites, ALL), sums)


def test_the_second_of_two_runs_that_save_the_same_sums_leaves_the_first_s(llama, tmp_path):
    model, sites = llama
    sums = gather(model, sites, windows(2), ALL, seed=0)
    sums.save(tmp_path / "sums")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "sums").rglob("*")}
    sums.save(tmp_path / "sums")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sums").rglob("*")} == stamps
    assert [path.name for path in tmp_path.iterdir()] == ["sums"]


def test_a_lost_sum_is_a_work_error_when_it_is_looked_at_and_not_before(llama, tmp_path):
    model, sites = llama
    gather(model, sites, windows(2), ALL, seed=0).save(tmp_path / "sums")
    site = sites[3]
    (tmp_path / "sums" / "fisher_rows" / f"{site.name}.safetensors").unlink()
    found = kept(tmp_path / "sums").moments(site, ALL)
    assert list(found) == list(ALL) and len(found) == len(ALL)
    assert found["fisher_diagonal"].dtype == torch.float64
    with pytest.raises(WorkError, match="fisher_rows"):
        found["fisher_rows"]
    with pytest.raises(WorkError):
        Sums.restore(tmp_path / "sums", sites, ALL)


def test_sites_that_share_an_input_read_the_same_moment(llama, tmp_path):
    model, sites = llama
    gather(model, sites, windows(2), ALL, seed=0).save(tmp_path / "sums")
    folder = kept(tmp_path / "sums")
    by_name = {s.name.removeprefix("model.layers.0."): s for s in sites}
    q, k, o = (by_name[f"self_attn.{p}_proj"] for p in "qko")
    moment = folder.mean("input_second_moment", q)
    assert torch.equal(folder.mean("input_second_moment", k), moment)
    assert not torch.equal(folder.mean("input_second_moment", o), moment)
    assert torch.equal(folder.mean("input_second_moment", q), moment)
    assert torch.equal(moment, moment.T)


# What blocks do to what passes through them.


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_the_influence_of_a_block_is_how_far_it_turns_its_input(kind):
    model = build_model(kind).eval()
    sites, text = find(model), windows(5, 9)
    found = block_influence(model, sites, text)
    with torch.no_grad():
        hidden = model(input_ids=text, output_hidden_states=True).hidden_states
    first = 1 - torch.cosine_similarity(hidden[0], hidden[1], dim=-1).mean().item()
    in_first = [s.name for s in sites if ".0." in s.name]
    assert in_first and all(found[name] == pytest.approx(first, rel=1e-4) for name in in_first)
    assert {found[s.name] for s in sites if not any(f".{i}." in s.name for i in (0, 1))} <= {1.0}
    assert all(0 <= value <= 2 for value in found.values())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_what_is_felt_of_an_error_is_half_the_mean_squared_derivative_along_it(kind):
    """Checked by scaling the error in every token's output by a number of its own, and differentiating by these."""
    model = frozen_twin(build_model(kind), torch.float32)
    site = shared_sites(model)[3]
    errors = [normal(s, *site.shape).float() for s in (1, 2)]
    ids = windows(2, 8)
    found = felt(model, {site.name: errors}, ids, seed=7)[site.name]
    generator = torch.Generator().manual_seed(7)
    passes = Passes(model, watched=[site.name])
    sums = torch.zeros(2)
    for window in ids:
        scales = torch.zeros(2, 8, 1, requires_grad=True)

        def bent(_module, args, output, scales=scales):
            changes = torch.stack([args[0].detach()[0] @ error.T for error in errors])
            return output + (scales * changes).sum(0)

        handle = model.get_submodule(site.name).register_forward_hook(bent)
        outputs = passes.forward(window[None])
        handle.remove()
        said = getattr(outputs, "logits", outputs[0])
        said.backward(passes.gradient(outputs, generator))
        sums += 0.5 * scales.grad.square().sum((1, 2)) / ids.numel()
    torch.testing.assert_close(torch.tensor(found), sums, rtol=1e-4, atol=1e-9)
