"""Contract under test: linear equals its twin, and the twin equals the separate ops that it
replaces (rms_norm, a product, gate_mul, a residual add). Memory that no row needs is never read. A
row has the same bits whatever the other rows, its index and the number of rows. Splits of k are
merged in a fixed order."""

import itertools
from dataclasses import replace

import pytest
import torch

from sbrt.triton_kernels.gate import gate_mul_torch
from sbrt.triton_kernels.linear import Terms, linear, linear_torch
from sbrt.triton_kernels.linear_plan import LinearPlan, LinearWork, linear_work
from sbrt.triton_kernels.norm import rms_norm_torch, squares_torch

EPS = 1e-5
PAD = 3  # NaN columns between rows
# Tolerances against the twin, relative to the largest result. The kernel adds float32 values in
# another order. In 16-bit dtypes the roundings of the product, after the norm and before the gate
# may also differ.
ALLOWED = {torch.float32: 2e-6, torch.float16: 2e-3}
KINDS = {
    "plain": {},
    "bias": {"bias": True},
    "norm": {"norm": True, "bias": True},
    "gate": {"norm": True, "gate": True},
    "gate, bias": {"norm": True, "gate": True, "bias": True},
    "gelu": {"gate": True, "gelu": True},
    "residual": {"residual": True},
    "residual, bias": {"residual": True, "bias": True},
}


def padded(values, device):
    """Return the same values as a view of a wider buffer that has NaN between rows."""
    wide = torch.full((values.shape[0], values.shape[1] + PAD), float("nan"), dtype=values.dtype)
    wide[:, : values.shape[1]] = values
    return wide.to(device)[:, : values.shape[1]]


class Product:
    """Random tensors for a plan. `out` and `work` are NaN until they are written."""

    def __init__(self, plan, device, seed=0):
        self.plan, self.device = plan, device
        g = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(shape, generator=g).to(plan.dtype)

        wide = 2 * plan.n if plan.gate else plan.n
        self.x = padded(draw(plan.rows, plan.k) * 2, device)
        self.weight = padded(draw(wide, plan.k) * plan.k**-0.5, device)
        self.bias = draw(wide).to(device) if plan.bias else None
        self.norm = (1 + draw(plan.k) / 4).to(device) if plan.norm else None
        self.residual = padded(draw(plan.rows, plan.n), device) if plan.residual else None

    def work(self):
        work = linear_work([self.plan], self.device)
        work.partial.fill_(float("nan"))
        work.squares.fill_(float("nan"))
        if self.plan.norm:
            work.squares[:, : self.plan.rows] = squares_torch(self.x)
        return work

    def run(self, op=linear, out_dtype=None, in_place=False):
        """Run the product. Return `out`, and the sums of squares that the product wrote, if any."""
        plan, work = self.plan, self.work()
        dtype = out_dtype or plan.dtype
        out = padded(torch.full((plan.rows, plan.n), float("nan"), dtype=dtype), self.device)
        residual = self.residual
        if in_place:
            residual = out.copy_(self.residual)
        terms = Terms(self.bias, self.norm, EPS, residual)
        assert op(self.x, self.weight, plan=plan, work=work, out=out, terms=terms) is out
        assert not work.counters.any(), "a counter was not set back"
        assert out._base is None or out._base[:, plan.n :].isnan().all()
        assert work.squares[:, plan.rows :].isnan().all()
        return out, work.squares[:, : plan.rows] if plan.residual else None


def close(got, want, plan, exact=None):
    """Compare `got` with `want`: check the largest error, and that no value is NaN.

    The interpreter truncates when it converts to bfloat16. So one step of bfloat16 is allowed for
    each rounding that the plan makes.
    """
    steps = 1 + 2 * plan.norm + 2 * plan.gate + plan.residual
    allowed = ALLOWED.get(exact or plan.dtype, steps * torch.finfo(torch.bfloat16).eps)
    error = (got.float() - want.float()).abs().max() / want.float().abs().max().clamp(min=1)
    assert error <= allowed, f"differs by {error:.3g} of the largest"


def check(plan, device, **how):
    product = Product(plan, device, seed=plan.rows)
    (got, squares), (want, wanted) = product.run(linear, **how), product.run(linear_torch, **how)
    close(got, want, plan)
    if plan.residual:
        close(squares, squares_torch(got), plan, torch.float32)
        assert torch.equal(wanted, squares_torch(want))


