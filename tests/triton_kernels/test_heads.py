"""Contract under test: a product that rotates its heads has the same bits as the product followed
by rope_kv_write. It writes queries to `out`, and keys and values only to the slots of its rows."""

import pytest
import torch

from sbrt.triton_kernels import state
from sbrt.triton_kernels.embed import embed, embed_torch
from sbrt.triton_kernels.heads import HeadTerms
from sbrt.triton_kernels.integer_linear import (
    IntegerTerms,
    integer_linear,
    integer_linear_torch,
)
from sbrt.triton_kernels.integer_plan import IntegerPlan
from sbrt.triton_kernels.linear import Terms, linear, linear_torch
from sbrt.triton_kernels.linear_plan import LinearPlan, linear_work
from sbrt.triton_kernels.packed import PackedFormat, integer_rows, packed_matrix
from sbrt.triton_kernels.product_plan import Heads
from sbrt.triton_kernels.rope import Rope, rope_kv_write, rope_kv_write_torch
from sbrt.triton_kernels.round_rows import round_rows

SLOTS, K = 40, 160
POSITIONS = [0, 7, 2**24 + 3, 1000, 5]
AT = [3, -1, 0, 39, 20]  # slots of the rows
# Heads that are narrower than a tile, heads of which several fill a tile, and heads that are wider
# than a tile. No tile divides their number of columns.
KINDS = [Heads(3, 1, 2), Heads(4, 2, 16), Heads(7, 1, 64), Heads(2, 1, 128)]
FIRST = 2  # row of the table
OPS = {
    "kernel": (embed, rope_kv_write, linear, integer_linear),
    "twin": (embed_torch, rope_kv_write_torch, linear_torch, integer_linear_torch),
}


def table_of(device):
    table = state.Batch(n=FIRST + len(AT))
    for i, (position, slot) in enumerate(zip(POSITIONS, AT, strict=True)):
        table.row[FIRST + i].position, table.row[FIRST + i].slot = position, slot
    # A value that an earlier forward left; the row is not in use.
    table.row[FIRST + len(AT)].slot = 1
    return state.words(table, device)


class Scene:
    """The tensors of one product, which runs with heads or without. The KV storage is NaN at
    first."""

    def __init__(self, heads, dtype, device, op, rows=6):
        self.heads, self.dtype, self.device, self.rows = heads, dtype, device, rows
        self.embed, self.rope_kv_write, *products = OPS[op]
        self.linear, self.integer_linear = products
        g = torch.Generator().manual_seed(heads.head_dim)
        self.x = torch.randn(rows, K, generator=g).to(device, dtype)
        self.weight = (torch.randn(heads.columns, K, generator=g) / 12).to(device, dtype)
        self.bias = torch.randn(heads.columns, generator=g).to(device, dtype)
        self.table = table_of(device)
        half = heads.head_dim // 2
        inv_freq = 1 / 10000 ** (torch.arange(half) / half)
        self.rope = Rope(inv_freq.to(device), 1.25)
        self.angles = torch.full((2, 64, half), float("nan"), device=device)
        out = torch.empty(rows, 8, device=device, dtype=dtype)
        self.embed(
            self.table, torch.zeros(1, 8, dtype=dtype, device=device), out=out, first_row=FIRST,
            rope=self.rope, angles=self.angles,
        )  # fmt: skip

    def storage(self):
        shape = (2, self.heads.keys, SLOTS, self.heads.head_dim + 2)
        kv = torch.full(shape, float("nan"), device=self.device, dtype=self.dtype)
        return kv[..., : self.heads.head_dim]

    def floats(self, heads, out, terms):
        plan = LinearPlan(
            self.rows, self.heads.columns, K, dtype=self.dtype, bias=True, heads=heads, splits=2
        )
        self.linear(
            self.x, self.weight, plan=plan, work=linear_work([plan], self.device), out=out,
            terms=Terms(self.bias, heads=terms),
        )  # fmt: skip

    def integers(self, heads, out, terms):
        known = PackedFormat("int8", 64)
        plan = IntegerPlan(
            self.rows, self.heads.columns, K, known, dtype=self.dtype, bias=True, heads=heads
        )
        weight = packed_matrix(known, self.heads.columns, K, self.device)
        levels = (self.weight.float().cpu() * 200).round().clamp(-128, 127).to(torch.int8)
        weight.pack(0, levels.view(torch.uint8), torch.full((self.heads.columns, 3), 1 / 200))
        x = round_rows(self.x, out=integer_rows(K, self.device))
        terms = IntegerTerms(self.bias, heads=terms)
        self.integer_linear(x, weight, plan=plan, out=out, terms=terms)

    def check(self, product):
        """Compare the product with heads with the product followed by rope_kv_write. q, k and v
        must be equal, bit by bit."""
        heads, queries = self.heads, self.heads.queries * self.heads.head_dim
        out, want = (
            torch.full((self.rows, heads.columns), 7.0, device=self.device, dtype=self.dtype)
            for _ in range(2)
        )
        kv, expected = self.storage(), self.storage()
        product(heads, out, HeadTerms(self.angles, self.table, kv[0], kv[1], FIRST))
        product(None, want, None)
        qkv = want.view(self.rows, -1, heads.head_dim)
        self.rope_kv_write(qkv, *expected, self.table, self.rope, first_row=FIRST)
        assert torch.equal(out[: len(AT), :queries], want[: len(AT), :queries])
        assert torch.equal(kv.nan_to_num(77), expected.nan_to_num(77))
        assert kv[:, :, [s for s in AT if s >= 0]].isfinite().all()
        assert (out[:, queries:] == 7).all()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kind", ["floats", "integers"])
