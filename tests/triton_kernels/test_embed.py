"""Contract under test: embed copies the bits of each row's token, or multiplies them by a factor.
It writes zero for padding rows, whatever the table has there. On request it writes the sums of
squares of its output. Kernel and twin do the same."""

import pytest
import torch

from sbrt.triton_kernels import state
from sbrt.triton_kernels.embed import BLOCK, embed, embed_torch
from sbrt.triton_kernels.norm import squares_torch

VOCAB, COLUMNS = 11, 40
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def table_of(tokens, n, device):
    table = state.Batch(n=n)
    for i, row in enumerate(table.row):
        row.token = tokens[i] if i < len(tokens) else -5
    return state.words(table, device)


@pytest.mark.parametrize("op", [embed, embed_torch])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_their_tokens(op, dtype, device):
    wide = torch.randn(VOCAB, COLUMNS + 3, generator=torch.Generator().manual_seed(0))
    weight = wide.to(device, dtype)[:, :COLUMNS]
    out = torch.full((8, COLUMNS + 1), float("nan"), device=device, dtype=dtype)[:, :COLUMNS]
    tokens = [3, 0, 10, 3, 7]
    op(table_of(tokens, 5, device), weight, out=out)
    assert torch.equal(out[:5], weight[tokens])
    assert torch.equal(out[5:], torch.zeros_like(out[5:]))


@pytest.mark.parametrize("op", [embed, embed_torch])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_factor(op, dtype, device):
    """The product is rounded once, and the sums of squares are those of the products."""
    weight = torch.randn(VOCAB, 40, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    factor = float(torch.tensor(1152**0.5, dtype=dtype))
    out, squares = torch.empty(3, 40, device=device, dtype=dtype), torch.empty(1, 3, device=device)
    op(table_of([3, 0], 2, device), weight, out=out, squares=squares, factor=factor)
    assert torch.equal(out[:2], (weight[[3, 0]].double() * factor).to(dtype))
    assert not out[2:].any()
    torch.testing.assert_close(squares, squares_torch(out), rtol=1e-6, atol=0)


@pytest.mark.parametrize("op", [embed, embed_torch])
def test_a_part_of_the_table(op, device):
    weight = torch.randn(VOCAB, COLUMNS).to(device)
    out = torch.full((4, COLUMNS), float("nan"), device=device)
    op(table_of([1, 2, 3, 4, 5], 5, device), weight, out=out, first_row=3)
    assert torch.equal(out[:2], weight[[4, 5]])
    assert not out[2:].any()
    op(table_of([1, 2], 2, device), weight, out=out, first_row=3)
    assert not out.any()


@pytest.mark.parametrize("op", [embed, embed_torch])
@pytest.mark.parametrize("columns", [40, 64, 200, BLOCK + 70])
def test_sums_of_squares(op, columns, device):
    weight = torch.randn(VOCAB, columns, generator=torch.Generator().manual_seed(1)).to(device)
    out, parts = torch.empty(5, columns, device=device), -(-columns // 64)
    squares = torch.full((parts, 7), float("nan"), device=device)
    op(table_of([3, 9, 1], 3, device), weight, out=out, squares=squares)
    torch.testing.assert_close(squares[:, :5], squares_torch(out), rtol=1e-6, atol=0)
    torch.testing.assert_close(squares[:, :5].sum(0), out.square().sum(1), rtol=1e-5, atol=0)
    assert not squares[:, 3:5].any()
    assert squares[:, 5:].isnan().all()


@pytest.mark.parametrize("op", [embed, embed_torch])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weight": torch.zeros(3, 4, dtype=torch.int32)}, "weight: expected"),
        ({"out": torch.zeros(2, 5)}, "out.shape"),
        ({"out": torch.zeros(2, 4, dtype=torch.float16)}, "out: expected"),
        ({"weight": torch.zeros(4, 3).t()}, "weight: expected contiguous"),
        ({"table": torch.zeros(4, dtype=torch.int32)}, "table"),
        ({"squares": torch.zeros(2, 2)}, r"squares: expected contiguous float32 \[1, rows\]"),
        ({"squares": torch.zeros(1, 2).half()}, "squares: expected contiguous float32"),
        ({"squares": torch.zeros(1, 1)}, "squares: expected 2 rows at least but got 1"),
    ],
)
def test_what_cannot_be_is_refused(op, change, sentence):
    given = {"weight": torch.zeros(3, 4), "out": torch.zeros(2, 4)}
    given["table"] = table_of([0, 1], 2, "cpu")
    given |= change
    with pytest.raises(ValueError, match=sentence):
        op(given.pop("table"), given.pop("weight"), **given)
