"""Contract under test: gate_mul equals its twin and the CPU engine's gate. It writes only the
columns of `out`."""

import pytest
import torch

from sbrt import _probe
from sbrt.triton_kernels.gate import gate_mul, gate_mul_torch

DTYPES = (torch.float32, torch.float16) + ((torch.bfloat16,) if torch.cuda.is_available() else ())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize("columns", [1, 7, 1000, 1025])
def test_equals_its_twin_and_the_cpu(device, assert_close, dtype, columns, activation):
    gelu = activation == "gelu"
    for rows in (1, 3, 33):
        buffer = torch.full((rows, 2 * columns + 3), float("nan"))
        x = buffer[:, : 2 * columns]
        x.copy_(torch.randn(rows, 2 * columns, generator=torch.Generator().manual_seed(rows)) * 8)
        x = buffer.to(device, dtype)[:, : 2 * columns]
        out = torch.full((rows, columns + 3), 7.0, device=device, dtype=dtype)
        assert gate_mul(x, out=out[:, :columns], gelu=gelu).data_ptr() == out.data_ptr()
        twin = torch.empty(rows, columns, device=device, dtype=dtype)
        gate_mul_torch(x, out=twin, gelu=gelu)
        assert_close(out[:, :columns], twin, 4 * torch.finfo(dtype).eps)
        assert (out[:, columns:] == 7).all()
        if dtype == torch.float32:
            cpu = torch.from_numpy(_probe.gate_probe(x.cpu().contiguous().numpy(), activation))
            assert_close(twin.cpu(), cpu, 1e-5)


def test_hostile_values(device):
    x = torch.tensor([[-1e4, 1e4, 0.0, -88.0, 2.0, 2.0, 2.0, 2.0]], device=device)
    out = gate_mul(x, out=torch.empty(1, 4, device=device))
    assert out[0].abs().tolist() == pytest.approx([0.0, 2e4, 0.0, 2 * 88 * 6e-39], abs=1e-30)
    x[0, :4] = torch.tensor([-1e4, 1e4, 1e12, -1e12], device=device)
    x[0, 4:] = 1.0
    out = gate_mul(x, out=torch.empty(1, 4, device=device), gelu=True)
    assert out[0].tolist() == [0.0, 1e4, x[0, 2].item(), 0.0]


@pytest.mark.parametrize("shape", [(0, 8), (3, 0)], ids=str)
def test_empty_does_nothing(device, shape):
    out = torch.empty(shape[0], shape[1] // 2, device=device)
    assert gate_mul(torch.empty(shape, device=device), out=out) is out


@pytest.mark.parametrize("op", [gate_mul, gate_mul_torch], ids=["kernel", "twin"])
@pytest.mark.parametrize(
    ("x", "out", "sentence"),
    [
        (torch.ones(2, 7), torch.ones(2, 3), r"x.shape: expected \[rows, 2 n\]"),
        (torch.ones(2, 8, dtype=torch.int32), torch.ones(2, 4), "x.dtype: expected one of"),
        (torch.ones(2, 8), torch.ones(2, 5), r"out.shape: expected \(2, 4\) but got"),
        (torch.ones(2, 8), torch.ones(2, 4, dtype=torch.float16), "out: expected torch.float32"),
        (torch.ones(2, 16)[:, ::2], torch.ones(2, 4), "x: expected contiguous columns"),
    ],
    ids=["odd", "dtype", "shape", "out dtype", "stride"],
)
def test_bad_input_is_one_sentence(op, x, out, sentence):
    with pytest.raises(ValueError, match=sentence):
        op(x, out=out)
