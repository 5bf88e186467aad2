"""Products of the few rows of a forward with a weight matrix, which is read only once.

The public op is `linear`. Its twin in plain torch is `linear_torch`. It computes
out = f(x) weight^T, fused with the ops before and after a layer's product. Both round where the
separate ops would round: rms_norm, the product, gate_mul, the residual add.

Order of sums. Only the plan decides how n is divided into tiles, and k into splits and tiles. A
program adds its tiles of k in ascending order. The last program of a tile to finish adds the splits
of k in ascending order. For one compiled kernel, the bits of a row of the result depend only on the
same row of x and on the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .early import LINE, is_early, prefetch, start_next, wait_for_previous
from .gate import activated, activated_torch
from .heads import HeadTerms, arguments, check_heads, columns_of, write_heads, write_heads_torch
from .linear_plan import LinearPlan, LinearWork
from .norm import row_scale, squares_torch
from .plan import architecture_of
from .state import MAX_ROWS
from .words import MAX_REGISTERS, TWO_PROGRAMS, arrived_last, interpreting


@dataclass(frozen=True)
class Terms:
    """Operands of the ops that are fused with a product; all tensors have the dtype of x.

    bias      [n], or [2 n] with a gate
    norm      [k] weight of the RMSNorm of x; LinearWork has the sums of squares of x
    eps       eps of this norm
    residual  [rows, n] to which the product is added; may be the same tensor as `out`
    heads     for the product that computes q, k and v. Then only the queries are written to `out`
    """

    bias: torch.Tensor | None = None
    norm: torch.Tensor | None = None
    eps: float = 0.0
    residual: torch.Tensor | None = None
    heads: HeadTerms | None = None


@triton.jit
def _weights(p_w, m_k, EVEN: tl.constexpr):
    """Loads a tile [BLOCK_K, BLOCK_N] of weights."""
    if EVEN:
        w = tl.load(p_w)
    else:
        w = tl.load(p_w, mask=m_k[:, None], other=0.0)
    return w


@triton.jit
def _prefetch_weights(W, w_stride, w_row, o_first, k, BLOCK_K: tl.constexpr):
    """Prefetches the first two tiles of k of these rows of weights into L2."""
    LINE_K: tl.constexpr = LINE // (W.dtype.element_ty.primitive_bitwidth // 8)
    o_k = tl.minimum(o_first + LINE_K * tl.arange(0, 2 * BLOCK_K // LINE_K), k - 1)
    prefetch(W + w_row.to(tl.int64)[None, :] * w_stride + o_k[:, None])


@triton.jit
def _summed(p_partial, STEP: tl.constexpr, SPLITS: tl.constexpr):
    """Returns the sum of the partial sums of all splits, added in ascending order. Other programs
    wrote the partial sums, so loads bypass L1."""
    acc = tl.load(p_partial, cache_modifier=".cg")
    for split in tl.static_range(1, SPLITS):
        acc += tl.load(p_partial + split * STEP, cache_modifier=".cg")
    return acc


@triton.jit
def _finish(
    acc, up, tile, rows, n, Bias, Residual, r_stride, Out, out_stride, Squares, squares_stride,
    Angles, Table, first_row, K, k_head_stride, k_slot_stride, V, v_head_stride, v_slot_stride,
    queries, keys, HAS_BIAS: tl.constexpr, GATE: tl.constexpr, GELU: tl.constexpr,
    RESIDUAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HALF: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Applies the ops after the product to a tile of sums and writes the result. `up` is read only
    with GATE."""
    tile = tile.to(tl.int64)
    row = tl.arange(0, BLOCK_M).to(tl.int64)
    o_n = columns_of(tile, BLOCK_N, HALF)
    m_row = row < rows
    m_n = o_n < n
    m = m_row[:, None] & m_n[None, :]
    dtype = Out.dtype.element_ty
    if HAS_BIAS:
        acc += tl.load(Bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
    if GATE:
        if HAS_BIAS:
            up += tl.load(Bias + n + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
        rounded = activated(acc.to(dtype).to(tl.float32), GELU).to(dtype).to(tl.float32)
        acc = rounded * up.to(dtype).to(tl.float32)
    if RESIDUAL:
        p_residual = Residual + row[:, None] * r_stride + o_n[None, :]
        h = acc.to(dtype).to(tl.float32) + tl.load(p_residual, mask=m, other=0.0).to(tl.float32)
        acc = tl.where(m, h.to(dtype).to(tl.float32), 0.0)
        tl.store(Squares + tile * squares_stride + row, tl.sum(acc * acc, axis=1), mask=m_row)
    if HALF != 0:
        write_heads(
            acc.to(dtype).to(tl.float32), tile, row, m_row, Out, out_stride, Angles, Table,
            first_row, K, k_head_stride, k_slot_stride, V, v_head_stride, v_slot_stride, queries,
            keys, HALF, ROWS,
        )  # fmt: skip
    else:
        p_out = Out + row[:, None] * out_stride + o_n[None, :]
        tl.store(p_out, acc.to(dtype), mask=m)


@triton.jit
def _linear_kernel(
    X,  # [rows, k] read
    x_stride,
    W,  # [n, k], or [2 n, k] with a gate
    w_stride,
    Bias,  # [n], or [2 n]; read with HAS_BIAS
    Norm,  # [k]; read with NORM
    Residual,  # [rows, n]; read with RESIDUAL
    r_stride,
    Out,  # [rows, n] written; may be Residual
    out_stride,
    Squares,  # [PARTS, 64] sums of squares, read with NORM, written with RESIDUAL
    squares_stride,
    Partial,  # [tiles, SPLITS, 1 (2 with a gate), BLOCK_M, BLOCK_N] scratch
    Counters,  # [tiles] programs that arrived; 0 before and after a launch
    Angles,  # [2, ROWS, HALF]; used with the next ten arguments if HALF is not 0 (heads.py)
    Table,  # [words] Batch
    first_row,
    K,  # [keys, slots, 2 HALF] keys of the ring, written
    k_head_stride,
    k_slot_stride,
    V,  # [keys, slots, 2 HALF] values of the ring, written
    v_head_stride,
    v_slot_stride,
    queries,
    keys,
    rows,
    n,
    k,
    eps,
    HAS_BIAS: tl.constexpr,
    NORM: tl.constexpr,
    GATE: tl.constexpr,
    GELU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PARTS: tl.constexpr,
    PARTS_UP: tl.constexpr,  # PARTS, rounded up to a power of two
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLIT_TILES: tl.constexpr,
    EVEN: tl.constexpr,  # BLOCK_K divides k
    UPCAST: tl.constexpr,  # compute products in float32, because the interpreter has no bfloat16
    STAGES: tl.constexpr,
    HALF: tl.constexpr,  # half of head_dim; 0 for a product without heads
    ROWS: tl.constexpr,  # 64
    EARLY: tl.constexpr,  # launched early (early.py)
):
    """One program per tile of n and split of k.

    bytes = n * k * size * (1, or 2 with a gate), + rows * (k + n) * size
    flops = 2 * rows * n * k * (1, or 2)
    """
    item = tl.program_id(0).to(tl.int64)
    tile = item // SPLITS
    split = (item % SPLITS).to(tl.int32)
    row = tl.arange(0, BLOCK_M).to(tl.int64)
    m_row = row < rows
    o_n = columns_of(tile, BLOCK_N, HALF)
    # Clamp to the last row, so that loads need no mask. The copies are dropped.
    w_row = tl.minimum(o_n, n - 1)
    if EARLY:
        start_next()
        o_first = split * (SPLIT_TILES * BLOCK_K)
        _prefetch_weights(W, w_stride, w_row, o_first, k, BLOCK_K)
        if GATE:
            _prefetch_weights(W, w_stride, n + w_row, o_first, k, BLOCK_K)
        wait_for_previous()
    o_k = tl.arange(0, BLOCK_K)
    p_x = X + row[:, None] * x_stride + o_k[None, :]
    p_w = W + w_row[None, :] * w_stride + o_k[:, None]
    p_up = W + (n + w_row)[None, :] * w_stride + o_k[:, None]
    # Compute the norm's scale in the loop, if there are enough registers.
    LATE: tl.constexpr = BLOCK_M <= 32
    scale = tl.zeros((BLOCK_M,), tl.float32)
    if NORM and not LATE:
        scale = row_scale(Squares, squares_stride, row, m_row, k, eps, PARTS, PARTS_UP)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)

    first = split * SPLIT_TILES
    # Load the norm's weight one tile ahead. These loads are too narrow for the software pipeline,
    # so without this each iteration would wait for L2.
    if NORM:
        g_next = tl.load(Norm + first * BLOCK_K + o_k, mask=o_k < k - first * BLOCK_K, other=0.0)
    last = tl.minimum(first + SPLIT_TILES, tl.cdiv(k, BLOCK_K))
    for at in tl.range(first, last, num_stages=STAGES):
        o_at = at * BLOCK_K
        m_k = o_k < k - o_at
        if EVEN:
            x = tl.load(p_x + o_at, mask=m_row[:, None], other=0.0)
        else:
            x = tl.load(p_x + o_at, mask=m_row[:, None] & m_k[None, :], other=0.0)
        w = _weights(p_w + o_at, m_k, EVEN)
        if NORM:
            if LATE:  # noqa: SIM102 (the outer condition is a compile-time constant)
                if at == first:  # compute the norm's scale, while the first tiles load
                    scale = row_scale(Squares, squares_stride, row, m_row, k, eps, PARTS, PARTS_UP)
            g = g_next.to(tl.float32)
            o_next = o_at + BLOCK_K + o_k
            g_next = tl.load(Norm + o_next, mask=o_next < k, other=0.0)
            y = (x.to(tl.float32) * scale[:, None]).to(X.dtype.element_ty).to(tl.float32)
            x = (y * g[None, :]).to(X.dtype.element_ty)
        if UPCAST:
            x = x.to(tl.float32)
            w = w.to(tl.float32)
        acc = tl.dot(x, w, acc, input_precision="ieee")
        if GATE:
            w_up = _weights(p_up + o_at, m_k, EVEN)
            if UPCAST:
                w_up = w_up.to(tl.float32)
            up = tl.dot(x, w_up, up, input_precision="ieee")

    if SPLITS == 1:
        _finish(
            acc, up, tile, rows, n, Bias, Residual, r_stride, Out, out_stride, Squares,
            squares_stride, Angles, Table, first_row, K, k_head_stride, k_slot_stride, V,
            v_head_stride, v_slot_stride, queries, keys, HAS_BIAS, GATE, GELU, RESIDUAL, BLOCK_M,
            BLOCK_N, HALF, ROWS,
        )  # fmt: skip
    else:
        TILE: tl.constexpr = BLOCK_M * BLOCK_N
        STEP: tl.constexpr = 2 * TILE if GATE else TILE
        o_tile = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        tl.store(Partial + item * STEP + o_tile, acc)
        if GATE:
            tl.store(Partial + item * STEP + TILE + o_tile, up)
        if arrived_last(Counters + tile, SPLITS):
            p_partial = Partial + tile * SPLITS * STEP + o_tile
            acc = _summed(p_partial, STEP, SPLITS)
            if GATE:
                up = _summed(p_partial + TILE, STEP, SPLITS)
            _finish(
                acc, up, tile, rows, n, Bias, Residual, r_stride, Out, out_stride, Squares,
                squares_stride, Angles, Table, first_row, K, k_head_stride, k_slot_stride, V,
                v_head_stride, v_slot_stride, queries, keys, HAS_BIAS, GATE, GELU, RESIDUAL,
                BLOCK_M, BLOCK_N, HALF, ROWS,
            )  # fmt: skip


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    plan: LinearPlan,
    work: LinearWork,
    out: torch.Tensor,
    terms: Terms = Terms(),
    early: bool = False,
) -> torch.Tensor:
    """Compute y = f(x) weight^T + bias. Write y, its gate silu(gate) * up, or y + residual.

    x       [rows, k]           of the plan's dtype; rows may be strided, columns may not
    weight  [n, k] or [2 n, k]  same dtype; same strides
    out     [rows, n]           same dtype, or float32 if there are no gate, residual or heads
    work    scratch memory and sums of squares: a norm reads the sums, a residual writes them.
            Launches that use the same work must not overlap
    terms   the operands that the plan names
    early   start before the previous kernel has ended (early.py). It changes no bit

    Returns `out`. Allocates nothing and reads nothing on the host, so it can be captured. Raises
    ValueError on any other shape, dtype or stride.
    """
    _check(x, weight, plan, work, out, terms)
    residual = x if terms.residual is None else terms.residual
    early = is_early(early, x.device)
    _linear_kernel[(plan.tiles * plan.cuts,)](
        *(x, x.stride(0), weight, weight.stride(0)),
        x if terms.bias is None else terms.bias,
        x if terms.norm is None else terms.norm,
        *(residual, residual.stride(0), out, out.stride(0)),
        *(work.squares, work.squares.stride(0), work.partial, work.counters),
        *arguments(plan.heads, terms.heads, x),
        *(plan.rows, plan.n, plan.k, terms.eps),
        **constants(plan, interpreting(), early),
        num_warps=plan.num_warps,
        enable_fp_fusion=False,
        maxnreg=max_registers(plan, architecture_of(x.device)),
        launch_pdl=early,
    )
    return out


