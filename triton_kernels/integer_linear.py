"""Products of integer rows with quantised weights, with the CPU's arithmetic.

The public op is `integer_linear`. Its twin in plain torch is `integer_linear_torch`. The k columns
are divided into groups of 32. The sum over a group is a sum of integers, which is exact. Groups are
added in ascending order with fma, as on the CPU (csrc/ops/integers_simd.inc). So a row has the same
bits as on the CPU, for any size of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .early import is_early, prefetch, start_next, wait_for_previous
from .gate import activated, activated_torch
from .heads import HeadTerms, arguments, check_heads, columns_of, write_heads, write_heads_torch
from .integer_plan import IntegerPlan
from .integer_torch import product_torch
from .integer_words import each_of, group_added, half_byte, halves_added, numbers
from .packed import GROUP, IntegerRows, PackedMatrix
from .round_rows import round_groups, round_torch
from .state import MAX_ROWS
from .words import interpreting


@dataclass(frozen=True)
class IntegerTerms:
    """Operands of the ops that are fused with a product; all tensors have the plan's dtype.

    bias      [n], or [2 n] with a gate
    residual  [rows, n] to which the product is added; may be the same tensor as `out`
    rounded   receives the rows if the plan rounds; then `out` is not written
    heads     for the product that computes q, k and v. Then only the queries are written to `out`
    """

    bias: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    rounded: IntegerRows | None = None
    heads: HeadTerms | None = None


@triton.jit
def _prefetch_weights(W, w_row, n_rows, PLANES: tl.constexpr):
    """Prefetches into L2 the levels of these rows of weights for the first loop iteration."""
    plane = tl.arange(0, PLANES).to(tl.int64)
    prefetch(W + plane[:, None] * 32 * n_rows + w_row[None, :] * 32)


@triton.jit
def _integer_linear_kernel(
    Q,  # [64, at least k] rows, rounded to int8
    q_stride,
    XScale,  # [groups, 64]
    Sums,  # [2, groups, 64] sums of Q over half groups; read with MINIMUMS or ZERO
    half_stride,
    # Levels, [groups, n, 32]; with a gate [groups, 2 n, 32]. In int4 a byte holds a level of an
    # even group and a level of the next group.
    W,
    Scale,  # [k / GROUP, n] scales of the weights
    Minimum,  # [k / GROUP, n] minimums of the weights; read with MINIMUMS
    Bias,  # [n]; read with HAS_BIAS
    Residual,  # [rows, n]; read with RESIDUAL
    r_stride,
    Out,  # [rows, n] written without ROUNDS
    out_stride,
    OutQ,  # [64, at least n] written with ROUNDS
    out_q_stride,
    OutScale,  # [groups of n, 64]
    OutSums,  # [2, groups of n, 64] written with ROUNDS
    out_half_stride,
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
    groups,  # number of groups of 32 columns
    counts,  # number of groups of GROUP columns, which share a scale
    HAS_BIAS: tl.constexpr,
    GATE: tl.constexpr,
    GELU: tl.constexpr,
    ROUNDS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    GROUP: tl.constexpr,
    MINIMUMS: tl.constexpr,
    ZERO: tl.constexpr,
    HALVES: tl.constexpr,  # True for int4: a byte holds two quantised values (levels)
    PACKED: tl.constexpr,  # unpack four bytes per instruction; the interpreter cannot
    ROWS: tl.constexpr,  # 64: stride of the rows' scales and sums from group to group
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TURN: tl.constexpr,
    EVEN: tl.constexpr,  # whole turns fill k
    SHARED: tl.constexpr,  # warps divide the groups of a loop iteration, not the columns
    HALF: tl.constexpr,  # half of head_dim; 0 for a product without heads
    STAGES: tl.constexpr,
    EARLY: tl.constexpr,  # launched early (early.py)
):
    """One program per tile of n. Each program computes all rows.

    bytes = n * k * bits / 8 + n * k / GROUP * size (1, or 2 with minimums); twice with a gate
    """
    tile = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, BLOCK_M).to(tl.int64)
    m_row = row < rows
    o_n = columns_of(tile, BLOCK_N, HALF)
    # Clamp to the last row, so that loads need no mask. The copies are dropped.
    w_row = tl.minimum(o_n, n - 1)
    n_rows = (2 * n if GATE else n).to(tl.int64)
    PLANES: tl.constexpr = TURN // 2 if HALVES else TURN
    if EARLY:
        start_next()
        _prefetch_weights(W, w_row, n_rows, PLANES)
        if GATE:
            _prefetch_weights(W, n + w_row, n_rows, PLANES)
        wait_for_previous()
    o_k = tl.arange(0, 32)
    p_x = Q + row[:, None] * q_stride + o_k[None, :]
    p_w = W + w_row[None, :] * 32 + o_k[:, None]
    p_up = W + (n + w_row)[None, :] * 32 + o_k[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    p_x_scale = XScale + row
    p_sums = Sums + row
    p_scale, p_minimum = Scale + w_row, Minimum + w_row
    # Number of scales per loop iteration. It is at least 1, because TURN * 32 >= GROUP.
    OWN: tl.constexpr = TURN * 32 // GROUP
    # The loop moves all pointers, so that an address is one addition.
    left, left_own = groups, counts
    plane = tl.arange(0, PLANES)[:, None, None]
    p_x_all = Q + row[None, :, None] * q_stride + o_k[None, None, :] + plane * (TURN // PLANES * 32)
    p_w_all = W + w_row[None, None, :] * 32 + o_k[None, :, None] + plane * 32 * n_rows
    for _ in tl.range(0, tl.cdiv(groups, TURN), num_stages=STAGES):
        if SHARED:  # each warp computes some of the groups
            x_all = tl.load(p_x_all, mask=m_row[None, :, None], other=0)
            w_all = tl.load(p_w_all)
            if HALVES:
                x_odd = tl.load(p_x_all + 32, mask=m_row[None, :, None], other=0)
                low, high = half_byte(w_all, False, PACKED), half_byte(w_all, True, PACKED)
                all_even = each_of(tl.dot(x_all, low, input_precision="ieee"))
                all_odd = each_of(tl.dot(x_odd, high, input_precision="ieee"))
            else:
                all_even = each_of(tl.dot(x_all, w_all, input_precision="ieee"))
                all_odd = all_even
        for j in tl.static_range(TURN):
            if SHARED:
                x = p_x  # a placeholder that is never read
                w = p_w
            else:
                x = tl.load(p_x + j * 32, mask=m_row[:, None], other=0)
            if SHARED:
                pass
            elif HALVES:
                if j % 2 == 0:
                    both = tl.load(p_w + (j // 2 * 32) * n_rows)
                w = half_byte(both, j % 2 == 1, PACKED)
                if GATE:
                    if j % 2 == 0:
                        both_up = tl.load(p_up + (j // 2 * 32) * n_rows)
                    w_up = half_byte(both_up, j % 2 == 1, PACKED)
            else:
                w = tl.load(p_w + j * 32 * n_rows)
                if GATE:
                    w_up = tl.load(p_up + j * 32 * n_rows)
            m_x = m_row if EVEN else m_row & (left > j)
            if EVEN:  # padding rows may have any scale: they are not written
                x_scale = tl.load(p_x_scale + j * ROWS)
            else:
                x_scale = tl.load(p_x_scale + j * ROWS, mask=m_x, other=0.0)
            if MINIMUMS or ZERO != 0:
                first = tl.load(p_sums + j * ROWS, mask=m_x, other=0)
                second = tl.load(p_sums + half_stride + j * ROWS, mask=m_x, other=0)
            else:
                first = tl.zeros((BLOCK_M,), tl.int32)
                second = first
            if GROUP <= 32 or j * 32 % GROUP == 0:
                scale = numbers(p_scale, j, n_rows, left_own, GROUP, EVEN)
                minimum = scale
                if MINIMUMS:
                    minimum = numbers(p_minimum, j, n_rows, left_own, GROUP, EVEN)
                if GATE:
                    scale_up = numbers(p_scale + n, j, n_rows, left_own, GROUP, EVEN)
                    minimum_up = scale_up
                    if MINIMUMS:
                        minimum_up = numbers(p_minimum + n, j, n_rows, left_own, GROUP, EVEN)
            if GROUP == 16:
                acc = halves_added(acc, x, w, scale, minimum, x_scale, first, second, MINIMUMS)
                if GATE:
                    up = halves_added(
                        up, x, w_up, scale_up, minimum_up, x_scale, first, second, MINIMUMS
                    )
            else:
                if SHARED and HALVES:
                    sums = all_odd[j // 2] if j % 2 else all_even[j // 2]
                elif SHARED:
                    sums = all_even[j]
                else:
                    sums = tl.dot(x, w, input_precision="ieee")
                of_q = first + second
                acc = group_added(acc, sums, scale[0], minimum[0], x_scale, of_q, MINIMUMS, ZERO)
                if GATE:
                    sums = tl.dot(x, w_up, input_precision="ieee")
                    up = group_added(
                        up, sums, scale_up[0], minimum_up[0], x_scale, of_q, MINIMUMS, ZERO
                    )
        if SHARED:
            p_x_all += TURN * 32
            p_w_all += PLANES * 32 * n_rows
        p_x += TURN * 32
        p_w += PLANES * 32 * n_rows
        p_up += PLANES * 32 * n_rows
        p_x_scale += TURN * ROWS
        p_sums += TURN * ROWS
        p_scale += OWN * n_rows
        p_minimum += OWN * n_rows
        left -= TURN
        left_own -= OWN

    m_n = o_n < n
    m = m_row[:, None] & m_n[None, :]
    if HAS_BIAS:
        acc += tl.load(Bias + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
    if GATE:
        if HAS_BIAS:
            up += tl.load(Bias + n + o_n, mask=m_n, other=0.0).to(tl.float32)[None, :]
        acc = activated(acc, GELU) * up
    if RESIDUAL:
        p_residual = Residual + row[:, None] * r_stride + o_n[None, :]
        acc = tl.load(p_residual, mask=m, other=0.0).to(tl.float32) + acc
    if ROUNDS:
        q, scale_of, first_of, second_of = round_groups(tl.where(m_n[None, :], acc, 0.0))
        p_out = OutQ + row[:, None] * out_q_stride + o_n[None, :]
        tl.store(p_out, q, mask=m_row[:, None])
        tl.store(OutScale + tile * ROWS + row, scale_of, mask=m_row)
        p_sums = OutSums + tile * ROWS + row
        tl.store(p_sums, first_of, mask=m_row)
        tl.store(p_sums + out_half_stride, second_of, mask=m_row)
    elif HALF != 0:
        write_heads(
            acc.to(Out.dtype.element_ty).to(tl.float32), tile, row, m_row, Out, out_stride, Angles,
            Table, first_row, K, k_head_stride, k_slot_stride, V, v_head_stride, v_slot_stride,
            queries, keys, HALF, ROWS,
        )  # fmt: skip
    else:
        p_out = Out + row[:, None] * out_stride + o_n[None, :]
        tl.store(p_out, acc.to(Out.dtype.element_ty), mask=m)


def integer_linear(
    x: IntegerRows,
    weight: PackedMatrix,
    *,
    plan: IntegerPlan,
    out: torch.Tensor | None = None,
    terms: IntegerTerms = IntegerTerms(),
    early: bool = False,
) -> None:
    """Compute y = x weight^T + bias. Write y, its gate silu(gate) * up, or y + residual.

    x       rows of k columns, as round_rows writes them
    weight  [n, k], or [2 n, k] with a gate
    out     [rows, n] of the plan's dtype, or float32 without gate, residual and heads. None if the
            plan rounds; then terms.rounded is written
    terms   the operands that the plan names
    early   start before the previous kernel has ended (early.py). It changes no bit

    Allocates nothing and reads nothing on the host, so it can be captured. Raises ValueError on any
    other shape, dtype or stride.
    """
    _check(x, weight, plan, out, terms)
    to = x if terms.rounded is None else terms.rounded
    written = weight.scales if out is None else out
    residual = written if terms.residual is None else terms.residual
    early = is_early(early, x.q.device)
    _integer_linear_kernel[(plan.tiles,)](
        *(x.q, x.q.stride(0), x.scales, x.sums, x.sums.stride(0)),
        weight.levels,
        weight.scales,
        weight.scales if weight.minimums is None else weight.minimums,
        weight.scales if terms.bias is None else terms.bias,
        *(residual, residual.stride(0), written, written.stride(0)),
        *(to.q, to.q.stride(0), to.scales, to.sums, to.sums.stride(0)),
        *arguments(plan.heads, terms.heads, written),
        *(plan.rows, plan.n, plan.groups, triton.cdiv(plan.k, plan.format.group)),
        **constants(plan, interpreting(), early),
        num_warps=plan.num_warps,
        enable_fp_fusion=False,
        maxnreg=plan.max_registers,
        launch_pdl=early,
    )


def constants(plan: IntegerPlan, is_interpreted: bool, early: bool = False) -> dict[str, object]:
    """The kernel's compile-time arguments for a plan."""
    known = plan.format
    return {
        "HAS_BIAS": plan.bias,
        "GATE": plan.gate,
        "GELU": plan.gelu,
        "ROUNDS": plan.rounds,
        "RESIDUAL": plan.residual,
        "GROUP": known.group,
        "MINIMUMS": known.shifts,
        "ZERO": known.zero,
        "HALVES": known.element == "int4",
        "PACKED": not is_interpreted,
        "ROWS": MAX_ROWS,
        "BLOCK_M": plan.block_m,
        "BLOCK_N": plan.block_n,
        "TURN": plan.turn,
        "EVEN": plan.is_even,
        "SHARED": plan.shares_groups,
        "HALF": plan.half,
        "STAGES": plan.stages,
        "EARLY": early,
    }


