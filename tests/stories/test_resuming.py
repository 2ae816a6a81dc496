"""What was worked out is not worked out again, and an interruption costs no more than the last few batches."""

import json
import shutil
import threading
from types import SimpleNamespace

import pytest
import torch

from gossamer import Budget, Settings, compress, plan
from gossamer.checkpoints import store
from gossamer.checkpoints.store import read_tensors
from gossamer.recipes import measuring, prices
from gossamer.recipes._at_once import MOST, at_once
from gossamer.statistics import _gather

HALF = Budget(unit="params", amount=0.5)


class StoppedError(Exception):
    """Stands for a power cut: nobody catches it."""


def interrupting(label, after, error=KeyboardInterrupt):
    """A progress that breaks off the loop `label` after so many items."""

    def progress(name, items, total):
        for done, item in enumerate(items):
            if name == label and done == after:
                raise error
            yield item

    return progress


def counting(seen):
    """A progress that notes how many items each loop had."""

    def progress(name, items, total):
        seen[name] = seen.get(name, 0) + total
        return iter(items)

    return progress


def snapshot(folder, pattern="**/*"):
    return {p.relative_to(folder): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.glob(pattern) if p.is_file()}


def one(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module")
def undisturbed(model_folder, tiny_settings, tmp_path_factory):
    """A working folder in which nothing was interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    plan(str(model_folder("llama")), HALF, tiny_settings, work=folder)
    return folder


@pytest.fixture
def slow(monkeypatch):
    """Batches of 64 tokens that take a hundred seconds each by the clock, so that the sums are kept after every one.

    The last one is quick, unless `last` is set on what this returns.
    """
    now, pace = [0.0], SimpleNamespace(last=False)
    monkeypatch.setattr(_gather, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def ticking(progress):
        def watched(label, items, total):
            for number, item in enumerate(progress(label, items, total), start=1):
                now[0] += 100.0 if number < total or pace.last else 0.0
                yield item

        return watched

    def gather(*words, progress, **options):
        return _gather.gather(*words, **options, batch_tokens=64, progress=ticking(progress))

    monkeypatch.setattr(measuring, "gather", gather)
    return pace


def same_results(work, undisturbed):
    """The statistics are equal to the last bit, and so are the curves."""
    for pattern in ("curves-*/curves.json", "curves-*/*/*.safetensors", "statistics-*/*/sums-*/*/*.safetensors"):
        expected = {p.relative_to(undisturbed): p for p in undisturbed.glob(pattern)}
        assert expected
        assert {p.relative_to(work) for p in work.glob(pattern)} == set(expected)
        for name, path in expected.items():
            if path.suffix == ".json":
                assert (work / name).read_bytes() == path.read_bytes()
                continue
            (before, facts), (after, found) = read_tensors(path), read_tensors(work / name)
            assert found == facts
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_second_budget_measures_and_prices_nothing(run, model_folder, tiny, undisturbed, tmp_path, monkeypatch):
    work = shutil.copytree(undisturbed, tmp_path / "work")
    made = "[cs]*/**/*"  # curves and statistics
    before = snapshot(work, made)

    def never(*_, **__):
        raise AssertionError("it measured again")

    monkeypatch.setattr(measuring, "gather", never)
    monkeypatch.setattr(prices, "_prices", never)
    for number, words in enumerate([("--keep", 0.7), ("--keep", 0.3), ("--macs", 0.5), ("--bytes", "80KB")]):
        told = run("compress", model_folder("llama"), *words, "--out", tmp_path / f"{number}", "--work", work, *tiny)
        assert told.code == 0, told.err
    assert snapshot(work, made) == before


def test_the_dense_model_is_judged_once(run, model_folder, tiny, undisturbed, tmp_path):
    """Its words on the held-out windows are kept, used for the next budget, and not trusted when damaged."""
    work = shutil.copytree(undisturbed, tmp_path / "work")
    words = ("compress", model_folder("llama"), "--keep", 0.7, *tiny, "--work", work)
    assert run(*words, "--out", tmp_path / "anew").code == 0
    before = snapshot(one(work, "outputs-*"), "*.safetensors")
    assert before
    assert run(*words, "--out", tmp_path / "recalled").code == 0
    assert snapshot(one(work, "outputs-*"), "*.safetensors") == before
    anew, recalled = (json.loads((tmp_path / n / "report.json").read_text())["score"] for n in ("anew", "recalled"))
    assert recalled == anew
    kept = sorted(one(work, "outputs-*").glob("*.safetensors"))
    data = bytearray(kept[0].read_bytes())
    data[-5] ^= 4
    kept[0].write_bytes(data)
    told = run(*words, "--out", tmp_path / "damaged")
    assert told.code == 1
    assert str(kept[0]) in told.err


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"tokens": 512}, {"measure", "price", "check"}),
        ({"window": 16}, {"measure", "price", "check"}),
        ({"seed": 1}, {"measure", "price", "check"}),
        ({"metric": "diagonal_fisher", "structures": ("low_rank",)}, {"measure", "price"}),
        ({"metric": "activation"}, {"price"}),  # its statistics are among those of the default
        ({"dtype": "bfloat16"}, {"measure", "price", "check"}),
        ({"structures": ("low_rank",)}, {"price", "check"}),
        ({"tie": True}, set()),
    ],
)
def test_a_change_that_matters_is_worked_out_anew(change, again, model_folder, tiny_settings, undisturbed, tmp_path):
    work = shutil.copytree(undisturbed, tmp_path / "work")
    settings = Settings(**{**tiny_settings.__dict__, **change})
    seen = {}
    plan(str(model_folder("llama")), HALF, settings, work=work, progress=counting(seen))
    assert set(seen) == again


def test_another_model_s_statistics_are_not_taken(copied, tiny_settings, undisturbed, tmp_path):
    """The same weights under another activation function see other inputs: they are measured anew."""
    work, folder, seen = shutil.copytree(undisturbed, tmp_path / "work"), copied("llama"), {}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    plan(str(folder), HALF, tiny_settings, work=work, progress=counting(seen))
    assert set(seen) == {"measure", "price", "check"}


@pytest.mark.parametrize(("kind", "error"), [("llama", KeyboardInterrupt), ("bert", StoppedError)])
def test_an_interrupted_measurement_goes_on(kind, error, model_folder, tiny_settings, slow, tmp_path):
    whole, work, seen = tmp_path / "whole", tmp_path / "work", {}
    settings = Settings(**{**tiny_settings.__dict__, "tokens": 960})
    uninterrupted = plan(str(model_folder(kind)), HALF, settings, work=whole, progress=counting(seen))
    assert seen["measure"] == 15
    for _ in range(2):
        with pytest.raises(error):
            plan(str(model_folder(kind)), HALF, settings, work=work, progress=interrupting("measure", 5, error))
        assert not list(work.glob("curves-*"))
    seen.clear()
    resumed = plan(str(model_folder(kind)), HALF, settings, work=work, progress=counting(seen))
    assert seen["measure"] == 5, "ten of the fifteen batches were done already"
    same_results(work, whole)
    assert resumed == uninterrupted


def test_saving_after_the_very_last_batch_does_no_harm(model_folder, tiny_settings, slow, tmp_path):
    """A pass may end just when it was time to keep what there is."""
    slow.last = True
    plan(str(model_folder("llama")), HALF, tiny_settings, work=tmp_path)
    assert [p.name for p in one(tmp_path, "statistics-*/*moment").iterdir() if p.is_dir()] == ["sums-32"]


def test_a_stop_between_measuring_and_pricing_costs_nothing(model_folder, tiny_settings, undisturbed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        plan(str(model_folder("llama")), HALF, tiny_settings, work=tmp_path, progress=interrupting("price", 0))
    seen = {}
    plan(str(model_folder("llama")), HALF, tiny_settings, work=tmp_path, progress=counting(seen))
    assert "measure" not in seen
    same_results(tmp_path, undisturbed)


def test_interrupted_pricing_goes_on(model_folder, tiny_settings, undisturbed, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        plan(str(model_folder("llama")), HALF, tiny_settings, work=tmp_path, progress=interrupting("price", 5))
    assert not list(tmp_path.glob("curves-*/curves.json"))
    done = snapshot(tmp_path, "curves-*/whitened_svd/*")
    plan(str(model_folder("llama")), HALF, tiny_settings, work=tmp_path)
    after = snapshot(tmp_path, "curves-*/whitened_svd/*")
    ahead = 2 * min(torch.get_num_threads(), MOST)
    assert 6 <= len(done) <= 5 + ahead < len(after)  # what was being worked on at the stop is finished
    assert {path: after[path] for path in done} == done
    same_results(tmp_path, undisturbed)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_layers_are_worked_on_side_by_side_and_handed_over_in_order(two_threads):
    both = threading.Barrier(2, timeout=60)

    def work(item):
        both.wait()  # passes where two are at work at once
        return item, torch.get_num_threads()

    assert list(at_once(work, range(8))) == [(item, 1) for item in range(8)]
    assert torch.get_num_threads() == 2


def test_what_one_layer_raises_comes_in_its_turn_and_few_others_begin(two_threads):
    begun = []

    def work(item):
        begun.append(item)
        if item == 3:
            raise StoppedError
        return item

    results = at_once(work, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StoppedError):
        next(results)
    assert len(begun) < 10 and torch.get_num_threads() == 2


def test_prices_are_the_same_for_however_many_layers_at_once(
    model_folder, tiny_settings, undisturbed, two_threads, tmp_path
):
    for folder in undisturbed.glob("statistics-*"):
        shutil.copytree(folder, tmp_path / folder.name)
    plan(str(model_folder("llama")), HALF, tiny_settings, work=tmp_path)
    found, expected = (
        {path: data for path, (_, data) in snapshot(folder, "curves-*/*/*").items()}
        for folder in (tmp_path, undisturbed)
    )
    assert found == expected


def test_a_stop_while_solving_or_judging_leaves_no_folder(model_folder, tiny_settings, undisturbed, tmp_path):
    work = shutil.copytree(undisturbed, tmp_path / "work")
    for label in ("solve", "judge"):
        with pytest.raises(KeyboardInterrupt):
            compress(
                str(model_folder("llama")),
                HALF,
                tmp_path / "out",
                tiny_settings,
                work=work,
                progress=interrupting(label, 1),
            )
        assert [p.name for p in tmp_path.iterdir()] == ["work"]


def test_a_stop_while_saving_leaves_no_folder(model_folder, tiny_settings, undisturbed, tmp_path, monkeypatch):
    def cut(*_, **__):
        raise KeyboardInterrupt

    work = shutil.copytree(undisturbed, tmp_path / "work")
    monkeypatch.setattr("gossamer.checkpoints.saving.write_json", cut)
    with pytest.raises(KeyboardInterrupt):
        compress(str(model_folder("llama")), HALF, tmp_path / "out", tiny_settings, work=work)
    assert [p.name for p in tmp_path.iterdir()] == ["work"]


def test_the_command_line_says_how_to_go_on(run, model_folder, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("gossamer.cli._printing.bar", interrupting("price", 2))
    words = ("compress", model_folder("llama"), "--keep", 0.5, "--out", tmp_path / "out", "--work", tmp_path, *tiny)
    told = run(*words)
    assert told.code == 130
    assert "run the same command again" in told.err
    assert "Traceback" not in told.err
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "400")
    assert run(*words).code == 0
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_nothing_is_left_of_broken_off_statistics(model_folder, tiny_settings, slow, tmp_path):
    """Only the finished sums stay: a large model's are gigabytes."""
    with pytest.raises(KeyboardInterrupt):
        plan(str(model_folder("qwen2")), HALF, tiny_settings, work=tmp_path, progress=interrupting("measure", 3))
    assert [p.name for p in one(tmp_path, "statistics-*/*moment").iterdir() if p.is_dir()] == ["sums-6"]
    plan(str(model_folder("qwen2")), HALF, tiny_settings, work=tmp_path)
    assert [p.name for p in one(tmp_path, "statistics-*/*moment").iterdir() if p.is_dir()] == ["sums-32"]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("label", ["measure", "price"])
def test_two_runs_share_a_working_folder(label, model_folder, tiny_settings, slow, undisturbed, tmp_path):
    """A second run starts and ends while the first is at work: both come out right."""
    plans = []

    def overtaken(name, items, total):
        for number, item in enumerate(items):
            if name == label and number == 5:
                plans.append(plan(str(model_folder("llama")), HALF, tiny_settings, work=tmp_path))
            yield item

    plans.append(plan(str(model_folder("llama")), HALF, tiny_settings, work=tmp_path, progress=overtaken))
    assert len(plans) == 2
    assert plans[0] == plans[1] == plan(str(model_folder("llama")), HALF, tiny_settings, work=tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


def test_two_runs_may_write_one_file_at_once(tmp_path, monkeypatch):
    """Whoever comes second finds the file there, not his own half of it taken away."""
    save, nested = store.save_file, []

    def overtaken(tensors, path, facts):
        save(tensors, path, facts)
        if not nested:
            nested.append(path)
            store.write_tensors(tmp_path / "x.safetensors", tensors, {})

    monkeypatch.setattr(store, "save_file", overtaken)
    store.write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(3)}, {})
    assert nested
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")[0]["x"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
