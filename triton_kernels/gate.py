"""The gate of the MLP: silu(gate) * up, or gelu(gate) * up (Gemma 3).

The public op is `gate_mul`. Its twin in plain torch is `gate_mul_torch`. Both round at the same
places.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .plan import DTYPES

BLOCK = 1024  # columns per program
# gelu(x) = x / (1 + exp(-z)) with z = 2 sqrt(2 / pi) (x + 0.044715 x^3), as on the CPU
# (csrc/ops/kernels.h).
OUTER, CUBIC = tl.constexpr(1.5957691216057308), tl.constexpr(0.044715)


@triton.jit
def silu(gate):
    """Returns gate / (1 + exp(-gate)) in float32, without overflow."""
    e = tl.exp(-tl.abs(gate))
    return tl.where(gate >= 0, gate, gate * e) / (1.0 + e)


@triton.jit
def activated(gate, GELU: tl.constexpr):
    """Returns the activation of a gate, gelu in its tanh form or silu, in float32."""
    if GELU:
        z = OUTER * (gate + CUBIC * gate * gate * gate)
        e = tl.exp(-tl.abs(z))
        out = tl.where(z >= 0, gate, gate * e) / (1.0 + e)
    else:
        out = silu(gate)
    return out


@triton.jit
def _gate_mul_kernel(
    X,  # [rows, 2 columns] gate, then up
    x_stride,
    Out,  # [rows, columns] written
    out_stride,
    columns,
    GELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row and BLOCK columns.  out = cast(activation(gate)) * up.

    bytes = rows * columns * size * 3
    """
    row = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m = o < columns
    gate = tl.load(X + row * x_stride + o, mask=m, other=0.0).to(tl.float32)
    up = tl.load(X + row * x_stride + columns + o, mask=m, other=0.0).to(tl.float32)
    rounded = activated(gate, GELU).to(X.dtype.element_ty).to(tl.float32)
    tl.store(Out + row * out_stride + o, (rounded * up).to(Out.dtype.element_ty), mask=m)


def gate_mul(x: torch.Tensor, *, out: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """Set out = silu(x[:, :n]) * x[:, n:].

    x     [rows, 2 n]  float16, bfloat16 or float32; rows may be strided, columns may not
    out   [rows, n]    same dtype, written
    gelu  the activation is gelu in its tanh form, not silu

    Returns `out`. Allocates nothing. Raises ValueError on any other shape, dtype or stride.
    """
    _check(x, out)
    rows, columns = out.shape
    if rows and columns:
        grid = (rows, triton.cdiv(columns, BLOCK))
        _gate_mul_kernel[grid](
            x, x.stride(0), out, out.stride(0), columns, GELU=gelu, BLOCK=BLOCK, num_warps=4
        )
    return out


def gate_mul_torch(x: torch.Tensor, *, out: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """Plain-torch twin of `gate_mul`: same arguments, effects and errors, any device."""
    _check(x, out)
    gate, up = x.float().chunk(2, -1)
    return out.copy_(activated_torch(gate, gelu).to(x.dtype).float() * up)


def activated_torch(gate: torch.Tensor, gelu: bool = False) -> torch.Tensor:
    """`activated` in plain torch."""
    z = OUTER.value * (gate + CUBIC.value * gate * gate * gate) if gelu else gate
    e = torch.exp(-z.abs())
    return torch.where(z >= 0, gate, gate * e) / (1 + e)


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