def max_registers(plan: LinearPlan, architecture: int) -> int | None:
    """Return the limit of registers per thread; None: no limit.

    With eight warps, two programs must fit a multiprocessor, because one alone would wait for its
    weights. On sm_80 the gate of 32 rows would then spill. Memory is slower there, so one program
    suffices. With four warps nothing spills, so no limit is needed. With four warps and 16 rows on
    sm_90 the assembler then uses fewer than 128 registers. With a limit it would use 150 or more.
    Without tensor cores some products spill, unless they may use all registers.
    """
    if not plan.is_half:
        return MAX_REGISTERS
    spills = architecture < 90 and plan.gate and plan.block_m == 32
    return TWO_PROGRAMS if plan.num_warps == 8 and not spills else None


def constants(plan: LinearPlan, upcast: bool, early: bool = False) -> dict[str, object]:
    """Return the kernel's compile-time arguments for a plan."""
    return {
        "HAS_BIAS": plan.bias,
        "NORM": plan.norm,
        "GATE": plan.gate,
        "GELU": plan.gelu,
        "RESIDUAL": plan.residual,
        "PARTS": plan.parts,
        "PARTS_UP": triton.next_power_of_2(max(1, plan.parts)),
        "BLOCK_M": plan.block_m,
        "BLOCK_N": plan.block_n,
        "BLOCK_K": plan.block_k,
        "SPLITS": plan.cuts,
        "SPLIT_TILES": plan.split_tiles,
        "EVEN": plan.is_even,
        "UPCAST": upcast and plan.dtype == torch.bfloat16,
        "STAGES": plan.stages,
        "HALF": plan.half,
        "ROWS": MAX_ROWS,
        "EARLY": early,
    }


