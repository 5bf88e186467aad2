"""RMSNorm with an optional residual add, whose summand may be normed first (Gemma 3).

The public op is `rms_norm`. Its twin in plain torch is `rms_norm_torch`. Both round at the same
places.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .words import TWO_PROGRAMS

MAX_COLUMNS = 32768  # one program holds a row in registers
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PART = 64  # columns per sum of squares; one op stores the sums for the next op's norm


@triton.jit
def _normed(h, W, o_column, m_column, columns, eps):
    """Returns the norm of a row h [BLOCK], float32, times W."""
    scale = tl.rsqrt(tl.sum(h * h, axis=0) / columns + eps)
    y = (h * scale).to(W.dtype.element_ty).to(tl.float32)
    return y * tl.load(W + o_column, mask=m_column, other=0.0).to(tl.float32)


@triton.jit
def _rms_norm_kernel(
    X,  # [rows, columns] activations, read
    x_stride,  # elements from one row of X to the next
    W,  # [columns] weight, contiguous, same dtype as X or float32
    R,  # [rows, columns] residual stream, read and written; never touched without HAS_RESIDUAL
    r_stride,
    Out,  # [rows, columns] written; may be X
    out_stride,
    columns,
    eps,
    After,  # [columns] weight of the norm of x, dtype of W; read with HAS_AFTER
    HAS_RESIDUAL: tl.constexpr,
    HAS_AFTER: tl.constexpr,
    BLOCK: tl.constexpr,  # columns, rounded up to a power of two
):
    """One program per row.  h = x + r;  r <- h;  out = cast(h / sqrt(mean(h^2) + eps)) * w.

    With HAS_AFTER, h = norm(x) + r. All arithmetic is in float32 on upcast values, because bfloat16
    arithmetic is wrong in the interpreter. h and the norm's result are rounded to the dtype of X.
    The normalised row is rounded to the dtype of W before the product with W, as models do. One
    program adds the squares of BLOCK columns by one reduction tree. So a row's bits depend neither
    on the number of rows, nor on other rows, nor on the strides.
    bytes = rows * columns * size * (2, or 4 with a residual) + columns * size
    """
    row = tl.program_id(0).to(tl.int64)
    o_column = tl.arange(0, BLOCK)
    m_column = o_column < columns
    h = tl.load(X + row * x_stride + o_column, mask=m_column, other=0.0).to(tl.float32)
    if HAS_AFTER:
        h = _normed(h, After, o_column, m_column, columns, eps).to(X.dtype.element_ty)
        h = h.to(tl.float32)
    if HAS_RESIDUAL:
        p_residual = R + row * r_stride + o_column
        h += tl.load(p_residual, mask=m_column, other=0.0).to(tl.float32)
        h = h.to(X.dtype.element_ty)
        tl.store(p_residual, h, mask=m_column)
        h = h.to(tl.float32)
    out = _normed(h, W, o_column, m_column, columns, eps).to(Out.dtype.element_ty)
    tl.store(Out + row * out_stride + o_column, out, mask=m_column)


@triton.jit
def row_scale(
    Squares, squares_stride, row, m_row, columns, eps, PARTS: tl.constexpr, UP: tl.constexpr
):
    """Returns 1 / sqrt(mean(x^2) + eps) for each row. The PARTS sums of squares of a row are added
    by one reduction tree of UP values."""
    part = tl.arange(0, UP).to(tl.int64)
    p_squares = Squares + part[:, None] * squares_stride + row[None, :]
    m = (part < PARTS)[:, None] & m_row[None, :]
    total = tl.sum(tl.load(p_squares, mask=m, other=0.0), axis=0)
    return tl.rsqrt(total / columns + eps)


def squares_torch(h: torch.Tensor) -> torch.Tensor:
    """Return sums of squares over PART columns of h [rows, columns], float32 [parts, rows]."""
    padded = torch.nn.functional.pad(h.float().square(), (0, -h.shape[1] % PART))
    return padded.view(h.shape[0], -1, PART).sum(-1).t()


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    out: torch.Tensor,
    residual: torch.Tensor | None = None,
    after: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise rows: out = x / sqrt(mean(x^2) + eps) * weight, after `residual += x` if given.

    x         [rows, columns]  float16, bfloat16 or float32; rows may be strided, columns may not
    weight    [columns]        same dtype, or float32: then only results are rounded (Gemma 3)
    out       [rows, columns]  same dtype, written; may be `x` itself
    residual  [rows, columns]  same dtype; becomes x + residual (rounded), which is then normalised
    after     [columns]        dtype of weight; x is normalised with it, rounded, and then added

    Returns `out`. Allocates nothing, so it can be captured. Raises ValueError on any other shape,
    dtype or stride, and above 32768 columns. Formula: Zhang and Sennrich, 2019, eq. 4.
    """
    _check(x, weight, out, residual, after)
    rows, columns = x.shape
    if rows == 0 or columns == 0:
        return out
    block = triton.next_power_of_2(columns)
    _rms_norm_kernel[(rows,)](
        x,
        x.stride(0),
        weight,
        x if residual is None else residual,
        0 if residual is None else residual.stride(0),
        out,
        out.stride(0),
        columns,
        eps,
        weight if after is None else after,
        HAS_RESIDUAL=residual is not None,
        HAS_AFTER=after is not None,
        BLOCK=block,
        enable_fp_fusion=after is None,  # the product with `after` is rounded before it is added
        num_warps=num_warps(block),
        maxnreg=max_registers(after is not None),
    )
    return out


