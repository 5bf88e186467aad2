"""Contract under test: integer_linear, round_rows and their twins give the same bits as the CPU's
kernels, in every format. A row's bits depend neither on other rows, nor on the row's index, nor on
the number of rows. Memory that no row needs may have any value."""

import numpy as np
import pytest
import torch

from sbrt import _probe
from sbrt.triton_kernels.gate import activated_torch
from sbrt.triton_kernels.integer_linear import (
    IntegerTerms,
    integer_linear,
    integer_linear_torch,
)
from sbrt.triton_kernels.integer_plan import IntegerPlan
from sbrt.triton_kernels.integer_torch import fma_torch
from sbrt.triton_kernels.packed import GROUP, PackedFormat, integer_rows, packed_matrix
from sbrt.triton_kernels.round_rows import round_rows, round_rows_torch
from tests.common.integers import FORMATS, Matrix, fma, groups_of, rows

OPS = {"kernel": (round_rows, integer_linear), "twin": (round_rows_torch, integer_linear_torch)}
# (rows, k, n); no tile divides k or n. With 1 and 2 rows, loop iterations have both lengths (TURN),
# and warps share the groups of an iteration. With 17 rows warps do not share groups.
SHAPES = [(1, 33, 17), (2, 250, 9), (17, 200, 21)]
# Formats that differ little from other formats.
MORE = ("int8 by 128", "Q5_K", "Q4_K", "int4 by 128")


def format_of(name):
    element, group, _, *rest = FORMATS[name]
    minimums, zero = [*rest, *("none", 0)[len(rest) :]]
    return PackedFormat(element, group, minimums != "none", zero)


def packed(name, matrix, device):
    """Return `matrix` in the layout of the kernels."""
    made = packed_matrix(format_of(name), *matrix.levels.shape, device)
    given = (matrix.levels.astype(np.int8).view(np.uint8), matrix.scales, matrix.minimums)
    made.pack(0, *(None if values is None else torch.from_numpy(values) for values in given))
    return made


def anything(k, device):
    """Return the memory of integer rows with random values, as an earlier op may have left it."""
    out = integer_rows(k, device)
    out.q.random_(-128, 128)
    out.scales.fill_(float("nan"))
    out.sums.random_(-99, 99)
    return out


def products(name, matrix, x, device, bias=None, residual=None):
    """Return {op: product in float32} for the ops "kernel" and "twin"."""
    count, (n, k) = len(x), matrix.levels.shape
    plan = IntegerPlan(
        count, n, k, format_of(name), dtype=torch.float32,
        bias=bias is not None, residual=residual is not None,
    )  # fmt: skip
    weight, found = packed(name, matrix, device), {}
    for op, (rounds, multiplies) in OPS.items():
        given = rounds(torch.from_numpy(x).to(device), out=anything(k, device))
        out = torch.full((count, n), float("nan"), device=device)
        own = None if residual is None else torch.from_numpy(residual).to(device)
        of_bias = None if bias is None else torch.from_numpy(bias).to(device)
        multiplies(given, weight, plan=plan, out=out, terms=IntegerTerms(of_bias, own))
        found[op] = out.cpu().numpy()
    return found


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.exact if n in MORE else ()) for n in FORMATS]
)
def test_products_are_the_cpus(device, name):
    for count, k, n in SHAPES:
        matrix, x = Matrix(name, n, k), rows(count, k)
        want = matrix.packed().run(x, integers="portable")
        for op, got in products(name, matrix, x, device).items():
            assert np.array_equal(got, want), (op, count, k, n)


@pytest.mark.parametrize("name", ["int8", "Q4_1"])
def test_the_longest_turns_add_groups_in_order(device, name):
    """Two iterations of 16 groups. A float32 sum of 32 groups depends on their order."""
    matrix, x = Matrix(name, 20, 1024), rows(3, 1024)
    assert IntegerPlan(3, 20, 1024, format_of(name)).turn == 16
    want = matrix.packed().run(x, integers="portable")
    for op, got in products(name, matrix, x, device).items():
        assert np.array_equal(got, want), op


class Wide(IntegerPlan):
    """A plan with wide tiles, as for a matrix of many outputs."""

    @property
    def block_n(self):
        return 64