@pytest.mark.parametrize("rows", [1, 3, 16, 17, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_twin(device, kind, rows):
    for n, k in ((67, 32), (32, 48), (96, 200)):
        check(LinearPlan(rows, n, k, dtype=torch.float32, **KINDS[kind]), device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_halves_equal_the_twin(device, kind, dtype):
    for rows, n, k in ((1, 67, 32), (17, 65, 300)):
        check(LinearPlan(rows, n, k, dtype=dtype, **KINDS[kind]), device)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("splits", [2, 3, 5])
def test_splits_equal_the_twin(device, kind, splits):
    for dtype, k in ((torch.float32, 160), (torch.float16, 560)):
        plan = LinearPlan(3, 70, k, dtype=dtype, splits=splits, **KINDS[kind])
        assert plan.cuts == splits
        check(plan, device)


@pytest.mark.parametrize("splits", [1, 3])
def test_in_place(device, splits):
    for dtype in (torch.float32, torch.float16):
        plan = LinearPlan(5, 130, 96, dtype=dtype, residual=True, splits=splits)
        product = Product(plan, device)
        out, squares = product.run()
        again, its = product.run(in_place=True)
        assert torch.equal(out, again)
        assert torch.equal(squares, its)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_logits_of_halves_are_not_rounded(device, dtype):
    plan = LinearPlan(4, 67, 64, dtype=dtype, norm=True)
    product = Product(plan, device)
    out, _ = product.run(out_dtype=torch.float32)
    want, _ = product.run(linear_torch, out_dtype=torch.float32)
    close(out, want, plan)
    assert not torch.equal(out, out.to(dtype).float())


def by_ops(p):
    """Return the result of the product `p`, computed by separate ops."""
    plan, x = p.plan, p.x
    if plan.norm:
        x = rms_norm_torch(x, p.norm, eps=EPS, out=torch.empty_like(x))
    made = x.float() @ p.weight.float().t()
    made = (made + (0 if p.bias is None else p.bias.float())).to(plan.dtype)
    if plan.gate:
        return gate_mul_torch(made, out=torch.empty(plan.rows, plan.n).to(made), gelu=plan.gelu)
    if not plan.residual:
        return made
    h = p.residual.clone()
    rms_norm_torch(made, torch.ones(plan.n).to(made), eps=EPS, out=torch.empty_like(h), residual=h)
    return h


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_rounds_where_the_ops_do(device, kind, dtype):
    """The twin must equal the separate ops. It adds sums of squares in another order. So float32
    results may differ by a rounding; 16-bit results seldom differ."""
    for rows, n, k in ((1, 48, 32), (16, 67, 200)):
        product = Product(LinearPlan(rows, n, k, dtype=dtype, **KINDS[kind]), device)
        got, want = product.run(linear_torch)[0], by_ops(product)
        if dtype == torch.float32 or product.plan.norm:
            close(got, want, product.plan)
        else:
            assert torch.equal(got, want)


# ---- bits of a row


ORDER = (9, 2, 15, 0, 7)  # 5 of 16 rows, which are computed again without the other rows


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_row_has_the_same_bits_whatever_the_others(device, dtype, kind, splits):
    plan = LinearPlan(16, 67, 400, dtype=dtype, splits=splits, **KINDS[kind])
    full = Product(plan, device)
    want, left = full.run()
    fewer = Product(plan, device)  # the same values, but other row indices, and NaN as padding
    for name in ("x", "residual"):
        tensor = getattr(fewer, name)
        if tensor is not None:
            kept = tensor[list(ORDER)].clone()
            tensor[:] = float("nan")
            tensor[: len(ORDER)] = kept
    got, its = fewer.run()
    assert torch.equal(got[: len(ORDER)], want[list(ORDER)])
    if plan.residual:
        assert torch.equal(its[:, : len(ORDER)], left[:, list(ORDER)])


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "gate", "residual"])
def test_a_row_has_the_same_bits_however_many_they_are(device, kind, splits):
    """The first rows of a product must have the same bits with any number of rows. These plans have
    the same tiles and one compiled kernel; only the number of rows differs."""
    wide = Product(
        LinearPlan(16, 67, 160, dtype=torch.float32, splits=splits, **KINDS[kind]), device
    )
    want, _ = wide.run()
    for rows in (1, 3, 15):
        fewer = Product(wide.plan, device)
        fewer.plan = replace(wide.plan, rows=rows)
        fewer.x = fewer.x[:rows]
        fewer.residual = None if fewer.residual is None else fewer.residual[:rows]
        assert torch.equal(fewer.run()[0], want[:rows])


def test_a_nan_row_stays_alone(device):
    plan = LinearPlan(4, 70, 96, dtype=torch.float32, norm=True, gate=True, splits=3)
    product = Product(plan, device)
    want, _ = product.run()
    product.x[2, 5] = float("nan")
    got, _ = product.run()
    assert got[2].isnan().all()
    assert torch.equal(got[[0, 1, 3]], want[[0, 1, 3]])


# ---- plans


LAYER = {  # maps a model's sizes (hidden, inner, rows of qkv) to (n, k, options) of a product
    "qkv": lambda h, i, q: (q, h, {"norm": True}),
    "o": lambda h, i, q: (h, h, {"residual": True}),
    "gate_up": lambda h, i, q: (i, h, {"norm": True, "gate": True}),
    "down": lambda h, i, q: (h, i, {"residual": True}),
}
MODELS = {"1b": (2048, 8192, 3072), "8b": (4096, 14336, 6144)}


@pytest.mark.parametrize(("model", "name"), list(itertools.product(MODELS, LAYER)))
def test_a_plan_fills_the_machine(model, name):
    """A plan must give one to four programs for each of 132 multiprocessors. Its tiles must not
    depend on the number of rows."""
    n, k, options = LAYER[name](*MODELS[model])
    plans = [LinearPlan(rows, n, k, **options) for rows in (1, 4, 16, 64)]
    assert len({(p.cuts, p.split_tiles, p.block_n, p.block_k) for p in plans}) == 1
    plan = plans[0]
    assert 132 <= plan.tiles * plan.cuts <= 4 * 132
    assert plan.is_even
    assert plan.cuts * plan.split_tiles >= plan.k_tiles > (plan.cuts - 1) * plan.split_tiles


def test_one_work_is_for_many_plans():
    plans = [LinearPlan(16, *LAYER[name](64, 96, 128)[:2], **LAYER[name](64, 96, 128)[2])
             for name in LAYER]  # fmt: skip
    work = linear_work([*plans, LinearPlan(64, 64, 512, dtype=torch.float32, splits=4)], "cpu")
    assert work.partial.numel() == 4 * 64 * 64
    assert work.counters.numel() == 3
    assert work.squares.shape == (1, 64)
    assert not work.counters.any()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rows": 65}, "rows: expected a value from 1 to 64 but got 65"),
        ({"n": 0}, "n, k: expected at least 1"),
        ({"dtype": torch.float64}, "dtype: expected one of"),
        ({"gate": True, "residual": True}, "expected a residual or a gate"),
        ({"gelu": True}, "gelu: expected it with a gate"),
        ({"norm": True, "residual": True}, "expected a residual alone"),
        ({"splits": 0}, "splits: expected at least 1"),
    ],
)
def test_a_bad_plan_is_one_sentence(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        LinearPlan(**{"rows": 1, "n": 8, "k": 8} | given)


def no_work():
    return LinearWork(torch.empty(0), torch.zeros(0, dtype=torch.int32), torch.empty(0, 64))


@pytest.mark.parametrize("op", [linear, linear_torch], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"x": torch.ones(3, 8)}, r"x.shape: expected \(2, 8\)"),
        ({"x": torch.ones(2, 16)[:, ::2]}, "x: expected contiguous columns but got stride 2"),
        ({"x": torch.ones(2, 8, dtype=torch.int32)}, "x.dtype: expected torch.float32"),
        ({"weight": torch.ones(4, 8).half()}, "weight.dtype: expected torch.float32"),
        ({"out": torch.ones(2, 5)}, r"out.shape: expected \(2, 4\)"),
        ({"out": torch.ones(2, 4).half()}, "out.dtype: expected torch.float32"),
        ({"terms": Terms(bias=torch.ones(4))}, "bias: expected none by the plan"),
        (
            {"plan": LinearPlan(2, 4, 8, dtype=torch.float32, norm=True)},
            "norm: expected one by the",
        ),
        ({"work": no_work()}, "work: expected room for"),
        ({"weight": torch.ones(4, 8, device="meta")}, "weight.device: expected cpu"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_bad_input_is_one_sentence(op, changes, sentence):
    plan = LinearPlan(2, 4, 8, dtype=torch.float32)
    given = {"x": torch.ones(2, 8), "weight": torch.ones(4, 8), "out": torch.ones(2, 4)}
    given |= {"plan": plan, "work": linear_work([plan], "cpu")} | changes
    with pytest.raises(ValueError, match=sentence):
        op(given.pop("x"), given.pop("weight"), **given)