def integer_linear_torch(
    x: IntegerRows,
    weight: PackedMatrix,
    *,
    plan: IntegerPlan,
    out: torch.Tensor | None = None,
    terms: IntegerTerms = IntegerTerms(),
) -> None:
    """Plain-torch twin of `integer_linear`: same arguments, effects and errors, any device."""
    _check(x, weight, plan, out, terms)
    product = product_torch(x, weight, plan.rows)
    if terms.bias is not None:
        product = product + terms.bias.float()
    if plan.gate:
        gate, up = product.chunk(2, -1)
        product = activated_torch(gate, plan.gelu) * up
    if terms.residual is not None:
        product = terms.residual.float() + product
    if terms.rounded is not None:
        round_torch(product, terms.rounded)
    elif out is not None and plan.heads is not None and terms.heads is not None:
        write_heads_torch(product, plan.heads, terms.heads, out)
    elif out is not None:
        out.copy_(product)


def _check(
    x: IntegerRows,
    weight: PackedMatrix,
    plan: IntegerPlan,
    out: torch.Tensor | None,
    terms: IntegerTerms,
) -> None:
    wide = 2 * plan.n if plan.gate else plan.n
    if (weight.n, weight.k, weight.format) != (wide, plan.k, plan.format):
        raise ValueError(
            f"weight: expected [{wide}, {plan.k}] of {plan.format} but got "
            f"[{weight.n}, {weight.k}] of {weight.format}"
        )
    room = min(x.q.shape[1], GROUP * x.scales.shape[0])
    if room < plan.groups * GROUP or x.q.device != weight.device:
        raise ValueError(
            f"x: expected rows of {plan.k} on {weight.device} but got {room} on {x.q.device}"
        )
    if plan.rounds != (terms.rounded is not None) or plan.rounds != (out is None):
        raise ValueError("out: expected either a tensor or, of a plan that rounds, integer rows")
    shapes = {"bias": (wide,) if plan.bias else None}
    shapes["residual"] = (plan.rows, plan.n) if plan.residual else None
    given = {name: getattr(terms, name) for name in shapes}
    if out is not None:
        check_heads(plan.heads, terms.heads, out)
        shapes["out"], given["out"] = (plan.rows, plan.n), out
    for name, shape in shapes.items():
        _check_one(name, given[name], shape, plan)


def _check_one(
    name: str, t: torch.Tensor | None, shape: tuple[int, ...] | None, plan: IntegerPlan
) -> None:
    if (t is None) != (shape is None):
        raise ValueError(f"{name}: expected {'none' if shape is None else 'one'} by the plan")
    if t is None:
        return
    if tuple(t.shape) != shape or (t.shape[-1] > 1 and t.stride(-1) != 1):
        raise ValueError(
            f"{name}: expected {shape} with contiguous columns but got {tuple(t.shape)}, "
            f"strides {t.stride()}"
        )
    is_wide = (
        name == "out"
        and not (plan.gate or plan.residual or plan.heads)
        and t.dtype == torch.float32
    )
    if t.dtype != plan.dtype and not is_wide:
        raise ValueError(f"{name}.dtype: expected {plan.dtype} but got {t.dtype}")