def max_registers(has_after: bool) -> int | None:
    """Limit for the registers per thread. None: no limit. With two norms and no limit the assembler
    takes 64 registers for the widest rows, and spills."""
    return TWO_PROGRAMS if has_after else None


def num_warps(block: int) -> int:
    """Warps of a program."""
    return min(16, max(1, block // 512))


def rms_norm_torch(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    eps: float,
    out: torch.Tensor,
    residual: torch.Tensor | None = None,
    after: torch.Tensor | None = None,
) -> torch.Tensor:
    """Plain-torch twin of `rms_norm`: same arguments, effects and errors, any device."""
    _check(x, weight, out, residual, after)
    if after is not None:
        x = normed_torch(x, after, eps).to(x.dtype)
    if residual is not None:
        residual.copy_(x.float() + residual.float())
        x = residual
    return out.copy_(normed_torch(x, weight, eps))


def normed_torch(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the norm of rows, times `weight`, in float32."""
    h = x.float()
    y = (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)).to(weight.dtype)
    return y.float() * weight.float()


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    residual: torch.Tensor | None,
    after: torch.Tensor | None,
) -> None:
    if x.dim() != 2:
        raise ValueError(f"x: expected 2 dimensions (rows, columns) but got {x.dim()}")
    if x.dtype not in DTYPES:
        raise ValueError(f"x.dtype: expected one of {DTYPES} but got {x.dtype}")
    if x.shape[1] > MAX_COLUMNS:
        raise ValueError(f"columns: expected at most {MAX_COLUMNS} but got {x.shape[1]}")
    check_like("x", x, x, x.shape)
    check_norm("weight", weight, x)
    check_like("out", out, x, x.shape)
    if after is not None:
        check_like("after", after, x, x.shape[1:], weight.dtype)
        if residual is None:
            raise ValueError("after: expected it with a residual but got none")
    if residual is not None:
        check_like("residual", residual, x, x.shape)


def check_norm(name: str, weight: torch.Tensor, x: torch.Tensor) -> None:
    """Raise ValueError unless `weight` may be the weight of a norm of x [rows, columns]."""
    if weight.dtype not in (x.dtype, torch.float32):
        raise ValueError(
            f"{name}.dtype: expected {x.dtype} as x or torch.float32 but got {weight.dtype}"
        )
    check_like(name, weight, x, x.shape[1:], weight.dtype)


def check_like(
    name: str,
    t: torch.Tensor,
    x: torch.Tensor,
    shape: torch.Size,
    dtype: torch.dtype | None = None,
) -> None:
    """Raise ValueError unless t has this shape, x's device, contiguous columns, and x's dtype or
    `dtype`."""
    if t.shape != shape:
        raise ValueError(f"{name}.shape: expected {tuple(shape)} but got {tuple(t.shape)}")
    if t.dtype != (dtype or x.dtype):
        raise ValueError(f"{name}.dtype: expected {dtype or x.dtype} as x but got {t.dtype}")
    if t.device != x.device:
        raise ValueError(f"{name}.device: expected {x.device} as x but got {t.device}")
    if t.shape[-1] > 1 and t.stride(-1) != 1:
        raise ValueError(f"{name}: expected contiguous columns but got stride {t.stride(-1)}")
