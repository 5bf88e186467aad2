"""Helpers for products of integers: unpack levels, add groups of k in order."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def half_byte(levels, HIGH: tl.constexpr, PACKED: tl.constexpr):
    """Returns the low or the high halves of bytes as int8. PACKED handles four bytes at a time."""
    if PACKED and HIGH:
        asm: tl.constexpr = "{.reg .b32 t; shr.b32 t, $1, 4; and.b32 $0, t, 0x0f0f0f0f;}"
        half = tl.inline_asm_elementwise(asm, "=r,r", [levels], dtype=tl.int8, is_pure=True, pack=4)
    elif PACKED:
        asm_low: tl.constexpr = "and.b32 $0, $1, 0x0f0f0f0f;"
        half = tl.inline_asm_elementwise(
            asm_low, "=r,r", [levels], dtype=tl.int8, is_pure=True, pack=4
        )
    elif HIGH:
        half = (levels >> 4).to(tl.int8)
    else:
        half = (levels & 15).to(tl.int8)
    return half


@triton.jit
def _added(total, sums, scale, x_scale):
    """Returns total + scale * x_scale * (integer sums), rounded by one fma."""
    return tl.fma(sums.to(tl.float32), scale[None, :] * x_scale[:, None], total)


@triton.jit
def group_added(
    total, sums, scale, minimum, x_scale, of_q, MINIMUMS: tl.constexpr, ZERO: tl.constexpr
):
    """Returns total plus one group of k. sums: integer products of the group; of_q: sum of the
    row's integers in the group."""
    if ZERO != 0:
        sums -= ZERO * of_q[:, None]
    total = _added(total, sums, scale, x_scale)
    if MINIMUMS:
        moment = x_scale * of_q.to(tl.float32)
        total = tl.fma(minimum[None, :], moment[:, None], total)
    return total


@triton.jit
def halves_added(
    total, x, w, scale, minimum, x_scale, first, second, MINIMUMS: tl.constexpr
):  # fmt: skip
    """Returns total plus two groups of 16 columns. scale and minimum are pairs, one per group."""
    is_first = (tl.arange(0, 32) < 16)[None, :]
    none = tl.zeros(x.shape, tl.int8)
    one = tl.dot(tl.where(is_first, x, none), w, input_precision="ieee")
    total = group_added(total, one, scale[0], minimum[0], x_scale, first, MINIMUMS, 0)
    two = tl.dot(tl.where(is_first, none, x), w, input_precision="ieee")
    return group_added(total, two, scale[1], minimum[1], x_scale, second, MINIMUMS, 0)


@triton.jit
def _halves(last):
    """Splits [m, n, G] into two tensors [m, n, G / 2]: those of even and those of odd index."""
    M: tl.constexpr = last.shape[0]
    N: tl.constexpr = last.shape[1]
    G: tl.constexpr = last.shape[2]
    return tl.split(tl.reshape(last, (M, N, G // 2, 2)))


@triton.jit
def _four(last):
    """Splits [m, n, 4] into a tuple of 4 tensors [m, n]."""
    even, odd = _halves(last)
    a0, a2 = tl.split(even)
    a1, a3 = tl.split(odd)
    return a0, a1, a2, a3


@triton.jit
def _eight(last):
    """Splits [m, n, 8] into a tuple of 8 tensors [m, n]."""
    even, odd = _halves(last)
    a0, a2, a4, a6 = _four(even)
    a1, a3, a5, a7 = _four(odd)
    return a0, a1, a2, a3, a4, a5, a6, a7


@triton.jit
def each_of(sums):
    """Splits sums [G, m, n] into a tuple of G tensors [m, n]; G is 2, 4, 8 or 16."""
    G: tl.constexpr = sums.shape[0]
    last = tl.permute(sums, (1, 2, 0))
    if G == 2:
        found = tl.split(last)
    elif G == 4:
        found = _four(last)
    elif G == 8:
        found = _eight(last)
    else:
        even, odd = _halves(last)
        a0, a2, a4, a6, a8, a10, a12, a14 = _eight(even)
        a1, a3, a5, a7, a9, a11, a13, a15 = _eight(odd)
        found = (a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15)
    return found


@triton.jit
def numbers(p, j: tl.constexpr, n, left, GROUP: tl.constexpr, EVEN: tl.constexpr):
    """Returns the scales or minimums of group j of a loop iteration as a pair of vectors.

    With groups of 16 columns the two vectors differ, otherwise they are the same. left: number of
    scales that remain from this iteration on. Scales beyond them are returned as 0.
    """
    if GROUP == 16:
        at: tl.constexpr = 2 * j
    else:
        at: tl.constexpr = j * 32 // GROUP
    if EVEN:
        one = tl.load(p + at * n)
    else:
        one = tl.load(p + at * n, mask=left > at, other=0.0)
    two = one
    if GROUP == 16:
        if EVEN:
            two = tl.load(p + (at + 1) * n)
        else:
            two = tl.load(p + (at + 1) * n, mask=left > at + 1, other=0.0)
    return (one, two)
