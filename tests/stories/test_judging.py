"""`evaluate`, `inspect` and the library in three lines."""

import json
import math
import re

import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

IDENTITY = {
    "source", "text_sha256", "ids_sha256", "windows", "window", "stride", "special_tokens", "dtype"
}  # fmt: skip


@pytest.fixture
def judged(run, work, tmp_path):
    """A function: `gossamer evaluate WORDS` → (the JSON it wrote, what it printed)."""

    def of(*words):
        path = tmp_path / "found" / f"{len(list(tmp_path.glob('found/*')))}.json"
        told = run("evaluate", *words, "--out", path, "--work", work)
        assert told.code == 0, told.err
        return json.loads(path.read_text()), told.out

    return of


def test_without_a_text_it_takes_the_one_of_the_compression(judged, compressed, text_file, model_folder):
    found, printed = judged(compressed("llama").folder, "--window", 32, "--tokens", 320)
    assert found["score"]["protocol"]["source"] == str(text_file)
    assert found["dense"] == str(model_folder("llama"))
    assert found["score"]["divergence"] > 0
    assert f"{found['score']['divergence']:.4f}" in printed
    assert "perplexity" in printed


def test_the_default_window_fits_the_model(judged, compressed):
    for kind in ("llama", "gpt2", "bert"):
        found, _ = judged(compressed(kind).folder, "--tokens", 640)
        assert found["score"]["protocol"]["window"] == 64
        assert found["score"]["protocol"]["windows"] == 10