@pytest.mark.parametrize("name", ["int8", "Q4_1"])
def test_wide_tiles_are_the_cpus(device, name):
    matrix, x = Matrix(name, 70, 200), rows(3, 200)
    want = matrix.packed().run(x, integers="portable")
    plan = Wide(3, 70, 200, format_of(name), dtype=torch.float32)
    given = round_rows(torch.from_numpy(x).to(device), out=anything(200, device))
    out = torch.full((3, 70), float("nan"), device=device)
    integer_linear(given, packed(name, matrix, device), plan=plan, out=out)
    assert np.array_equal(out.cpu().numpy(), want)


def test_bias_and_residual_are_added_as_on_the_cpu(device):
    matrix, x = Matrix("int8", 40, 96), rows(5, 96)
    bias, residual = rows(1, 40, seed=1)[0], rows(5, 40, seed=2)
    want = matrix.packed().run(x, integers="portable", bias=bias, add=residual)
    for op, got in products("int8", matrix, x, device, bias, residual).items():
        assert np.array_equal(got, want), op


@pytest.mark.parametrize("columns", [1, 33, 256])
def test_rows_are_rounded_as_on_the_cpu(device, columns):
    x = rows(6, columns)
    x[1] = 0
    x[2] = np.rint(x[2] * 8) / 2 * np.float32(2**-20)  # values halfway between two integers
    x[3] *= np.float32(1e-38)
    x[4, 0], x[5, -1] = np.nan, np.inf
    want = groups_of(_probe.quantise_probe(x), 6)
    n = -(-columns // GROUP)
    for op, (rounds, _) in OPS.items():
        given = rounds(torch.from_numpy(x).to(device), out=anything(columns, device))
        q, scales = given.q.cpu()[:6, : n * GROUP], given.scales.cpu()[:n, :6]
        assert np.array_equal(q.numpy().reshape(6, n, GROUP), want["q"]), op
        assert np.array_equal(scales.numpy().T, want["scale"], equal_nan=True), op
        sums = want["q"].reshape(6, n, 2, 16).sum(-1, dtype=np.int32)
        assert np.array_equal(given.sums.cpu()[:, :n, :6].numpy().transpose(2, 1, 0), sums), op


def test_a_norm_before_rounding(device):
    """The rounded rows must equal those of a norm in plain torch. Sums of squares of small integers
    are exact, so every order of sums gives the same norm."""
    x = torch.randint(-9, 9, (3, 80), generator=torch.Generator().manual_seed(0)).float()
    weight = torch.rand(80, generator=torch.Generator().manual_seed(1)) + 0.5
    y = weight * (x * (1 / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)))
    want = round_rows_torch(y, out=integer_rows(80, "cpu"))
    for rounds, _ in OPS.values():
        out = integer_rows(80, device)
        rounds(x.to(device), out=out, norm=weight.to(device), eps=1e-5)
        assert torch.equal(out.q.cpu(), want.q)
        assert torch.equal(out.scales.cpu(), want.scales)


def test_a_norm_and_a_residual_before_the_norm(device):
    """As in Gemma 3. The twin and the kernel add their squares in different orders."""
    g = torch.Generator().manual_seed(0)
    x, stream = torch.randn(2, 3, 80, generator=g)
    after, weight = torch.rand(2, 80, generator=g) + 0.5
    sums = stream + after * (x * (1 / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5)))
    y = weight * (sums * (1 / torch.sqrt(sums.square().mean(-1, keepdim=True) + 1e-5)))
    for rounds, _ in OPS.values():
        out, residual = integer_rows(80, device), stream.clone().to(device)
        given = {"after": after.to(device), "residual": residual, "norm": weight.to(device)}
        rounds(x.to(device), out=out, eps=1e-5, **given)
        torch.testing.assert_close(residual.cpu(), sums, rtol=1e-6, atol=1e-6)
        scale = out.scales[:3, :3].cpu().t().repeat_interleave(GROUP, 1)[:, :80]
        assert ((out.dense(3, 80).cpu() - y).abs() <= scale * 0.5001).all()


