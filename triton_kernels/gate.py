"""The gate of the MLP: silu(gate) * up.

The public op is `silu_mul`. Its twin in plain torch is `silu_mul_torch`. Both round at the same
places.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .plan import DTYPES

BLOCK = 1024  # columns per program


@triton.jit
def silu(gate):
    """Returns gate / (1 + exp(-gate)) in float32, without overflow."""
    e = tl.exp(-tl.abs(gate))
    return tl.where(gate >= 0, gate, gate * e) / (1.0 + e)


@triton.jit
def _silu_mul_kernel(
    X,  # [rows, 2 columns] gate, then up
    x_stride,
    Out,  # [rows, columns] written
    out_stride,
    columns,
    BLOCK: tl.constexpr,
):
    """One program per row and BLOCK columns.  out = cast(gate / (1 + exp(-gate))) * up.

    bytes = rows * columns * size * 3
    """
    row = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m = o < columns
    gate = tl.load(X + row * x_stride + o, mask=m, other=0.0).to(tl.float32)
    up = tl.load(X + row * x_stride + columns + o, mask=m, other=0.0).to(tl.float32)
    rounded = silu(gate).to(X.dtype.element_ty).to(tl.float32)
    tl.store(Out + row * out_stride + o, (rounded * up).to(Out.dtype.element_ty), mask=m)


def silu_mul(x: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """Set out = silu(x[:, :n]) * x[:, n:].

    x    [rows, 2 n]  float16, bfloat16 or float32; rows may be strided, columns may not
    out  [rows, n]    same dtype, written

    Returns `out`. Allocates nothing. Raises ValueError on any other shape, dtype or stride.
    """
    _check(x, out)
    rows, columns = out.shape
    if rows and columns:
        grid = (rows, triton.cdiv(columns, BLOCK))
        _silu_mul_kernel[grid](
            x, x.stride(0), out, out.stride(0), columns, BLOCK=BLOCK, num_warps=4
        )
    return out


def silu_mul_torch(x: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """Plain-torch twin of `silu_mul`: same arguments, effects and errors, any device."""
    _check(x, out)
    gate, up = x.float().chunk(2, -1)
    return out.copy_(silu_torch(gate).to(x.dtype).float() * up)


def silu_torch(gate: torch.Tensor) -> torch.Tensor:
    """`silu` in plain torch."""
    e = torch.exp(-gate.abs())
    return torch.where(gate >= 0, gate, gate * e) / (1 + e)


def _check(x: torch.Tensor, out: torch.Tensor) -> None:
    if x.dim() != 2 or x.shape[1] % 2:
        raise ValueError(f"x.shape: expected [rows, 2 n] but got {tuple(x.shape)}")
    if x.dtype not in DTYPES:
        raise ValueError(f"x.dtype: expected one of {DTYPES} but got {x.dtype}")
    shape = (x.shape[0], x.shape[1] // 2)
    if tuple(out.shape) != shape:
        raise ValueError(f"out.shape: expected {shape} but got {tuple(out.shape)}")
    if out.dtype != x.dtype or out.device != x.device:
        raise ValueError(
            f"out: expected {x.dtype} on {x.device} as x but got {out.dtype} on {out.device}"
        )
    for name, tensor in (("x", x), ("out", out)):
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name}: expected contiguous columns but got stride {tensor.stride(-1)}"
            )
