"""Every kind of expression: it applies what it says it is, and survives JSON and a state dict."""

import copy
import json

import pytest
import torch
from contract_cases import expressions_by_kind, normal

from gossamer import discover, expressions
from gossamer.errors import ModelError
from gossamer.expressions import Expression, read
from gossamer.expressions._pinned import Pinned
from gossamer.expressions.affine import Affine
from gossamer.expressions.dense import Dense
from gossamer.expressions.picked_columns import PickedColumns
from gossamer.expressions.placed_rows import PlacedRows
from gossamer.expressions.product import Product
from gossamer.expressions.skeleton import Skeleton
from gossamer.expressions.sparse import Sparse

KINDS = discover.names(expressions)
EXAMPLES = expressions_by_kind()

each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_some_structure_builds_with_this_kind(kind):
    assert EXAMPLES.get(kind), f"no structure builds a {kind}; give expressions_by_kind() an example"


@each_kind
def test_forward_is_the_product_with_the_dense_weight_plus_the_offset(kind):
    for example in EXAMPLES[kind]:
        m, n = example.shape
        x = normal(3, 9, n)
        assert example.dense().shape == (m, n)
        assert example.offset().shape == (m,)
        if not example.is_matrix:
            continue
        assert kind == "affine" or not example.offset().any()
        torch.testing.assert_close(example(x), x @ example.dense().T + example.offset(), rtol=1e-10, atol=1e-10)