@pytest.mark.parametrize("heads", KINDS, ids=str)
def test_bits_are_those_of_rope_after_the_product(device, heads, kind, op):
    scene = Scene(heads, torch.float32, device, op)
    scene.check(getattr(scene, kind))


@pytest.mark.parametrize("kind", ["floats", "integers"])
def test_halves_are_rounded_before_they_are_rotated(device, kind):
    scene = Scene(Heads(4, 2, 16), torch.float16, device, "kernel")
    scene.check(getattr(scene, kind))


def test_angles_of_rows_and_of_padding(device):
    made = [Scene(KINDS[1], torch.float32, device, op).angles for op in OPS]
    assert made[0][:, 6:].isnan().all()
    assert torch.allclose(made[0][:, :6], made[1][:, :6], atol=2e-6, rtol=0)
    # The row at position 0, and a row that the table does not have.
    assert (made[0][0, [0, 5]] == 1.25).all()
    assert not made[0][1, [0, 5]].any()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"residual": True}, "heads: expected neither residual nor gate"),
        ({"n": 33}, "n: expected 128 of"),
    ],
)
def test_a_bad_plan_is_one_sentence(changes, sentence):
    given = {"rows": 1, "n": 128, "k": K, "heads": KINDS[1]} | changes
    with pytest.raises(ValueError, match=sentence):
        LinearPlan(**given)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"angles": torch.ones(2, 64, 9)}, "angles: expected float32 "),
        ({"table": torch.zeros(3, dtype=torch.int32)}, "table: expected"),
        ({"v": torch.ones(2, SLOTS, 8)}, "v: expected torch.float32 "),
        (None, "heads: expected some by the plan"),
    ],
)
def test_bad_terms_are_one_sentence(changes, sentence):
    scene = Scene(KINDS[1], torch.float32, "cpu", "twin")
    kv = scene.storage()
    given = {"angles": scene.angles, "table": scene.table, "k": kv[0], "v": kv[1]}
    terms = None if changes is None else HeadTerms(**given | changes)
    out = torch.ones(6, 128)
    for product in (scene.floats, scene.integers):
        with pytest.raises(ValueError, match=sentence):
            product(scene.heads, out, terms)


def test_angles_without_a_rope_are_one_sentence():
    with pytest.raises(ValueError, match="angles: expected them with a rope"):
        embed_torch(table_of("cpu"), torch.ones(1, 8), out=torch.ones(1, 8),
                    angles=torch.ones(2, 64, 8))  # fmt: skip
    with pytest.raises(ValueError, match="angles: expected float32"):
        embed_torch(table_of("cpu"), torch.ones(1, 8), out=torch.ones(1, 8),
                    rope=Rope(torch.ones(4)), angles=torch.ones(2, 64, 8))  # fmt: skip
