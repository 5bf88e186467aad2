"""Rounds rows of activations to integers, for products with quantised weights. Rows may be normed
and added to a residual stream first.

The public op is `round_rows`. Its twin in plain torch is `round_rows_torch`. Each group of 32
columns gets the same scale and the same integers as on the CPU (csrc/ops/integers.h).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .early import is_early, start_next, wait_for_previous
from .norm import MAX_COLUMNS, check_like, check_norm
from .packed import GROUP, TURN, IntegerRows
from .plan import DTYPES
from .state import MAX_ROWS

INFINITY = tl.constexpr(0x7F800000)  # bits of float32 infinity; the bits of a NaN are greater
LEAST = tl.constexpr(0x03FE0000)  # bits of 127 times the smallest normal float32
MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23; adding it rounds to an integer, ties to even


@triton.jit
def round_groups(y):
    """Rounds groups y [n, 32]. Returns q as int8, the scales, and the sums of q over the first and
    over the second half of each group."""
    bits = y.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    most = tl.max(bits, axis=1)
    is_bad = most >= INFINITY
    is_used = (most >= LEAST) & (most < INFINITY)
    greatest = tl.where(is_used, most.to(tl.float32, bitcast=True), 127.0)
    scale = tl.div_rn(greatest, tl.full(greatest.shape, 127.0, tl.float32))
    given = tl.where(is_used[:, None], y, 0.0)
    level = tl.div_rn(given, tl.broadcast_to(scale[:, None], given.shape))
    level = ((level + MAGIC) - MAGIC).to(tl.int32)
    is_first = (tl.arange(0, 32) < 16)[None, :]
    first = tl.sum(tl.where(is_first, level, 0), axis=1)
    second = tl.sum(tl.where(is_first, 0, level), axis=1)
    scale = tl.where(is_used, scale, tl.where(is_bad, float("nan"), 0.0))
    return level.to(tl.int8), scale, first, second


@triton.jit
def _normed(y, W, o, m, columns, eps):
    """Returns the norm of a row y [groups, 32] with the CPU's arithmetic. It is not rounded."""
    mean = tl.div_rn(tl.sum(tl.sum(y * y, axis=1), axis=0), columns.to(tl.float32))
    scale = tl.div_rn(1.0, tl.sqrt_rn(mean + eps))
    return tl.load(W + o, mask=m, other=0.0).to(tl.float32) * (y * scale)


@triton.jit
def _round_rows_kernel(
    X,  # [rows, columns] read
    x_stride,
    Norm,  # [columns]; read with NORM
    Q,  # [64, columns padded to a multiple of TURN groups] written
    q_stride,
    Scales,  # [groups, 64] written
    scales_stride,
    Sums,  # [2, groups, 64] written
    sums_stride,
    half_stride,
    columns,
    eps,
    R,  # [rows, columns] residual stream, read and written with AFTER
    r_stride,
    After,  # [columns] weight of the norm of x; read with AFTER
    NORM: tl.constexpr,
    AFTER: tl.constexpr,
    BLOCK: tl.constexpr,  # depends only on the number of columns
    EARLY: tl.constexpr,  # launched early (early.py)
):
    """One program per row.  h = x, or x / sqrt(mean(x^2) + eps) * norm;  q = round(h / scale).

    With AFTER, r <- r + norm(x), and then x is r.
    bytes = rows * columns * (size + 1)
    """
    if EARLY:
        start_next()
        wait_for_previous()
    row = tl.program_id(0).to(tl.int64)
    GROUPS: tl.constexpr = BLOCK // 32
    group = tl.arange(0, GROUPS).to(tl.int64)
    o = tl.arange(0, GROUPS)[:, None] * 32 + tl.arange(0, 32)[None, :]
    m = o < columns
    y = tl.load(X + row * x_stride + o, mask=m, other=0.0).to(tl.float32)
    if AFTER:
        p_residual = R + row * r_stride + o
        y = _normed(y, After, o, m, columns, eps).to(X.dtype.element_ty).to(tl.float32)
        y = tl.load(p_residual, mask=m, other=0.0).to(tl.float32) + y
        y = y.to(X.dtype.element_ty)
        tl.store(p_residual, y, mask=m)
        y = y.to(tl.float32)
    if NORM:
        y = _normed(y, Norm, o, m, columns, eps)
    q, scale, first, second = round_groups(y)
    m_group = group < tl.cdiv(columns, 32)
    tl.store(Q + row * q_stride + o, q, mask=m_group[:, None])  # q is 0 beyond the columns of X
    tl.store(Scales + group * scales_stride + row, scale, mask=m_group)
    p_sums = Sums + group * sums_stride + row
    tl.store(p_sums, first, mask=m_group)
    tl.store(p_sums + half_stride, second, mask=m_group)


