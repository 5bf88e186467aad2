"""Contract under test: rms_norm equals its twin within the rounding errors of the dtype, and the
twin equals the CPU engine's norm. The same holds if x is normed before it is added. rms_norm
touches nothing outside its rows. A row has the same bits whatever the other rows."""

import itertools

import pytest
import torch

from sbrt import _probe
from sbrt.triton_kernels.norm import MAX_COLUMNS, rms_norm, rms_norm_torch

ROWS = (1, 3, 64)
COLUMNS = (1, 2, 7, 64, 257, 1000)
PAD = 5  # NaN columns between rows
EPS = 1e-6
# The interpreter truncates when it converts to bfloat16. So bfloat16 has its own test below.
DTYPES = (torch.float32, torch.float16) + ((torch.bfloat16,) if torch.cuda.is_available() else ())


def strided(rows, columns, dtype, device, scale=1.0, seed=0):
    """Return a NaN buffer, and a view [rows, columns] of the buffer with random values. With it a
    wrong read or write outside the view is found."""
    generator = torch.Generator().manual_seed(seed)
    buffer = torch.full((rows, columns + PAD), float("nan"), dtype=dtype, device=device)
    values = torch.randn(rows, columns, generator=generator) * scale
    buffer[:, :columns] = values.to(dtype)
    return buffer, buffer[:, :columns]


def assert_close(got, want, exact, dtype):
    """Check that `got` is close to `want`. The message reports the worst element with its
    coordinates.

    Four roundings of the dtype are allowed, plus the dtype's smallest step for values near zero.
    """
    info = torch.finfo(dtype)
    error = (got.double() - exact).abs()
    allowed = 4 * info.eps * exact.abs() + 4 * info.tiny * info.eps
    twin = (want.double() - exact).abs()
    bad = error > torch.maximum(allowed, 2 * twin)
    if bad.any():
        i, j = divmod(int((error / allowed).argmax()), got.shape[1])
        pytest.fail(f"worst at row {i} column {j}: {got[i, j]} but exactly {exact[i, j]}")


def exact_norm(h, weight):
    h = h.double()
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + EPS) * weight.double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
def test_equals_its_twin_and_the_formula(device, dtype, with_residual):
    for rows, columns in itertools.product(ROWS, COLUMNS):
        _, x = strided(rows, columns, dtype, device)
        residual_buffer, residual = strided(rows, columns, dtype, device, scale=3.0, seed=1)
        out_buffer, out = strided(rows, columns, dtype, device)
        weight = torch.linspace(-2, 2, columns, device=device).to(dtype)
        twin_residual, twin_out = residual.clone(), torch.empty_like(x)
        extra = (residual, twin_residual) if with_residual else (None, None)

        result = rms_norm(x, weight, eps=EPS, out=out, residual=extra[0])
        rms_norm_torch(x, weight, eps=EPS, out=twin_out, residual=extra[1])

        assert result is out
        assert torch.equal(residual, twin_residual)
        assert_close(out, twin_out, exact_norm(residual if with_residual else x, weight), dtype)
        for buffer in (residual_buffer, out_buffer):
            assert buffer[:, columns:].isnan().all(), f"wrote past column {columns}"


def post_normed(rows, columns, dtype, device, op=rms_norm):
    """Norm x, add it to a residual stream, norm the sum. Return (out, residual), and both exactly.

    The weights are float32. The second norm is computed exactly from the given residual, because
    its rounding is part of the contract.
    """
    _, x = strided(rows, columns, dtype, device)
    _, residual = strided(rows, columns, dtype, device, scale=3.0, seed=1)
    _, out = strided(rows, columns, dtype, device)
    after, weight = (torch.linspace(a, 2, columns, device=device) for a in (0.3, -2))
    added = exact_norm(x, after).to(dtype).double() + residual.double()
    op(x, weight, eps=EPS, out=out, residual=residual, after=after)
    return (out, residual), (exact_norm(residual, weight), added)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_x_is_normed_before_it_is_added(device, dtype):
    """A norm that is rounded in another direction moves the sum by one step of the summand."""
    for rows, columns in itertools.product((1, 3), COLUMNS):
        got, exact = post_normed(rows, columns, dtype, device)
        twin, _ = post_normed(rows, columns, dtype, device, rms_norm_torch)
        step = torch.finfo(dtype).eps
        for mine, its, right in zip(got, twin, exact, strict=True):
            largest = right.abs().amax()
            assert ((mine.double() - right).abs() <= 2 * step * largest).all()
            assert ((its.double() - right).abs() <= 2 * step * largest).all()
        if dtype == torch.float16:  # few values are near the middle of two numbers
            assert (got[1] == twin[1]).double().mean() > 0.99


def test_weights_in_float32_are_not_rounded(device):
    """1 + w has more digits than a weight w of float16. The normalised row keeps its own, too."""
    _, x = strided(3, 257, torch.float16, device)
    weight = 1 + torch.linspace(-(2**-9), 2**-9, 257, device=device)
    out = rms_norm(x, weight, eps=EPS, out=torch.empty_like(x))
    want = exact_norm(x, weight).half()
    twin = rms_norm_torch(x, weight, eps=EPS, out=torch.empty_like(x))
    assert (out == want).double().mean() > 0.99
    assert (twin == want).double().mean() > 0.99


