"""Tensors at rest: what is read is what was written, or an error; and what is written is whole, or not there."""

import errno

import pytest
import torch
from contract_cases import normal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossamer.checkpoints import store
from gossamer.checkpoints.store import (
    Workspace,
    checksum,
    identity_digest,
    read_json,
    read_tensors,
    tensor_digest,
    write_json,
    write_tensors,
)
from gossamer.errors import GossamerError, OutputError, WorkError

FACTS = {"count": "128", "tokens": "4096"}
DTYPES = ("float64", "float32", "bfloat16", "float16", "int64", "int32", "bool")
TENSORS = {"sum": normal(0, 3, 3).float(), "order": torch.tensor([2, 0, 1], dtype=torch.int32)}

SIZE = sum(t.numel() * t.element_size() for t in TENSORS.values())


@pytest.fixture
def file(tmp_path):
    """A small file as `write_tensors` writes it."""
    path = tmp_path / "some" / "folder" / "x.safetensors"
    write_tensors(path, TENSORS, FACTS)
    return path


def is_as_written(read):
    tensors, facts = read
    same = all(tensors[k].dtype == t.dtype and torch.equal(tensors[k], t) for k, t in TENSORS.items())
    return facts == FACTS and tensors.keys() == TENSORS.keys() and same


def test_what_was_written_is_read(file):
    assert is_as_written(read_tensors(file))


@pytest.mark.parametrize("dtype", [getattr(torch, d) for d in DTYPES], ids=DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3, 4)], ids=str)
def test_any_type_and_shape_comes_back_to_the_bit(tmp_path, dtype, shape):
    tensor = normal(1, *shape).mul(3).to(dtype)
    write_tensors(tmp_path / "t", {"t": tensor}, {})
    tensors, facts = read_tensors(tmp_path / "t")
    assert tensors["t"].dtype == dtype and torch.equal(tensors["t"], tensor)
    assert facts == {}


def test_views_are_written_as_they_look(tmp_path):
    whole = normal(2, 6, 6)
    write_tensors(tmp_path / "t", {"turned": whole.T, "part": whole[1:3, ::2], "wide": whole[0].expand(4, 6)}, {})
    tensors, _ = read_tensors(tmp_path / "t")
    assert torch.equal(tensors["turned"], whole.T)
    assert torch.equal(tensors["part"], whole[1:3, ::2])
    assert torch.equal(tensors["wide"], whole[0].expand(4, 6))


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mask=st.integers(1, 255))
def test_no_altered_byte_of_the_tensors_goes_unnoticed(file, mask):
    raw = file.read_bytes()
    for at in range(len(raw) - SIZE, len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= mask
        file.write_bytes(bytes(damaged))
        with pytest.raises(WorkError):
            read_tensors(file)
    file.write_bytes(raw)


@pytest.mark.parametrize("mask", [0x01, 0x0F, 0x20, 0x80])
def test_no_altered_byte_before_the_tensors_is_read_as_something_else(file, mask):
    raw = file.read_bytes()
    for at in range(len(raw) - SIZE):
        damaged = bytearray(raw)
        damaged[at] ^= mask
        file.write_bytes(bytes(damaged))
        try:
            read = read_tensors(file)
        except WorkError:
            continue
        assert is_as_written(read), f"byte {at} of {len(raw)}: {read[1]}"


def test_every_cut_is_noticed(file):
    raw = file.read_bytes()
    for length in {*range(0, len(raw), 5), len(raw) - 1}:
        file.write_bytes(raw[:length])
        with pytest.raises(WorkError):
            read_tensors(file)


def test_bytes_beyond_the_end_are_noticed(file):
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(WorkError):
        read_tensors(file)


def test_a_missing_file_and_a_folder_in_its_place_are_work_errors(file):
    for path in (file.with_name("y.safetensors"), file.parent):
        with pytest.raises(WorkError, match="delete"):
            read_tensors(path)


def test_a_file_of_somebody_else_without_checksum_is_a_work_error(tmp_path):
    from safetensors.torch import save_file

    save_file(dict(TENSORS), tmp_path / "foreign.safetensors")
    with pytest.raises(WorkError):
        read_tensors(tmp_path / "foreign.safetensors")


def test_writing_leaves_nothing_but_the_file(file):
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_writing_again_replaces_the_file(file):
    write_tensors(file, {"other": torch.ones(2)}, {})
    assert read_tensors(file)[0].keys() == {"other"}
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), store.SafetensorError("disk")])
def test_a_disk_that_fills_up_leaves_the_old_file_and_no_part_of_the_new(file, monkeypatch, failure):
    def save_a_part(tensors, path, metadata):
        path.write_bytes(b"part")
        raise failure

    monkeypatch.setattr(store, "save_file", save_a_part)
    with pytest.raises(OutputError, match="free some space"):
        write_tensors(file, {"other": torch.ones(2)}, {})
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert is_as_written(read_tensors(file))