def round_rows(
    x: torch.Tensor,
    *,
    out: IntegerRows,
    norm: torch.Tensor | None = None,
    after: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    eps: float = 0.0,
    early: bool = False,
) -> IntegerRows:
    """Round rows to integers. If a norm's weight is given, normalise the rows first.

    x      [rows, columns]  float16, bfloat16 or float32; rows may be strided, columns may not
    out    written for these rows and columns; its padding is not written
    norm   [columns]        same dtype or float32; the normalised row is not rounded in between
    after  [columns]        dtype of norm; x is normalised with it and added to the residual stream,
                            whose rows are then normalised with norm. Needs `residual`
    residual  [rows, columns]  same dtype as x; becomes the sum
    early  start before the previous kernel has ended (early.py). It changes no bit

    Returns `out`. Allocates nothing, so it can be captured. Raises ValueError on any other shape,
    dtype or stride, and above 32768 columns.
    """
    _check(x, out, norm, after, residual)
    rows, columns = x.shape
    early = is_early(early, x.device)
    block = triton.next_power_of_2(max(columns, GROUP * TURN))
    stream = x if residual is None else residual
    _round_rows_kernel[(rows,)](
        *(x, x.stride(0), x if norm is None else norm),
        *(out.q, out.q.stride(0), out.scales, out.scales.stride(0)),
        *(out.sums, out.sums.stride(1), out.sums.stride(0), columns, eps),
        *(stream, stream.stride(0), x if after is None else after),
        NORM=norm is not None,
        AFTER=after is not None,
        BLOCK=block,
        EARLY=early,
        num_warps=num_warps(block),
        enable_fp_fusion=False,
        launch_pdl=early,
    )
    return out


def num_warps(block: int) -> int:
    """Number of warps of a program: each thread handles eight values."""
    return min(16, max(1, block // 256))


def round_rows_torch(
    x: torch.Tensor,
    *,
    out: IntegerRows,
    norm: torch.Tensor | None = None,
    after: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    eps: float = 0.0,
) -> IntegerRows:
    """Plain-torch twin of `round_rows`: same arguments, effects and errors, any device."""
    _check(x, out, norm, after, residual)
    y = x.float()
    if after is not None and residual is not None:
        added = _normed_torch(y, after, eps).to(x.dtype).float()
        y = residual.copy_(residual.float() + added).float()
    if norm is not None:
        y = _normed_torch(y, norm, eps)
    return round_torch(y, out)


def _normed_torch(y: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight.float() * (y * (1 / torch.sqrt(y.square().mean(-1, keepdim=True) + eps)))


def round_torch(y: torch.Tensor, out: IntegerRows) -> IntegerRows:
    """Round the float32 values of y [rows, columns] to int8. Write them to `out`, and return
    `out`."""
    rows, columns = y.shape
    groups = -(-columns // GROUP)
    y = torch.nn.functional.pad(y, (0, groups * GROUP - columns)).view(rows, groups, GROUP)
    most = y.abs().amax(-1)  # NaN if a value is NaN
    is_used = (most >= 127 * torch.finfo(torch.float32).tiny) & most.isfinite()
    scale = torch.where(is_used, most, 127) / 127
    q = torch.where(is_used[..., None], y / scale[..., None], 0).round()
    scale = torch.where(is_used, scale, torch.where(most.isfinite(), 0.0, float("nan")))
    out.q[:rows, : groups * GROUP] = q.flatten(1).to(torch.int8)
    out.scales[:groups, :rows] = scale.t()
    out.sums[:, :groups, :rows] = q.view(rows, groups, 2, GROUP // 2).sum(-1).permute(2, 1, 0).int()
    return out


def _check(
    x: torch.Tensor,
    out: IntegerRows,
    norm: torch.Tensor | None,
    after: torch.Tensor | None,
    residual: torch.Tensor | None,
) -> None:
    if x.dim() != 2 or x.dtype not in DTYPES:
        raise ValueError(
            f"x: expected [rows, columns] of one of {DTYPES} but got {x.dtype} {tuple(x.shape)}"
        )
    if not 1 <= x.shape[0] <= MAX_ROWS or not 1 <= x.shape[1] <= MAX_COLUMNS:
        raise ValueError(
            f"x: expected up to {MAX_ROWS} rows of {MAX_COLUMNS} but got {tuple(x.shape)}"
        )
    if x.shape[1] > 1 and x.stride(1) != 1:
        raise ValueError(f"x: expected contiguous columns but got stride {x.stride(1)}")
    if out.q.shape[1] < x.shape[1] or out.q.device != x.device:
        raise ValueError(
            f"out: expected room for {x.shape[1]} columns on {x.device} but got "
            f"{out.q.shape[1]} on {out.q.device}"
        )
    if norm is not None:
        check_norm("norm", norm, x)
    if (after is None) != (residual is None) or (after is not None and norm is None):
        raise ValueError("after: expected it with a norm and a residual but got some of them")
    if after is not None and residual is not None:
        check_norm("after", after, x)
        check_like("residual", residual, x, x.shape)
