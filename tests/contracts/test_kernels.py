"""Products with packed weights: what the dense weight would give, for any form, number of vectors and of threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from contract_cases import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gossamer.expressions.codebook import Codebook
from gossamer.expressions.lookup import Lookup
from gossamer.expressions.quantized import Quantized
from gossamer.expressions.sparse import Sparse
from gossamer.expressions.trellis import Trellis
from gossamer.kernels.few import FEW


def codes(bits, m, n):
    return torch.randint(0, 2**bits, (m, n), generator=torch.Generator().manual_seed(bits))


def scales(m, n, group):
    return normal(1, m, -(-n // group)).float()


FORMS = {
    "even": lambda bits, m, n, group: Quantized.of(
        codes(bits, m, n), scales(m, n, group), None, bits=bits, group=group
    ),
    "zero points": lambda bits, m, n, group: Quantized.of(
        codes(bits, m, n), scales(m, n, group), codes(bits, m, -(-n // group)), bits=bits, group=group
    ),
    "lookup": lambda bits, m, n, group: Lookup.at(
        codes(bits, m, n), scales(m, n, group), normal(2, 2**bits).float(), group=group
    ),
    "trellis": lambda bits, m, n, group: Trellis.along(codes(bits, m, n), scales(m, n, group), bits=bits, group=group),
    "codebook": lambda bits, m, n, group: Codebook.of(codes(bits, m, n), normal(2, m, 2**bits).float(), bits),
    "sparse": lambda bits, m, n, group: masked(m, n, bits / 9),
}


def masked(m, n, share):
    support = torch.rand(m, n, generator=torch.Generator().manual_seed(n)) < share
    support[m // 2, n // 2] = True
    return Sparse.of(normal(3, m, n).float(), support)


each_form = pytest.mark.parametrize("form", FORMS)


def agree(expression, x):
    """Both ways to the product are the same up to the order of sums; the sizes of the terms say how much that is."""
    weight = expression.dense().detach()
    with torch.no_grad():
        found = expression(x)
    unit = (x.double().abs() @ weight.double().abs().T).max().item()
    torch.testing.assert_close(found.double(), x.double() @ weight.double().T, rtol=0, atol=1e-6 * unit + 1e-12)


@each_form
@settings(deadline=None, max_examples=30)
@given(
    bits=st.integers(1, 8),
    eighth=st.integers(1, 5),
    n=st.integers(1, 70),
    group=st.integers(1, 70),
    t=st.integers(1, 5),
)
def test_it_is_the_product_with_the_dense_weight(form, bits, eighth, n, group, t):
    agree(FORMS[form](bits, 8 * eighth, n, min(group, n)), normal(t, t, n).float())


@each_form
@settings(deadline=None, max_examples=30)
@given(bits=st.integers(1, 8), eighth=st.integers(1, 6), n=st.integers(1, 70), group=st.integers(1, 70))
def test_the_dense_weight_is_the_same_to_the_bit_with_gradients_and_without(form, bits, eighth, n, group):
    """Without them it is decoded by a kernel, with them by PyTorch."""
    expression = FORMS[form](bits, 8 * eighth, n, min(group, n))
    with torch.no_grad():
        found = expression.dense()
    assert found.dtype == torch.float32 and torch.equal(found, expression.dense())


@each_form
def test_neither_the_format_nor_the_device_of_new_tensors_matters(form):
    expression, x = FORMS[form](3, 16, 40, 20), normal(1, FEW + 1, 40).float()
    with torch.no_grad():
        want = expression(x)
        for dtype in (torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            try:
                assert torch.equal(expression(x), want)
            finally:
                torch.set_default_dtype(torch.float32)


@each_form
def test_a_few_vectors_need_no_dense_weight_and_many_do(form, monkeypatch):
    expression = FORMS[form](4, 16, 64, 32)
    monkeypatch.setattr(type(expression), "dense", lambda self: pytest.fail("made the dense weight"))
    with torch.no_grad():
        expression(torch.ones(1, FEW, 64))
        with pytest.raises(pytest.fail.Exception):
            expression(torch.ones(1, FEW + 1, 64))
    with pytest.raises(pytest.fail.Exception):  # gradients are asked for
        expression(torch.ones(1, 64))


@each_form
def test_rows_that_make_no_eights_are_right_too(form):
    agree(FORMS[form](3, 11, 20, 8), normal(5, 2, 20).float())


@each_form
def test_half_precision_is_summed_in_float32(form):
    expression = FORMS[form](4, 32, 512, 64)
    x = normal(6, 3, 512)
    for dtype in (torch.bfloat16, torch.float16):
        half = expression.to(dtype)
        with torch.no_grad():
            found = half(x.to(dtype))
        assert found.dtype == dtype
        want = x.to(dtype).double() @ half.dense().detach().double().T
        # A weight that is made dense is rounded to the format once more than one that never is.
        torch.testing.assert_close(
            found.double(), want, rtol=0, atol=4 * torch.finfo(dtype).eps * want.abs().max().item()
        )


@each_form
def test_vectors_that_do_not_lie_in_a_row_are_read_as_they_are(form):
    agree(FORMS[form](4, 16, 24, 8), normal(7, 24, 3).float().T)
    agree(FORMS[form](4, 16, 24, 8), normal(7, 1, 24).float().expand(3, 24))


@each_form
def test_neither_the_number_of_threads_nor_other_callers_change_a_bit(form):
    expression, x = FORMS[form](3, 40, 96, 32), normal(8, 2, 96).float()

    def product(_):
        with torch.inference_mode():
            return torch.cat([expression(x).flatten(), expression.dense().flatten()])

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = product(0)
        torch.set_num_threads(2)
        with ThreadPoolExecutor(4) as pool:
            assert all(torch.equal(found, alone) for found in pool.map(product, range(32)))
    finally:
        torch.set_num_threads(before)


def test_pytorch_keeps_the_number_of_threads_it_was_given():
    """In a process of its own: the first product starts the threads."""
    code = (
        "import torch; from gossamer.expressions.sparse import Sparse; w = torch.eye(8)\n"
        "with torch.no_grad(): Sparse.of(w, w > 0)(w)\n"
        "print(torch.get_num_threads())"
    )
    around = os.environ | {"OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", code], env=around, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1"]


def test_a_mask_of_one_entry_and_a_full_one():
    for support in (torch.zeros(3, 13, dtype=torch.bool), torch.ones(3, 13, dtype=torch.bool)):
        support[2, 12] = True
        agree(Sparse.of(normal(9, 3, 13).float(), support), normal(10, 2, 13).float())


@each_form
def test_what_is_no_number_is_not_hidden(form):
    x = torch.ones(3, 24)
    x[1, 5] = torch.nan
    with torch.no_grad():
        found = FORMS[form](8, 16, 24, 8)(x)
    reached = FORMS[form](8, 16, 24, 8).dense()[:, 5] != 0
    assert found[1][reached].isnan().all() and found[[0, 2]].isfinite().all()


def test_a_mask_that_places_more_than_there_is_reads_nothing_else():
    """`check` refuses it in a file; made by hand it must not show what lies behind it in memory."""
    made = Sparse(torch.ones(3), torch.full((64, 8), 255, dtype=torch.uint8), 64)
    with torch.no_grad():
        assert made.dense().flatten()[:3].eq(1).all() and not made.dense().flatten()[3:].any()
        assert made(torch.ones(1, 64)).sum() == 3


def test_what_is_not_finite_stays_in_its_own_row():
    weight = torch.ones(16, 8).tril()
    weight[3, 0] = torch.inf
    expression = Sparse.of(weight, weight > 0)
    with torch.no_grad():
        found = expression(torch.ones(1, 8))
    assert found[0].isfinite().logical_not().nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("form", ["lookup", "trellis"])
def test_a_compiler_sees_a_product_it_can_fuse(form):
    expression, x = FORMS[form](4, 16, 64, 32), normal(11, 2, 64).float()
    compiled = torch.compile(expression, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), F.linear(x, expression.dense()))