def linear_torch(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    plan: LinearPlan,
    work: LinearWork,
    out: torch.Tensor,
    terms: Terms = Terms(),
) -> torch.Tensor:
    """Plain-torch twin of `linear`: same arguments, effects and errors, any device."""
    _check(x, weight, plan, work, out, terms)
    h = x.float()
    if terms.norm is not None:
        total = work.squares[: plan.parts, : plan.rows].sum(0)
        y = (h * torch.rsqrt(total / plan.k + terms.eps)[:, None]).to(x.dtype)
        h = (y.float() * terms.norm.float()).to(x.dtype).float()
    product = h @ weight.float().t()
    if terms.bias is not None:
        product += terms.bias.float()
    if plan.gate:
        gate, up = product.to(x.dtype).float().chunk(2, -1)
        product = activated_torch(gate, plan.gelu).to(x.dtype).float() * up
    if plan.heads is not None and terms.heads is not None:
        write_heads_torch(product, plan.heads, terms.heads, out)
        return out
    if terms.residual is None:
        return out.copy_(product)
    out.copy_(product.to(x.dtype).float() + terms.residual.float())
    work.squares[: plan.parts, : plan.rows] = squares_torch(out)
    return out


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    plan: LinearPlan,
    work: LinearWork,
    out: torch.Tensor,
    terms: Terms,
) -> None:
    named = _expected(plan) | {"out": (plan.rows, plan.n)}
    given = {"x": x, "weight": weight, "out": out}
    given |= {name: getattr(terms, name) for name in ("bias", "norm", "residual")}
    for name, tensor in given.items():
        shape = named.get(name)
        if (tensor is None) != (shape is None):
            raise ValueError(f"{name}: expected {'none' if shape is None else 'one'} by the plan")
        if tensor is not None:
            _check_one(name, tensor, shape or (), x)
    free = not (plan.gate or plan.residual or plan.heads)
    for name, tensor in given.items():
        is_wide = name == "out" and free and out.dtype == torch.float32
        if tensor is not None and tensor.dtype != plan.dtype and not is_wide:
            raise ValueError(f"{name}.dtype: expected {plan.dtype} but got {tensor.dtype}")
    _check_work(plan, work, x)
    check_heads(plan.heads, terms.heads, out)