def test_a_folder_in_the_way_leaves_no_partial_file(tmp_path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    for write in (lambda p: write_tensors(p, TENSORS, {}), lambda p: write_json(p, {})):
        with pytest.raises(OutputError):
            write(tmp_path / "taken")
        assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_file_where_the_folder_should_be_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for write in (lambda p: write_tensors(p, TENSORS, {}), lambda p: write_json(p, {})):
        with pytest.raises(OutputError):
            write(tmp_path / "file" / "x")
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_checksum_sees_names_types_shapes_and_values():
    base = torch.arange(6, dtype=torch.int32)
    kinds = [
        [("a", base)],
        [("b", base)],
        [("a", base.view(2, 3))],
        [("a", base.view(torch.float32))],
        [("a", base.flip(0))],
        [("a", base), ("b", base)],
        [],
    ]
    for digest in (lambda pairs: checksum(dict(pairs), {}), tensor_digest):
        assert len({digest(k) for k in kinds}) == len(kinds)
        assert digest([("a", base)]) == digest([("a", base.clone())])
    assert checksum({"a": base}, {"tokens": "4096"}) != checksum({"a": base}, {"tokens": "4097"})


def test_json_comes_back_and_damage_to_it_is_a_work_error(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": [1, None, "ü"]})
    assert read_json(path) == {"a": [1, None, "ü"]}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
    path.write_text(path.read_text()[:-4])
    for broken in (path, tmp_path / "none.json", tmp_path):
        with pytest.raises(WorkError):
            read_json(broken)


def test_a_workspace_keeps_what_differs_apart_and_what_is_the_same_together(tmp_path):
    space = Workspace(tmp_path)
    one = space.folder("sums", {"seed": 0, "shape": (1, 2)})
    assert one.is_dir()
    assert space.folder("sums", {"shape": (1, 2), "seed": 0}) == one
    assert space.folder("sums", {"seed": 1, "shape": (1, 2)}) != one
    assert space.folder("curves", {"seed": 0, "shape": (1, 2)}) != one


def test_a_folder_that_belongs_to_something_else_is_a_work_error(tmp_path):
    space = Workspace(tmp_path)
    folder = space.folder("sums", {"seed": 0})
    write_json(folder / "identity.json", {"seed": 1})
    with pytest.raises(WorkError, match="something else"):
        space.folder("sums", {"seed": 0})


def test_an_identity_is_named_by_its_content_and_not_its_order():
    assert identity_digest({"a": 1, "b": 2}) == identity_digest({"b": 2, "a": 1})
    assert identity_digest({"a": 1}) != identity_digest({"a": 2})


def test_every_error_of_the_store_is_one_sentence_with_advice(tmp_path):
    with pytest.raises(GossamerError) as caught:
        read_tensors(tmp_path / "none")
    assert str(tmp_path / "none") in str(caught.value)
    assert str(caught.value).endswith(".")
