"""How far a command has come is told where there is no terminal too."""

import pytest

from gossamer.reports import progress


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock finds it ten seconds on."""
    ticks = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


def test_a_log_has_a_line_a_loop_and_now_and_then_one_with_the_time_left(clock, capsys):
    assert list(progress.bar("price", iter("abcdefghij"), 10)) == list("abcdefghij")
    assert capsys.readouterr().err.splitlines() == [
        "price: 10",
        "price: 4 of 10, 0:01:00 left",
        "price: 8 of 10, 0:00:20 left",
    ]


def test_what_is_broken_off_is_broken_off(capsys):
    items = progress.bar("price", iter("abc"), 3)
    assert next(items) == "a"
    items.close()
    assert capsys.readouterr().err == "price: 3\n"


def test_a_comparison_says_which_method_is_at_work(run, model_folder, tiny, text_file, capfd, tmp_path):
    words = ("--methods", "svd,pivoted", "--keep", 0.7, "--test", text_file, "--test-window", 64)
    # A working folder of its own: what other stories have priced would not be priced again, and said, here.
    where = ("--out", tmp_path / "table", "--work", tmp_path / "work")
    assert run("compare", model_folder("llama"), *words, *tiny, *where).code == 0
    told = [line.rpartition(":")[0] for line in capfd.readouterr().err.splitlines()]
    assert {"svd: price", "svd: solve", "svd: judge", "pivoted: price", "pivoted: solve", "pivoted: judge"} <= {*told}