def _expected(plan: LinearPlan) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that a product of this plan reads, by name."""
    wide = 2 * plan.n if plan.gate else plan.n
    found: dict[str, tuple[int, ...]] = {"x": (plan.rows, plan.k), "weight": (wide, plan.k)}
    if plan.bias:
        found["bias"] = (wide,)
    if plan.norm:
        found["norm"] = (plan.k,)
    if plan.residual:
        found["residual"] = (plan.rows, plan.n)
    return found


def _check_one(name: str, t: torch.Tensor, shape: tuple[int, ...], x: torch.Tensor) -> None:
    if tuple(t.shape) != shape:
        raise ValueError(f"{name}.shape: expected {shape} but got {tuple(t.shape)}")
    if t.device != x.device:
        raise ValueError(f"{name}.device: expected {x.device} as x but got {t.device}")
    if t.shape[-1] > 1 and t.stride(-1) != 1:
        raise ValueError(f"{name}: expected contiguous columns but got stride {t.stride(-1)}")


def _check_work(plan: LinearPlan, work: LinearWork, x: torch.Tensor) -> None:
    needed = (plan.partial_size, plan.tiles, plan.parts)
    given = (work.partial.numel(), work.counters.numel(), work.squares.shape[0])
    if any(has < needs for has, needs in zip(given, needed, strict=True)):
        raise ValueError(f"work: expected room for {needed} but got {given}")
    if work.squares.device != x.device:
        raise ValueError(f"work: expected {x.device} as x but got {work.squares.device}")
