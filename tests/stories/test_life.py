"""A compressed model is an ordinary model: it learns, writes, compiles, changes its number format and is copied."""

import copy
import pickle

import pytest
import torch

from gossamer.checkpoints.plugin import expressions_of, history_of
from gossamer.sites import Carrier

causal = pytest.mark.parametrize("kind", ["llama", "llama_untied", "qwen2", "qwen3", "gpt2"])
some = pytest.mark.parametrize("kind", ["llama", "gpt2", "bert_mlm"])


def factors(model):
    return {
        f"{name}.{leaf}": p
        for name, module in model.named_modules()
        if isinstance(module, Carrier)
        for leaf, p in module.named_parameters()
    }


@some
def test_a_step_reaches_every_factor_and_lowers_the_loss(kind, compressed, load, answers):
    model = load(compressed(kind).folder, kind).train()
    model.apply(lambda m: setattr(m, "p", 0.0) if isinstance(m, torch.nn.Dropout) else None)
    before = model(input_ids=answers.ids, labels=answers.ids).loss
    before.backward()
    leaves = factors(model)
    assert len(leaves) > 8
    for name, leaf in leaves.items():
        assert leaf.requires_grad and leaf.grad is not None, name
        assert leaf.grad.isfinite().all() and leaf.grad.any(), name
    torch.optim.SGD(leaves.values(), lr=1e-2).step()
    assert model(input_ids=answers.ids, labels=answers.ids).loss < before


@causal
def test_it_writes_the_same_with_and_without_a_cache(kind, compressed, load):
    model = load(compressed(kind).folder, kind)
    ids = torch.arange(10, 18)[None]
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    with_cache, without = (model.generate(ids, use_cache=use, **options) for use in (True, False))
    assert torch.equal(with_cache, without)
    assert with_cache.shape[1] > ids.shape[1] + 1


@some
def test_padding_on_the_left_changes_nothing(kind, compressed, load):
    """A batch of unequal prompts gives each the logits it has alone: the attention mask still works."""
    model = load(compressed(kind).folder, kind)
    ids = torch.arange(10, 18)[None]
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids], 1)
    mask = (torch.arange(11) >= 3).long()[None]
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        together = model(input_ids=padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama"])
def test_it_compiles_in_one_graph(kind, compressed, load, answers):
    model = load(compressed(kind).folder, kind)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(answers(compiled), answers(model), atol=1e-6, rtol=1e-5)


@some
def test_it_moves_to_another_number_format(kind, compressed, load, answers):
    model = load(compressed(kind).folder, kind)
    expected = answers(model)
    model.to(torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    found = answers(model)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
    back = answers(model.to(torch.float32))
    assert back.dtype == torch.float32


@pytest.mark.parametrize("change", ["half", "bfloat16", "float", "double"])
def test_the_short_words_for_number_formats_work_too(change, compressed, load):
    model = load(compressed("llama").folder, "llama")
    getattr(model, change)()
    expected = {"half": torch.float16, "float": torch.float32, "double": torch.float64}
    assert model.dtype == expected.get(change, torch.bfloat16)


@some
def test_it_loads_in_the_number_format_that_is_asked_for(kind, compressed, load, answers):
    folder = compressed(kind).folder
    model = load(folder, kind, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {b.dtype for n, b in model.named_buffers() if n.endswith(".order")} == {torch.int32}
    expected = load(folder, kind).to(torch.bfloat16).state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
    assert answers(model).isfinite().all()


def test_it_loads_onto_a_device_that_is_named(compressed, load, answers):
    made = compressed("llama")
    assert torch.equal(answers(load(made.folder, "llama", device_map="cpu")), answers(made.model))


@some
def test_a_copy_is_equal_and_independent(kind, compressed, load, answers, tmp_path):
    model = load(compressed(kind).folder, kind)
    expected = answers(model)
    twin = copy.deepcopy(model)
    assert torch.equal(answers(twin), expected)
    with torch.no_grad():
        for leaf in factors(twin).values():
            leaf.mul_(1.5)
    assert not torch.equal(answers(twin), expected)
    assert torch.equal(answers(model), expected)
    assert history_of(twin) == history_of(model)
    twin.save_pretrained(tmp_path)
    assert torch.equal(answers(load(tmp_path, kind)), answers(twin))


def test_its_parameters_travel_as_a_state_dict(compressed, load, answers):
    made = compressed("llama")
    other = load(made.folder, "llama")
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert not torch.equal(answers(other), answers(made.model))
    other.load_state_dict(made.model.state_dict())
    assert torch.equal(answers(other), answers(made.model))


def test_it_crosses_to_another_process(compressed, load, answers):
    """What data-parallel training and multiprocessing do with a model."""
    model = load(compressed("llama").folder, "llama")
    assert torch.equal(answers(pickle.loads(pickle.dumps(model))), answers(model))


@some
def test_what_was_trained_is_what_is_saved(kind, compressed, load, answers, tmp_path):
    model = load(compressed(kind).folder, kind)
    with torch.no_grad():
        for leaf in factors(model).values():
            leaf.add_(0.01)
    model.save_pretrained(tmp_path)
    assert torch.equal(answers(load(tmp_path, kind)), answers(model))
    assert not torch.equal(answers(model), answers(compressed(kind).model))


def test_an_expression_is_the_weight_it_stands_for(compressed, answers):
    model = copy.deepcopy(compressed("gpt2").model)
    for name, expression in expressions_of(model).items():
        x = torch.randn(3, expression.shape[1], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(expression(x), x @ expression.dense().T, atol=1e-5, rtol=1e-4)
            assert model.get_submodule(name).weight.shape == expression.shape
