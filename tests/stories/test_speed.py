"""Tokens a second: every model reads the same window, in turn, and its fastest pass counts."""

from types import SimpleNamespace

import torch
from torch import nn

from gossamer.evaluation import speed


class Clockwork(nn.Module):
    """A model whose passes take the seconds it is given, on a clock of the test's."""

    def __init__(self, name, seconds, clock):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.name, self.seconds, self.clock = name, list(seconds), clock

    def forward(self, input_ids):
        self.clock["passes"].append((self.name, tuple(input_ids.shape)))
        self.clock["now"] += self.seconds.pop(0)


def test_the_fastest_of_passes_in_turn_counts(monkeypatch):
    clock = {"now": 0.0, "passes": []}
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock["now"])
    models = [Clockwork("dense", (4.0, 2.0, 3.0), clock), Clockwork("small", (1.0, 0.5, 9.0), clock)]
    assert speed.tokens_a_second(models, torch.arange(8)) == [4.0, 16.0]
    assert clock["passes"] == [("dense", (1, 8)), ("small", (1, 8))] * speed.PASSES


def test_no_cache_is_filled_for_tokens_that_are_never_written():
    seen = []
    model = Clockwork("dense", (1.0,) * speed.PASSES, {"now": 0.0, "passes": []})
    model.config = SimpleNamespace(use_cache=True)
    model.forward = lambda input_ids, use_cache=True: seen.append(use_cache)
    speed.tokens_a_second([model], torch.arange(8))
    assert seen == [False] * speed.PASSES


def test_a_report_has_it_of_both(compressed):
    found = compressed("llama").done.report.speed
    assert found.window == 32
    assert found.dense > 0 and found.compressed > 0


def test_the_table_has_it_with_how_it_was_measured(run, model_folder, tiny, work, tmp_path):
    told = run("compress", model_folder("llama"), "--keep", "0.6", *tiny, "--work", work, "--out", tmp_path / "out")
    assert told.code == 0, told.err
    assert "│ tokens a second, reading" in told.out
    assert "tokens a second: read on this machine in windows of 32" in told.out
    assert "nats per token" in told.out