@pytest.mark.parametrize("columns", COLUMNS)
def test_the_twin_equals_the_cpu(columns):
    _, x = strided(7, columns, torch.float32, "cpu")
    weight = torch.linspace(-2, 2, columns)
    twin = rms_norm_torch(x, weight, eps=EPS, out=torch.empty(7, columns))
    cpu = torch.from_numpy(_probe.norm_probe(x.contiguous().numpy(), weight.numpy(), EPS))
    torch.testing.assert_close(twin, cpu, rtol=1e-5, atol=1e-5)


def test_bfloat16_within_one_step_of_each_of_its_three_roundings(device):
    _, x = strided(3, 257, torch.bfloat16, device)
    _, residual = strided(3, 257, torch.bfloat16, device, seed=1)
    h = x.double() + residual.double()
    weight = torch.linspace(-2, 2, 257, device=device).bfloat16()
    out = rms_norm(x, weight, eps=EPS, out=torch.empty_like(x), residual=residual)
    step = torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(residual.double(), h, rtol=step, atol=0)
    torch.testing.assert_close(out.double(), exact_norm(h, weight), rtol=3.1 * step, atol=1e-30)


@pytest.mark.parametrize("columns", [7, 257])
def test_a_row_has_the_same_bits_whatever_its_neighbours(device, columns):
    _, x = strided(64, columns, torch.float32, device)
    weight = torch.randn(columns, device=device)
    many = rms_norm(x, weight, eps=EPS, out=torch.empty(64, columns, device=device))
    _, stream = strided(64, columns, torch.float32, device, seed=1)
    sums = stream.clone()
    more = {"residual": sums, "after": weight}
    added = rms_norm(x, weight, eps=EPS, out=torch.empty(64, columns, device=device), **more)
    for i in (0, 31, 63):
        out, its = torch.empty(1, columns, device=device), stream[i : i + 1].clone()
        assert torch.equal(rms_norm(x[i : i + 1], weight, eps=EPS, out=out)[0], many[i])
        rms_norm(x[i : i + 1], weight, eps=EPS, out=out, residual=its, after=weight)
        assert torch.equal(out[0], added[i])
        assert torch.equal(its[0], sums[i])


def test_in_place(device):
    _, x = strided(3, 64, torch.float32, device)
    weight = torch.ones(64, device=device)
    want = rms_norm(x, weight, eps=EPS, out=torch.empty_like(x))
    assert torch.equal(rms_norm(x, weight, eps=EPS, out=x), want)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, 0.0), (1e-30, 1e-27), (6e4, 1.0), (1e18, 1.0)],
    ids=["zero", "tiny", "over-float16-squared", "huge"],
)
def test_hostile_magnitudes(device, value, expected):
    x = torch.full((1, 8), value, device=device)
    out = rms_norm(x, torch.ones(8, device=device), eps=EPS, out=torch.empty_like(x))
    torch.testing.assert_close(out, torch.full_like(out, expected), rtol=1e-5, atol=0)


def test_a_nan_row_stays_alone(device):
    x = torch.ones(3, 8, device=device)
    x[1, 3] = float("nan")
    out = rms_norm(x, torch.ones(8, device=device), eps=0.0, out=torch.empty_like(x))
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], torch.ones(2, 8, device=device))


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (0, 0)], ids=str)
def test_empty_does_nothing(device, shape):
    x = torch.empty(shape, device=device)
    weight = torch.empty(shape[1], device=device)
    assert rms_norm(x, weight, eps=EPS, out=torch.empty_like(x)).shape == shape


def call(op, **changes):
    arguments = {"x": torch.ones(2, 8), "weight": torch.ones(8), "out": torch.ones(2, 8)}
    arguments.update(changes)
    op(arguments.pop("x"), arguments.pop("weight"), eps=EPS, **arguments)


@pytest.mark.parametrize("op", [rms_norm, rms_norm_torch], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"x": torch.ones(8)}, "x: expected 2 dimensions"),
        ({"x": torch.ones(2, 8, dtype=torch.int32)}, "x.dtype: expected one of"),
        ({"x": torch.ones(2, 16)[:, ::2]}, "x: expected contiguous columns but got stride 2"),
        ({"x": torch.ones(1, MAX_COLUMNS + 1)}, f"at most {MAX_COLUMNS} but got"),
        ({"weight": torch.ones(7)}, r"weight.shape: expected \(8,\) but got \(7,\)"),
        ({"weight": torch.ones(8, dtype=torch.float16)}, "weight.dtype: expected torch.float32"),
        ({"out": torch.ones(3, 8)}, r"out.shape: expected \(2, 8\) but got \(3, 8\)"),
        ({"residual": torch.ones(2, 9)}, "residual.shape: expected"),
        ({"after": torch.ones(8)}, "after: expected it with a residual"),
        ({"after": torch.ones(7)}, r"after.shape: expected \(8,\) but got \(7,\)"),
        ({"residual": torch.ones(2, 8, device="meta")}, "residual.device: expected cpu"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_bad_input_is_one_sentence(op, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(op, **changes)