@each_kind
@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 3), (0,)], ids=str)
def test_batch_dimensions_pass_through(kind, leading):
    for example in EXAMPLES[kind]:
        m, n = example.shape
        x = normal(4, *leading, n)
        y = example(x)
        assert y.shape == (*leading, m)
        torch.testing.assert_close(y.reshape(-1, m), example(x.reshape(-1, n)), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@each_kind
def test_on_a_gpu_it_answers_as_on_the_cpu(kind):
    for example in EXAMPLES[kind]:
        moved, x = copy.deepcopy(example).cuda(), normal(3, 9, example.shape[1])
        torch.testing.assert_close(moved(x.cuda()).cpu(), example(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(moved.dense().cpu(), example.dense(), rtol=1e-9, atol=1e-9)


@each_kind
def test_rows_are_looked_up_as_they_stand_in_the_dense_weight(kind):
    for example in EXAMPLES[kind]:
        ids = torch.tensor([[0, example.shape[0] - 1, 0], [example.shape[0] // 2, 0, 0]])
        torch.testing.assert_close(example.rows(ids), example.dense()[ids], rtol=1e-10, atol=1e-10)
        assert example.row_macs() <= example.macs()


@pytest.mark.parametrize("kind", ["dense", "product", "skeleton", "sparse"])
def test_macs_count_one_multiplication_for_every_stored_number(kind):
    for example in EXAMPLES[kind]:
        if not any(isinstance(part, Pinned) for part in example.modules()):
            assert example.macs() == sum(p.numel() for p in example.parameters())


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_read_rebuilds_what_tree_and_state_dict_hold_to_the_bit(kind, dtype):
    for example in EXAMPLES[kind]:
        tree = example.tree()
        assert tree["kind"] == kind
        original = read(json.loads(json.dumps(tree)))
        original.load_state_dict(example.state_dict(), strict=True)
        original.to(dtype)
        again = read(json.loads(json.dumps(original.tree()))).to(dtype)
        again.load_state_dict(original.state_dict(), strict=True)
        x = normal(5, 6, example.shape[1]).to(dtype)
        assert again.tree() == tree
        assert again.shape == example.shape
        assert torch.equal(again(x), original(x))
        assert torch.equal(again.dense(), original.dense())


@each_kind
def test_an_expression_changed_in_dtype_keeps_its_integers(kind):
    for example in EXAMPLES[kind]:
        state = example.state_dict()
        copy = read(example.tree()).to(torch.float16)
        assert copy.state_dict().keys() == state.keys()
        assert all(t.is_floating_point() == state[k].is_floating_point() for k, t in copy.state_dict().items())


@each_kind
def test_gradients_are_right_and_reach_every_parameter(kind):
    for example in EXAMPLES[kind]:
        x = normal(6, 9, example.shape[1]).requires_grad_()
        assert torch.autograd.gradcheck(example, (x,))
        example.zero_grad()
        example(x).square().sum().backward()
        for parameter in example.parameters():
            assert parameter.grad is not None
            assert parameter.grad.any() or not parameter.numel()


@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_right_up_to_rounding(kind, dtype):
    for example in EXAMPLES[kind]:
        x = normal(7, 9, example.shape[1])
        half = read(example.tree())
        half.load_state_dict(example.state_dict())
        y = half.to(dtype)(x.to(dtype))
        assert y.dtype == dtype
        assert (y.double() - example(x)).norm() <= 8 * torch.finfo(dtype).eps * example(x).norm()


def test_a_dense_leaf_is_its_weight():
    weight = normal(8, 4, 6)
    assert torch.equal(Dense(weight).dense(), weight)


def test_a_product_is_the_product_of_its_factors():
    a, b, c = normal(1, 4, 3), normal(2, 3, 5), normal(3, 5, 2)
    product = Product([Dense(a), Product([Dense(b), Dense(c)])])
    assert product.shape == (4, 2)
    torch.testing.assert_close(product.dense(), a @ b @ c)


def test_an_affine_map_adds_its_bias_and_keeps_it_out_of_its_weight():
    weight, bias = normal(8, 4, 6), normal(9, 4)
    affine = Affine(Dense(weight), bias)
    assert torch.equal(affine.dense(), weight)
    assert torch.equal(affine.offset(), bias)
    assert torch.equal(Affine(affine, bias).offset(), 2 * bias)
    assert torch.equal(Affine(Dense(weight), 1e20 * bias).dense(), weight)


def test_affine_maps_can_be_parts_of_a_product():
    a, b = Affine(Dense(normal(1, 4, 3)), normal(2, 4)), Affine(Dense(normal(3, 3, 5)), normal(4, 3))
    product = Product([a, b])
    torch.testing.assert_close(product.dense(), a.dense() @ b.dense())
    torch.testing.assert_close(product.offset(), a.dense() @ b.offset() + a.offset())


def test_a_bias_that_does_not_fit_the_outputs_is_refused():
    for shape in ((6,), (1,), (4, 1), ()):
        with pytest.raises(ValueError, match="fit"):
            Affine(Dense(normal(0, 4, 6)), normal(1, *shape))


def test_a_skeleton_holds_the_identity_on_its_pivots_and_its_coefficients_elsewhere():
    order = torch.tensor([4, 0, 3, 1, 2])
    coefficients = normal(9, 2, 3)
    dense = Skeleton(coefficients, order).dense()
    assert torch.equal(dense[:, [4, 0]], torch.eye(2, dtype=torch.float64))
    assert torch.equal(dense[:, [3, 1, 2]], coefficients)


def test_an_order_that_does_not_fit_the_coefficients_is_refused():
    with pytest.raises(ValueError, match="fit"):
        Skeleton(normal(0, 2, 3), torch.arange(6))


@each_kind
def test_a_tree_without_one_of_its_keys_is_refused(kind):
    tree = EXAMPLES[kind][0].tree()
    for key in tree:
        with pytest.raises(ModelError):
            read({k: v for k, v in tree.items() if k != key})


UNSOUND = {
    "unknown kind": {"kind": "wavelet", "shape": [2, 2]},
    "private module": {"kind": "_base", "shape": [2, 2]},
    "kind is a list": {"kind": ["dense"], "shape": [2, 2]},
    "no mapping": ["dense", [2, 2]],
    "nothing": None,
    "factors that do not multiply": {
        "kind": "product",
        "factors": [{"kind": "dense", "shape": [4, 3]}, {"kind": "dense", "shape": [2, 5]}],
    },
    "unknown kind inside": {"kind": "product", "factors": [{"kind": "dense", "shape": [4, 3]}, {"kind": "wavelet"}]},
    "no factors": {"kind": "product", "factors": []},
    "factors are no list": {"kind": "product", "factors": 3},
    "shape of one number": {"kind": "dense", "shape": [4]},
    "shape of three numbers": {"kind": "skeleton", "shape": [4, 5, 6]},
    "shape of words": {"kind": "dense", "shape": ["4", "3"]},
    "shape with a fraction": {"kind": "dense", "shape": [4.5, 3]},
    "negative side": {"kind": "dense", "shape": [-4, 3]},
    "more values than places": {"kind": "sparse", "shape": [5, 3], "kept": 16},
    "no values": {"kind": "sparse", "shape": [5, 3], "kept": 0},
    "more pivots than columns": {"kind": "skeleton", "shape": [5, 3]},
}


@pytest.mark.parametrize("tree", UNSOUND.values(), ids=UNSOUND.keys())
def test_an_unsound_tree_is_a_model_error(tree):
    with pytest.raises(ModelError):
        read(tree)


def test_every_kind_is_an_expression_named_as_its_file():
    for name, kind in discover.catalogue(expressions, Expression).items():
        assert EXAMPLES[name][0].kind == name
        assert type(EXAMPLES[name][0]) is kind


@pytest.mark.parametrize("places", [[0, 1, 1], [0, 1, 5], [-1, 0, 1]], ids=["twice", "beyond", "negative"])
@pytest.mark.parametrize(
    "made",
    [
        lambda places: PickedColumns(torch.ones(4, 3), places, 5),
        lambda places: PlacedRows(torch.ones(3, 4), places, 5),
        lambda places: Skeleton(torch.ones(2, 3), torch.cat([places, torch.tensor([3, 4])])),
    ],
    ids=["picked_columns", "placed_rows", "skeleton"],
)
def test_places_that_cannot_be_are_seen(made, places):
    made(torch.tensor([2, 0, 1])).check()
    with pytest.raises(ValueError, match="not distinct"):
        made(torch.tensor(places)).check()


@pytest.mark.parametrize(("row", "said"), [(0b111, "places 5 of 4"), (0b1000011, "beyond 5 columns")])
def test_a_mask_that_places_something_else_is_seen(row, said):
    sparse = Sparse(torch.ones(4), torch.tensor([[0b11], [0b11]]), 5)
    sparse.check()
    sparse.mask[0] = row
    with pytest.raises(ValueError, match=said):
        sparse.check()