def test_the_norm_of_a_row_has_the_same_bits_whatever_the_others(device):
    g = torch.Generator().manual_seed(0)
    x, stream = torch.randn(2, 16, 80, generator=g).half().to(device)
    weights = {name: torch.rand(80, generator=g).to(device) + 0.5 for name in ("norm", "after")}

    def made(chosen):
        out, residual = integer_rows(80, device), stream[chosen].clone()
        round_rows(x[chosen].clone(), out=out, residual=residual, eps=1e-5, **weights)
        return residual, out.q[: len(chosen)], out.scales[:3, : len(chosen)].t()

    every = made(list(range(16)))
    for chosen in ([5], [9, 2, 15]):
        for mine, all_of in zip(made(chosen), every, strict=True):
            assert torch.equal(mine, all_of[chosen])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"norm": torch.ones(8).half()}, "norm.dtype: expected torch.float32 as x"),
        ({"after": torch.ones(8)}, "after: expected it with a norm and a residual"),
        ({"residual": torch.ones(2, 8)}, "after: expected it with a norm and a residual"),
        (
            {"after": torch.ones(8), "residual": torch.ones(2, 8).half(), "norm": torch.ones(8)},
            "residual.dtype: expected torch.float32",
        ),
    ],
    ids=["norm", "after", "residual", "dtype"],
)
def test_bad_rows_are_one_sentence(changes, sentence):
    for rounds, _ in OPS.values():
        with pytest.raises(ValueError, match=sentence):
            rounds(torch.ones(2, 8), out=integer_rows(8, "cpu"), **changes)


@pytest.mark.parametrize(("name", "gelu"), [("int8", False), ("Q4_1", False), ("int8", True)])
def test_a_gate_writes_the_next_products_rows(device, name, gelu):
    """Each integer is right, up to the last bit of the exponential at a rounding boundary."""
    n, k, count = 70, 96, 5
    matrix, x = Matrix(name, 2 * n, k), rows(count, k)
    product = torch.from_numpy(matrix.packed().run(x, integers="portable"))
    want = activated_torch(product[:, :n], gelu) * product[:, n:]
    plan = IntegerPlan(
        count, n, k, format_of(name), dtype=torch.float32, gate=True, gelu=gelu, rounds=True
    )
    for rounds, multiplies in OPS.values():
        given = rounds(torch.from_numpy(x).to(device), out=anything(k, device))
        out = anything(n, device)
        multiplies(given, packed(name, matrix, device), plan=plan, terms=IntegerTerms(rounded=out))
        error = (out.dense(count, n).cpu() - want).abs()
        scale = out.scales[: -(-n // GROUP), :count].cpu().t().repeat_interleave(GROUP, 1)[:, :n]
        assert (error <= scale * 0.5001).all()
        assert not out.q[:count, n : -(-n // GROUP) * GROUP].any()  # columns from n on are 0


@pytest.mark.parametrize("count", [1, 5, 64])
@pytest.mark.parametrize("name", ["int8", "Q4_0"])
def test_a_row_has_the_same_bits_whatever_the_others(device, name, count):
    matrix, x = Matrix(name, 17, 160), rows(64, 160)
    want = matrix.packed().run(x, integers="portable")
    chosen = np.random.default_rng(count).permutation(64)[:count]
    given = x[chosen]
    assert np.array_equal(products(name, matrix, given, device)["kernel"], want[chosen])


def test_a_nan_row_stays_alone(device):
    matrix, x = Matrix("Q4_1", 20, 96), rows(4, 96)
    want = products("Q4_1", matrix, x, device)
    x[2, 5] = np.nan
    for op, got in products("Q4_1", matrix, x, device).items():
        assert np.isnan(got[2]).all()
        assert np.array_equal(got[[0, 1, 3]], want[op][[0, 1, 3]])


def test_the_twins_fma_rounds_once():
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(2000, np.float32) for _ in range(3))
    c *= np.float32(2.0) ** rng.integers(-30, 30, 2000, np.int32)
    got = fma_torch(*map(torch.from_numpy, (a, b, c))).numpy()
    assert np.array_equal(got, fma(a, b, c))
    assert not np.array_equal(got, a * b + c)


def test_narrow_tiles_take_longer_turns():
    """Narrow tiles have longer loop iterations, which keep enough bytes in flight. Those of few
    programs are the longest. k is padded only to the shortest iteration, so some sizes of k need a
    shorter one."""
    sizes = [(n, k) for n in (100, 2800, 8000, 20000) for k in (384, 768, 1024)]
    plans = [IntegerPlan(16, n, k, format_of("int8")) for n, k in sizes]
    found = {(plan.block_n, plan.turn) for plan in plans}
    assert found == {(16, 4), (16, 8), (16, 16), (32, 4), (32, 8), (64, 4)}
    assert {plan.shares_groups for plan in plans} == {True, False}
