"""SliceGPT: what a turned stream computes, what a cut one costs and loses, and that it lives on as any other model."""

import copy
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import gossamer
from gossamer import bottlenecks, discover, sites
from gossamer.bottlenecks import Bottleneck
from gossamer.bottlenecks._stream import Norm, State, Stream, _beside, probe
from gossamer.bottlenecks.residual_stream import write_in
from gossamer.checkpoints import export, plugin, saving
from gossamer.errors import ModelError, PlanError
from gossamer.metrics.activation import Activation
from gossamer.vocabulary import Site

STREAM = discover.load(bottlenecks, "residual_stream", Bottleneck)()
SMALL = {
    "vocab_size": 272,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
HF = {
    "llama": ("LlamaConfig", {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {"intermediate_size": 48, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}),
    "gpt2": ("GPT2Config", {}),
    "gpt_neox": ("GPTNeoXConfig", {"intermediate_size": 48}),  # two norms and two branches at once
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gemma": ("GemmaConfig", {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}),  # gains from 1 on
}
SAVED = ("llama", "qwen2", "gpt2")
IDS = torch.randint(5, 260, (2, 24), generator=torch.Generator().manual_seed(3))

each_kind = pytest.mark.parametrize("kind", HF)
each_saved = pytest.mark.parametrize("kind", SAVED)


def built(config, **options):
    """A random model in which norms have gains, and layers biases, that matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**SMALL, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.15) if parameter.dim() == 2 else parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def lively(kind):
    name, options = HF[kind]
    return built(name, **options)


def stream_of(model):
    (stream,) = STREAM.find(model, sites.find(model))
    return stream


@torch.no_grad()
def answers(model, ids=IDS):
    return sites.output_of(sites.run(model, ids))


def bases(stream, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (stream.width, stream.width)
    random = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in stream.states]
    return [torch.linalg.qr(each).Q[:, :width] for each in random]


def turned(model, stream, made):
    small = copy.deepcopy(model)
    write_in(small, stream, made)
    return small


@torch.no_grad()
def states_of(model, stream, ids=IDS):
    """What every norm of the stream is given (tokens × width), less its mean where the norm takes that off."""
    seen = {}
    handles = [
        model.get_submodule(place.name).register_forward_pre_hook(
            lambda _m, args, name=place.name: seen.update({name: args[0].flatten(0, -2).double()})
        )
        for place in stream.places
    ]
    sites.run(model, ids)
    for handle in handles:
        handle.remove()
    return [seen[p.name] - seen[p.name].mean(-1, keepdim=True) * stream.centred for p in stream.places]


@each_kind
def test_the_stream_is_found_from_the_tables_to_the_head(kind):
    model = lively(kind)
    stream = stream_of(model)
    assert {site.name for site in stream.members} == {site.name for site in sites.find(model)}
    assert model.get_submodule(stream.head.name) is model.get_output_embeddings()
    assert stream.centred == (kind in ("gpt2", "gpt_neox", "opt"))
    norms = {norm.name for state in stream.states for norm in state.norms}
    assert len(norms) == 5 and len(stream.tables) == (2 if kind in ("gpt2", "opt") else 1)


@each_kind
@pytest.mark.parametrize("seed", [0, 1])
def test_with_nothing_deleted_the_predictions_are_the_dense_model_s(kind, seed):
    model = lively(kind)
    stream = stream_of(model)
    same = answers(turned(model, stream, bases(stream, stream.width, seed)))
    expected = answers(model)
    assert float((same - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@each_kind
def test_a_stream_that_leaves_coordinates_empty_is_cut_without_a_trace(kind):
    """Tables and writers that never leave 20 dimensions: cut to their principal axes the model says what it said."""
    model = lively(kind)
    stream = stream_of(model)
    axes = bases(stream, 20)[0].float()
    if stream.centred:
        axes = torch.linalg.qr(axes - axes.mean(0)).Q  # else the mean that the norms take off is a dimension more
    with torch.no_grad():
        for name in stream.tables:
            table = model.get_submodule(name).weight
            table.copy_(table @ axes @ axes.T)
        for site in (site for state in stream.states for site in state.writers):
            module = model.get_submodule(site.name)
            weight = sites.host(site.kind).weight(module)
            weight.copy_(axes @ axes.T @ weight)
            if module.bias is not None:
                module.bias.copy_(axes @ axes.T @ module.bias)
    expected = answers(model)
    prepared = prepare(model, stream)
    for place in stream.places:
        little, much = STREAM.prices(prepared[place.name], [20, 1])
        assert little < 1e-5 * much
    STREAM.install(model, stream, {}, 20, None, prepared)
    torch.testing.assert_close(answers(model), expected, rtol=1e-3, atol=1e-3)


def prepare(model, stream):
    found = {}
    for place, fed in zip(stream.places, states_of(model, stream), strict=True):
        metric = Activation(place.shape, {"input_second_moment": fed.T @ fed / len(fed)})
        found[place.name] = STREAM.prepare(stream, {}, metric)
    return found


@each_kind
def test_the_price_is_half_the_energy_deleted_which_is_the_sum_of_the_discarded_eigenvalues(kind):
    model = lively(kind)
    stream = stream_of(model)
    prepared = prepare(model, stream)
    for place, fed in zip(stream.places, states_of(model, stream), strict=True):
        spectrum = torch.linalg.eigvalsh(fed.T @ fed / len(fed))
        for size in (1, 13, 31):
            kept = prepared[place.name]["basis"][:, :size]
            gone = fed - fed @ kept @ kept.T
            energy = float(gone.square().sum(-1).mean())
            (price,) = STREAM.prices(prepared[place.name], [size])
            slack = 1e-5 * float(spectrum.sum())  # the metric's damping
            assert energy == pytest.approx(float(spectrum[: 32 - size].sum()), abs=1e-9 * float(spectrum.sum()))
            assert 2 * price == pytest.approx(energy, abs=slack)


@given(seed=st.integers(0, 9999), size=st.integers(1, 31))
@quick(deadline=None, max_examples=30)
def test_no_other_basis_deletes_less(seed, size):
    fed = torch.randn(60, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fed *= torch.logspace(0, -2, 32, dtype=torch.float64)
    stream = STREAM_OF_LLAMA
    metric = Activation((32, 32), {"input_second_moment": fed.T @ fed / 60})
    (price,) = STREAM.prices(STREAM.prepare(stream, {}, metric), [size])
    other = bases(stream, size, seed)[0]
    assert price <= metric.error(torch.eye(32, dtype=torch.float64) - other @ other.T) * (1 + 1e-9)


STREAM_OF_LLAMA = stream_of(lively("llama"))


@each_kind
@pytest.mark.parametrize("size", [5, 24, 31])
def test_what_it_is_said_to_cost_is_what_is_stored(kind, size):
    model = lively(kind)
    stream = stream_of(model)
    costs = STREAM.cost(stream, size, 4)
    small = turned(model, stream, bases(stream, size))
    for site in stream.members:
        carrier = small.get_submodule(site.name)
        numbers = sum(p.numel() for name, p in carrier.named_parameters() if name != "bias")
        assert (costs[site.name].params, costs[site.name].bytes) == (numbers, numbers * 4)
        assert costs[site.name].macs == carrier.macs()
    dense = sum(math.prod(site.shape) * 4 for site in stream.members)
    shrunk = saving.weights_bytes(model) - saving.weights_bytes(small)
    assert shrunk == dense - sum(cost.bytes for cost in costs.values())
    assert set(costs) - {site.name for site in stream.members} == {stream.head.name}


ATTENTION_AND_MLP = ("self_attn.q", "self_attn.k", "self_attn.v"), ("mlp.gate", "mlp.up")


def smollm2():
    """SmolLM2-135M with its shapes and no weights, and the stream that its shapes make."""
    with torch.device("meta"):
        config = transformers.LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
            num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(config)
    named = {site.name: site for site in sites.find(model)}
    head = Site(name="lm_head", kind="linear", shape=(49152, 576), bias=False, reads="lm_head")

    def state(norm, readers, writers):
        gain, offset = torch.ones(576), torch.zeros(576)
        whole = Norm(name=norm, eps=1e-5, centred=False, gain=gain, offset=offset, readers=readers)
        return State((whole,), tuple(named[name] for name in writers))

    states, before = [], []
    for i in range(30):
        at = f"model.layers.{i}"
        reads, feeds = ([named[f"{at}.{n}_proj"] for n in names] for names in ATTENTION_AND_MLP)
        states.append(state(f"{at}.input_layernorm", tuple(reads), before))
        states.append(state(f"{at}.post_attention_layernorm", tuple(feeds), [f"{at}.self_attn.o_proj"]))
        before = [f"{at}.mlp.down_proj"]
    states.append(state("model.norm", (head,), before))
    tables = ("model.embed_tokens",)
    *writers, reader = named.values()
    ends = {"states": tuple(states), "tables": tables, "head": head, **_beside(model, states, tables, head)}
    return model, Stream(writers=tuple(writers), reader=reader, **ends)


def test_smollm2_is_hardly_smaller_for_what_is_sliced_off():
    """At 10, 20, 25 and 30 % of its width, in steps of 8: each block has two shortcuts, and the head comes apart."""
    model, stream = smollm2()
    whole = sum(parameter.numel() for parameter in model.parameters())
    dense = sum(math.prod(site.shape) for site in stream.members)
    blocks, all_of_it = [], []
    for width in (512, 456, 432, 400):
        cost = STREAM.cost(stream, width, 1)
        inside = sum(cost[site.name].params for site in stream.members)
        blocks.append(inside / dense)
        all_of_it.append((whole - dense + sum(c.bytes for c in cost.values())) / whole)
    assert blocks == pytest.approx([1.037, 0.909, 0.855, 0.785], abs=6e-4)
    assert all_of_it == pytest.approx([1.19, 1.05, 0.99, 0.91], abs=6e-3)


@each_kind
def test_the_whole_stream_is_narrow(kind):
    model = lively(kind)
    stream = stream_of(model)
    small = turned(model, stream, bases(stream, 20))
    hidden = small(input_ids=IDS, output_hidden_states=True).hidden_states
    assert {state.shape[-1] for state in hidden} == {20}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("Gemma2Config", "norms behind its layers"),
        ("Olmo2Config", "not fed by norms"),
        ("GraniteConfig", "scales what they say"),
    ],
)
def test_a_stream_of_another_form_is_refused_in_a_sentence(config, why):
    model = built(config, **({"residual_multiplier": 0.3} if config == "GraniteConfig" else {}), intermediate_size=48)
    with pytest.raises(ModelError, match=f"{type(model).__name__} cannot be sliced: .*{why}.*choose another method"):
        STREAM.find(model, sites.find(model))


@pytest.mark.parametrize("kind", ["bert", "bert_mlm"])
def test_bert_is_refused_before_anything_slow(kind, model_folder, text_file, tmp_path):
    settings = gossamer.settings("slicegpt", text=str(text_file), tokens=1024, window=32)
    budget = gossamer.Budget(unit="params", amount=0.8)
    with pytest.raises(ModelError, match="cannot be sliced"):
        gossamer.compress(str(model_folder(kind)), budget, None, settings, work=tmp_path)
    assert not list(tmp_path.glob("statistics-*"))


def test_a_norm_of_two_states_is_refused():
    model = lively("llama")
    model.model.layers[1].input_layernorm = model.model.layers[0].input_layernorm
    with pytest.raises(ModelError, match="one of its norms more than once"):
        STREAM.find(model, sites.find(model))


class Lopsided(nn.Module):
    """No norm: the coordinates do not share a length."""

    def forward(self, x):
        return x / x[..., :4].square().mean(-1, keepdim=True).sqrt()


@pytest.mark.parametrize("module", [nn.GELU(), nn.Identity(), nn.Linear(16, 16), nn.Softmax(-1), Lopsided()])
def test_what_is_no_norm_is_not_taken_for_one(module):
    assert probe(module, 16) is None


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-6, 1e-5, 0.0123])
@pytest.mark.parametrize("kind", [nn.RMSNorm, nn.LayerNorm])
def test_a_norm_is_known_by_what_it_does(kind, eps):
    norm = kind(16, eps=eps)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    found = probe(norm, 16)
    assert found["centred"] == (kind is nn.LayerNorm)
    assert found["eps"] == pytest.approx(eps, rel=1e-9, abs=1e-11)
    torch.testing.assert_close(found["gain"].float(), norm.weight.detach(), rtol=1e-5, atol=1e-5)
    offset = norm.bias.detach() if kind is nn.LayerNorm else torch.zeros(16)
    torch.testing.assert_close(found["offset"].float(), offset, rtol=1e-5, atol=1e-6)
    assert found["offset"].any() == offset.any()


# ── from the command to the folder and back ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def sliced(model_folder, text_file, tmp_path_factory):
    """A function: (kind, unit, amount) → what came out of compressing a lively model, and its folder."""
    made = {}

    def of(kind, unit="params", amount=0.8):
        if (kind, unit, amount) not in made:
            dense, work = tmp_path_factory.mktemp("dense"), tmp_path_factory.mktemp("work")
            lively(kind).save_pretrained(dense)
            AutoTokenizer.from_pretrained(model_folder("llama")).save_pretrained(dense)
            settings = gossamer.settings("slicegpt", text=str(text_file), tokens=1024, window=32)
            budget = gossamer.Budget(unit=unit, amount=amount)
            done = gossamer.compress(str(dense), budget, work / "out", settings, work=work)
            made[kind, unit, amount] = done, work / "out"
        return made[kind, unit, amount]

    return of


@each_saved
def test_the_folder_loads_bit_identically_and_again(kind, sliced, tmp_path):
    done, folder = sliced(kind)
    expected = answers(done.model)
    for turn in ("once", "twice"):
        loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert {name: found for name, found in info.items() if found} == {}
        assert torch.equal(answers(loaded.eval()), expected)
        folder = tmp_path / turn
        loaded.save_pretrained(folder)
    body = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        last = done.model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(body(input_ids=IDS).last_hidden_state, last)


@each_saved
def test_what_the_budget_counts_is_what_the_layers_and_shortcuts_hold(kind, sliced):
    done, _ = sliced(kind)
    head = done.model.get_output_embeddings()
    carriers = [m for m in done.model.modules() if isinstance(m, sites.Carrier) and m is not head]
    numbers = sum(p.numel() for m in carriers for name, p in m.named_parameters() if name != "bias")
    assert done.report.small.params == numbers
    assert 0.72 * done.report.dense.params < numbers <= 0.8 * done.report.dense.params
    shortcuts = [m for m in carriers if isinstance(m, sites.ShortcutCarrier)]
    assert len(shortcuts) == 4
    assert {m.shortcut.shape[0] for m in shortcuts} == {o.size for o in done.plan.choices.values()}


@each_saved
def test_a_budget_in_bytes_counts_tables_and_the_head_that_came_apart(kind, sliced):
    limit = int(0.95 * saving.weights_bytes(lively(kind)))
    done, folder = sliced(kind, "bytes", float(limit))
    total = done.report.small_total.bytes
    assert 0.9 * limit < total == saving.weights_bytes(done.model) <= limit
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert total == sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_head_that_was_the_table_becomes_a_matrix_of_its_own(kind, sliced):
    done, folder = sliced(kind)
    width = next(o.size for o in done.plan.choices.values())
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert not loaded.config.tie_word_embeddings
    head, table = loaded.get_output_embeddings(), loaded.get_input_embeddings()
    assert head.expression.shape == (272, width) and table.weight.shape == (272, width)
    assert done.report.small_total.params == sum(p.numel() for p in loaded.parameters())
    assert lively(kind).config.tie_word_embeddings


@each_saved
def test_with_a_cache_it_writes_what_it_writes_without(kind, sliced):
    model = AutoModelForCausalLM.from_pretrained(sliced(kind)[1]).eval()
    prompt = IDS[:1, :5]
    options = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 12, "do_sample": False}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    cached, plain = (model.generate(prompt, use_cache=flag, **options) for flag in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    for a, b in zip(cached.logits, plain.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@each_saved
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_trains(kind, sliced, checkpointing):
    model = AutoModelForCausalLM.from_pretrained(sliced(kind)[1]).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    copied = copy.deepcopy(model).eval()
    assert torch.equal(answers(copied), answers(model.eval()))


def test_more_that_is_kept_is_closer(sliced):
    scores = [sliced("llama", amount=amount)[0].report.score.divergence for amount in (0.5, 0.7, 0.9)]
    assert scores == sorted(scores, reverse=True)


def test_principal_axes_beat_random_ones_and_plain_coordinates(sliced, text_file):
    done, folder = sliced("llama")
    model, stream = lively("llama"), STREAM_OF_LLAMA
    size = next(o.size for o in done.plan.choices.values())
    ids = AutoTokenizer.from_pretrained(folder)(text_file.read_text(), return_tensors="pt")["input_ids"][:, -64 * 8 :]
    ids = ids.view(16, 32)
    loudest = [x.square().sum(0).argsort(descending=True)[:size] for x in states_of(model, stream, ids)]
    others = [bases(stream, size), [torch.eye(32, dtype=torch.float64)[:, kept] for kept in loudest]]
    dense = answers(model, ids).log_softmax(-1)

    def divergence(small):
        return float((dense.exp() * (dense - answers(small, ids).log_softmax(-1))).sum(-1).mean())

    assert divergence(done.model) < min(divergence(turned(model, stream, other)) for other in others)


def test_threads_may_share_it_and_copies_are_apart(sliced):
    model = sliced("llama")[0].model
    inputs = [torch.randint(5, 260, (2, 24), generator=torch.Generator().manual_seed(i)) for i in range(40)]
    expected = [answers(model, ids) for ids in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda ids: answers(model, ids), inputs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    apart = copy.deepcopy(model)
    ends = [m for whole in (model, apart) for m in whole.modules() if isinstance(m, sites.ShortcutCarrier)]
    assert len({id(end.passing) for end in ends}) == len(ends) == 8
    assert torch.equal(answers(apart, inputs[0]), expected[0])


def test_it_compiles_to_one_graph(sliced):
    model = copy.deepcopy(sliced("llama")[0].model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(input_ids=IDS).logits, answers(model))


def test_it_is_not_exported_to_a_stock_model(sliced, tmp_path):
    with pytest.raises(ModelError, match="shortcuts"):
        export.to_dense(sliced("llama")[0].model, None, tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_plan_is_carried_out_to_the_same_model(sliced, tmp_path):
    done, folder = sliced("qwen2")
    again = gossamer.apply(folder / "plan.json", tmp_path / "again", work=folder.parent)
    assert torch.equal(answers(again.model), answers(done.model))


def test_a_plan_for_some_of_the_layers_is_refused(sliced, tmp_path):
    _, folder = sliced("qwen2")
    plan = json.loads((folder / "plan.json").read_text())
    plan["choices"]["model.layers.1.mlp.up_proj"]["structure"] = "dense"
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(PlanError, match="and 11 more narrow together"):
        gossamer.apply(tmp_path / "plan.json", None, work=folder.parent)


def test_it_heals(sliced, tmp_path):
    _, folder = sliced("llama", amount=0.6)
    healed = gossamer.heal(str(folder), tmp_path / "healed", rate=0.003, work=folder.parent)
    assert healed.after.divergence < healed.before.divergence
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "healed").eval()
    assert torch.equal(answers(loaded), answers(healed.model))
    assert [step["step"] for step in plugin.history_of(loaded)] == ["compress", "heal"]