def test_with_a_text_it_takes_that(judged, compressed, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("w5 w6 w7 w8 " * 200)
    found, _ = judged(compressed("llama").folder, "--text", other, "--window", 32, "--tokens", 320)
    assert found["score"]["protocol"]["source"] == str(other)
    assert found["score"]["protocol"]["windows"] == 10


def test_the_figures_are_those_of_the_logits(judged, compressed, load, model_folder, text_file):
    """Perplexity and divergence, computed here from scratch."""
    found, _ = judged(compressed("gpt2").folder, "--text", text_file, "--window", 48, "--tokens", 480)
    tokenizer = AutoTokenizer.from_pretrained(model_folder("gpt2"))
    ids = tokenizer(text_file.read_text(), add_special_tokens=False)["input_ids"]
    windows = torch.tensor(ids[:480]).view(10, 48)
    models = load(model_folder("gpt2"), "gpt2"), load(compressed("gpt2").folder, "gpt2")
    with torch.no_grad():
        p, q = (m(input_ids=windows).logits.log_softmax(-1) for m in models)
    score = found["score"]
    assert score["divergence"] == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    for logs, nats in ((p, score["dense_nats"]), (q, score["nats"])):
        assert nats == pytest.approx(-logs[:, :-1].gather(-1, windows[:, 1:, None]).mean().item(), rel=1e-5)
    rise = (p - q)[:, :-1].gather(-1, windows[:, 1:, None]).squeeze(-1).mean(1)
    assert score["standard_error"] == pytest.approx((rise.std() / math.sqrt(10)).item(), rel=1e-3)
    assert score["protocol"]["scored_tokens"] == 470


@pytest.mark.parametrize(("kind", "special"), [("llama", False), ("bert", True)])
def test_the_json_says_what_was_measured(kind, special, judged, compressed):
    found, printed = judged(compressed(kind).folder, "--window", 32, "--tokens", 320)
    protocol = found["score"]["protocol"]
    assert set(protocol) >= IDENTITY
    assert protocol["special_tokens"] is special
    assert protocol["dtype"] == "float32"
    assert (protocol["window"], protocol["stride"], protocol["windows"]) == (32, 32, 10)
    for name in IDENTITY:
        assert re.search(rf"{name}: {re.escape(str(protocol[name]))}", printed), name
    assert len(protocol["text_sha256"]) == len(protocol["ids_sha256"]) == 16


def test_other_tokens_have_another_identity(judged, compressed, tmp_path):
    seen = set()
    for i, (window, tokens) in enumerate([(32, 320), (16, 320), (32, 64)]):
        found, _ = judged(compressed("llama").folder, "--window", window, "--tokens", tokens)
        protocol = found["score"]["protocol"]
        assert (protocol["window"], protocol["windows"]) == (window, tokens // window)
        seen.add(tuple(protocol[name] for name in sorted(IDENTITY)))
        assert len(seen) == i + 1


def test_it_agrees_with_the_report_of_the_compression(judged, compressed, text_file, tmp_path):
    """The same windows, given as a text of their own, have the same score."""
    report = compressed("llama").document("report.json")
    letters = text_file.read_text()
    tail = tmp_path / "tail.txt"
    end = len(letters) // 32 * 32
    tail.write_text(letters[end - 128 : end])
    found, _ = judged(compressed("llama").folder, "--text", tail, "--window", 32)
    assert found["score"]["protocol"]["ids_sha256"] == report["score"]["protocol"]["ids_sha256"]
    assert found["score"]["divergence"] == pytest.approx(report["score"]["divergence"], rel=1e-6)


def test_a_dense_model_is_judged_alone(judged, model_folder, text_file):
    found, printed = judged(model_folder("llama"), "--text", text_file, "--window", 32, "--tokens", 320)
    assert found["dense"] is None
    assert found["score"]["nats"] > 0
    assert f"{math.exp(found['score']['nats']):.4f}" in printed
    assert "compressed" not in printed


def test_an_encoder_is_judged_by_its_hidden_states(judged, compressed):
    found, printed = judged(compressed("bert").folder, "--window", 32, "--tokens", 320)
    assert found["score"]["nats"] is None
    assert 0 < found["score"]["divergence"] < 5
    assert "perplexity" not in printed


def test_a_dense_encoder_is_judged_alone_too(judged, model_folder, text_file):
    _, printed = judged(model_folder("bert"), "--text", text_file, "--window", 32, "--tokens", 320)
    assert "windows" in printed


def test_a_model_compressed_in_half_precision_finds_its_original(run, judged, model_folder, tiny, work, tmp_path):
    out = tmp_path / "half"
    words = ("--keep", 0.6, "--dtype", "bfloat16", *tiny, "--work", work, "--out", out)
    assert run("compress", model_folder("llama"), *words).code == 0
    found, _ = judged(out, "--window", 32, "--tokens", 320)
    assert found["score"]["protocol"]["dtype"] == "bfloat16"
    assert found["score"]["divergence"] > 0


def test_the_right_dense_model_elsewhere(judged, compressed, copied):
    copy = copied("llama")
    found, _ = judged(compressed("llama").folder, "--dense", copy, "--window", 32, "--tokens", 320)
    assert found["dense"] == str(copy)


def test_the_wrong_dense_model(refused, compressed, model_folder, tmp_path):
    path = tmp_path / "score.json"
    words = ("--dense", model_folder("qwen2"), "--out", path)
    said = refused("evaluate", compressed("llama").folder, *words, early=True)
    assert "--dense" in said
    assert not path.exists()


def test_a_dense_model_that_is_gone(run, refused, copied, tiny, work, tmp_path):
    folder = copied("llama")
    out = tmp_path / "out"
    assert run("compress", folder, "--keep", 0.6, *tiny, "--work", work, "--out", out).code == 0
    folder.rename(tmp_path / "moved")
    said = refused("evaluate", out, "--window", 32, early=True)
    assert "--dense" in said, "the user named the compressed folder; the way out is to say where the dense one went"


def test_a_text_that_is_gone(run, refused, model_folder, text_file, work, tmp_path):
    text = tmp_path / "words.txt"
    text.write_bytes(text_file.read_bytes())
    words = ("--text", text, "--tokens", 1024, "--window", 32, "--work", work, "--out", tmp_path / "out")
    assert run("compress", model_folder("llama"), "--keep", 0.6, *words).code == 0
    text.unlink()
    said = refused("evaluate", tmp_path / "out", "--window", 32, early=True)
    assert str(text) in said


def test_a_text_that_was_replaced_is_noticed(run, refused, model_folder, text_file, work, tmp_path):
    text = tmp_path / "words.txt"
    text.write_bytes(text_file.read_bytes())
    words = ("--text", text, "--tokens", 1024, "--window", 32, "--work", work, "--out", tmp_path / "out")
    assert run("compress", model_folder("llama"), "--keep", 0.6, *words).code == 0
    text.write_text("w5 w6 w7 w8 " * 400)
    said = refused("evaluate", tmp_path / "out", "--window", 32, early=True)
    assert f"{text} is not what calibration read" in said
    told = run("evaluate", tmp_path / "out", "--window", 32, "--text", text, "--work", work)
    assert told.code == 0, "whoever names a text is taken at their word"


@pytest.mark.parametrize("tokens", [256, 2048])
def test_what_any_step_has_read_does_not_judge(tokens, run, judged, compressed, work, tmp_path):
    """Compressing read 1,024 tokens; refining after it reads fewer, or more."""
    small, refined = compressed("llama").folder, tmp_path / "refined"
    words = ("--tokens", tokens, "--rate", 0.003, "--out", refined, "--work", work)
    assert run("refine", small, *words).code == 0
    whole, _ = judged(small, "--window", 32, "--tokens", 0)
    unread = whole["score"]["protocol"]["windows"] - (max(tokens, 1024) - 1024) // 32
    rest, _ = judged(refined, "--window", 32, "--tokens", 0)
    assert rest["score"]["protocol"]["windows"] == unread


def test_shorter_windows_of_an_encoder_begin_behind_what_calibration_read(judged, compressed):
    """A window has two tokens of its own around the text, so shorter windows read less of it than they have tokens."""
    small = compressed("bert").folder
    read = json.loads((small / "config.json").read_text())["quantization_config"]["history"][-1]["calibration"]
    body = read["windows"] * (read["window"] - 2)
    text = judged(small, "--window", 12, "--tokens", 0, "--text", read["source"])[0]["score"]["protocol"]["windows"]
    rest = judged(small, "--window", 12, "--tokens", 0)[0]["score"]["protocol"]["windows"]
    assert text - rest == -(-body // 10)


def test_positions_that_begin_behind_padding_s_are_fewer(judged, model_folder, text_file, tmp_path):
    """RoBERTa's table has a row for padding, and one before it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = RobertaConfig(vocab_size=300, max_position_embeddings=66, pad_token_id=1, **sizes)
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta")
    AutoTokenizer.from_pretrained(model_folder("bert")).save_pretrained(tmp_path / "roberta")
    found, printed = judged(tmp_path / "roberta", "--text", text_file, "--tokens", 640)
    assert found["score"]["protocol"]["window"] == 64
    assert "Windows have 64 tokens instead of 1024" in printed


def test_a_compression_is_judged_from_any_folder(run, model_folder, text_file, work, tmp_path, monkeypatch):
    """Paths that were given relative to one folder still hold in another."""
    monkeypatch.chdir(text_file.parent)
    words = ("--text", text_file.name, "--tokens", 1024, "--window", 32, "--work", work, "--out", tmp_path / "out")
    assert run("compress", model_folder("llama"), "--keep", 0.6, *words).code == 0
    monkeypatch.chdir(tmp_path)
    told = run("evaluate", tmp_path / "out", "--window", 32, "--tokens", 64, "--work", work)
    assert told.code == 0, told.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--window", 0), "window"),
        (("--window", 1), "window"),
        (("--window", -5), "window"),
        (("--tokens", -5), "tokens"),
        (("--text", "/no/such/text"), "no text file"),
        (("--tasks", "arc_easy", "--tokens", 64), "lm-evaluation-harness"),
        (("--tasks", "arc_easy", "--limit", 0), "limit of 0 examples"),
        (("--tasks", "arc_easy", "--limit", -3), "limit of -3 examples"),
        (("--limit", 5), "name some with --tasks"),
        (("--run-code",), "name some with --tasks"),
    ],
)
def test_a_mistake_in_judging(words, said, refused, compressed):
    assert said in refused("evaluate", compressed("llama").folder, *words, early=True)


def test_a_dense_model_needs_a_text(refused, model_folder):
    assert "--text FILE" in refused("evaluate", model_folder("llama"), early=True)


def test_a_result_is_not_overwritten(refused, compressed, tmp_path):
    (tmp_path / "score.json").write_text("precious")
    said = refused("evaluate", compressed("llama").folder, "--out", tmp_path / "score.json", early=True)
    assert "exists" in said
    below = tmp_path / "score.json" / "score.json"
    assert "is a file" in refused("evaluate", compressed("llama").folder, "--out", below, early=True)
    assert (tmp_path / "score.json").read_text() == "precious"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_inspect_shows_every_layer(kind, run, model_folder, load, tiny, work):
    told = run("inspect", model_folder(kind), *tiny, "--work", work)
    assert told.code == 0, told.err
    model = load(model_folder(kind), kind)
    head = model.get_output_embeddings()
    layers = {n: m for n, m in model.named_modules() if type(m).__name__ in {"Linear", "Conv1D"} and m is not head}
    assert len(layers) >= 8
    for name, module in layers.items():
        (row,) = [line for line in told.out.splitlines() if re.search(rf"\s{re.escape(name)}\s", line)]
        m, n = module.weight.shape if type(module).__name__ == "Linear" else module.weight.shape[::-1]
        assert f"{m}×{n}" in row
        losses = [float(x) for x in re.findall(r"(?<=│ ) *([\d.e+-]+) (?=│)", row)]
        assert losses == sorted(losses)
    assert "nats per token" in told.out


def test_inspect_names_the_unit_of_its_metric(run, model_folder, tiny, work):
    told = run("inspect", model_folder("llama"), *tiny, "--metric", "activation", "--work", work)
    assert "half squared output error per token" in told.out


def test_inspecting_what_is_compressed(refused, compressed, tiny, work):
    assert "compressed already" in refused("inspect", compressed("llama").folder, *tiny, "--work", work)


def test_the_library_in_three_lines(model_folder, tiny_settings, work, answers, load, tmp_path):
    import gossamer

    done = gossamer.compress(
        str(model_folder("llama")),
        gossamer.Budget(unit="params", amount=0.6),
        tmp_path / "out",
        tiny_settings,
        work=work,
    )
    assert torch.equal(answers(load(tmp_path / "out", "llama")), answers(done.model))
    assert isinstance(done.plan, gossamer.Plan)
    assert isinstance(done.report, gossamer.Report)
    assert done.report.small.params <= 0.6 * done.report.dense.params
    assert done.tokenizer("w1")["input_ids"]


def test_the_library_without_a_folder_writes_none(
    model_folder, tiny_settings, work, answers, compressed, tmp_path, monkeypatch
):
    from gossamer import Budget, compress

    monkeypatch.chdir(tmp_path)
    done = compress(str(model_folder("llama")), Budget(unit="params", amount=0.6), None, tiny_settings, work=work)
    assert not list(tmp_path.iterdir())
    assert torch.equal(answers(done.model), answers(compressed("llama").model))
    assert done.report.out == "(not saved)"


def test_the_library_raises_what_the_command_line_says(model_folder, tiny_settings, work, tmp_path):
    from gossamer import Budget, GossamerError, compress

    with pytest.raises(GossamerError, match="smallest possible"):
        compress(str(model_folder("llama")), Budget(unit="params", amount=1e-4), None, tiny_settings, work=work)
    with pytest.raises(GossamerError, match="needs no compression"):
        Budget(unit="params", amount=2)


def test_a_compression_leaves_the_dense_model_as_it_was(model_folder, tiny_settings, work, load, answers):
    """What is in memory after a compression is another model than the one on disk; the one on disk did not change."""
    from gossamer import Budget, compress

    before = answers(load(model_folder("llama"), "llama"))
    compress(str(model_folder("llama")), Budget(unit="params", amount=0.4), None, tiny_settings, work=work)
    assert torch.equal(answers(load(model_folder("llama"), "llama")), before)
