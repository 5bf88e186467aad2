"""Last step of the product that computes q, k and v: rope, and the write of k and v to the ring.

`linear` and `integer_linear` call it, so rope needs no launch of its own. The result has the same
bits as `rope_kv_write` (rope.py) after the product. Rope rotates pairs of elements, one from each
half of a head. A tile of the product has both elements of each of its pairs: a run of first halves,
then the same run of second halves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .product_plan import Heads
from .state import MAX_ROWS, Batch, check_words, struct
from .words import ROW_SLOT, ROW_WORDS, TABLE_N, TABLE_ROWS


@dataclass(frozen=True)
class HeadTerms:
    """The additional inputs and outputs of a product that rotates heads.

    angles     float32 [2, 64, head_dim / 2]: cosines and sines of every row, as `embed` writes them
    table      int32 words of a Batch
    first_row  row of the table to which row 0 of the product belongs
    k, v       [kv_heads, slots, head_dim] storage of one layer, of the plan's dtype, written at the
               slots of the rows. Nothing is written for slot -1 and for rows that the table lacks
    """

    angles: torch.Tensor
    table: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    first_row: int = 0


@triton.jit
def columns_of(tile, BLOCK_N: tl.constexpr, HALF: tl.constexpr):
    """Return the BLOCK_N columns of a tile. Without heads the columns are consecutive. With heads
    the tile has runs of first and second halves of heads."""
    o = tl.arange(0, BLOCK_N)
    if HALF == 0:
        columns = tile * BLOCK_N + o
    else:
        RUN: tl.constexpr = HALF if HALF < BLOCK_N // 2 else BLOCK_N // 2
        pair = tile * (BLOCK_N // 2) + o // (2 * RUN) * RUN + o % RUN
        columns = pair // HALF * (2 * HALF) + o // RUN % 2 * HALF + pair % HALF
    return columns


@triton.jit
def write_heads(
    x, tile, row, m_row, Out, out_stride, Angles, Table, first_row, K, k_head_stride,
    k_slot_stride, V, v_head_stride, v_slot_stride, queries, keys, HALF: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Rotate the queries and keys of a rounded tile x [M, N]. Write queries to Out, and keys and
    values to the ring."""
    M: tl.constexpr = x.shape[0]
    N: tl.constexpr = x.shape[1]
    RUN: tl.constexpr = HALF if HALF < N // 2 else N // 2
    halves = tl.permute(tl.reshape(x, (M, N // (2 * RUN), 2, RUN)), (0, 1, 3, 2))
    a, b = tl.split(halves)
    a, b = tl.reshape(a, (M, N // 2)), tl.reshape(b, (M, N // 2))
    row = row.to(tl.int64)
    pair = tile.to(tl.int64) * (N // 2) + tl.arange(0, N // 2)
    head = pair // HALF
    i = pair % HALF
    m = m_row[:, None] & (head < queries + 2 * keys)[None, :]
    p_angle = Angles + row[:, None] * HALF + i[None, :]
    cosines = tl.load(p_angle, mask=m, other=0.0)
    sines = tl.load(p_angle + ROWS * HALF, mask=m, other=0.0)
    p_row = Table + TABLE_ROWS + (first_row + row) * ROW_WORDS
    slot = tl.load(p_row + ROW_SLOT, mask=m_row, other=-1).to(tl.int64)
    writes = m & ((first_row + row < tl.load(Table + TABLE_N)) & (slot >= 0))[:, None]
    is_query = (head < queries)[None, :]
    is_value = (head >= queries + keys)[None, :]
    dtype = Out.dtype.element_ty
    first = tl.where(is_value, a, a * cosines - b * sines).to(dtype)
    second = tl.where(is_value, b, b * cosines + a * sines).to(dtype)
    p_q = Out + row[:, None] * out_stride + (head * (2 * HALF) + i)[None, :]
    tl.store(p_q, first, mask=m & is_query)
    tl.store(p_q + HALF, second, mask=m & is_query)
    p_k = K + (head - queries)[None, :] * k_head_stride + slot[:, None] * k_slot_stride + i[None, :]
    m_k = writes & (head >= queries)[None, :] & (head < queries + keys)[None, :]
    tl.store(p_k, first, mask=m_k)
    tl.store(p_k + HALF, second, mask=m_k)
    of_v = head - queries - keys
    p_v = V + of_v[None, :] * v_head_stride + slot[:, None] * v_slot_stride + i[None, :]
    tl.store(p_v, first, mask=writes & is_value)
    tl.store(p_v + HALF, second, mask=writes & is_value)


def arguments(
    heads: Heads | None, terms: HeadTerms | None, other: torch.Tensor
) -> tuple[object, ...]:
    """Return the arguments of a kernel from `Angles` to `keys`. Without heads the kernel never
    reads them."""
    if heads is None or terms is None:
        return (other, other, 0, other, 0, 0, other, 0, 0, 0, 0)
    k, v = terms.k, terms.v
    return (
        *(terms.angles, terms.table, terms.first_row),
        *(k, k.stride(0), k.stride(1), v, v.stride(0), v.stride(1)),
        *(heads.queries, heads.keys),
    )


def write_heads_torch(
    product: torch.Tensor, heads: Heads, terms: HeadTerms, out: torch.Tensor
) -> None:
    """Do the same as `write_heads` in plain torch, for all columns of the product [rows, n]."""
    rows, dtype = product.shape[0], out.dtype
    x = product.to(dtype).view(rows, -1, heads.head_dim)
    a, b = x.float().chunk(2, -1)
    cosines, sines = terms.angles[:, :rows, None]
    turned = torch.cat([a * cosines - b * sines, b * cosines + a * sines], -1).to(dtype)
    last = heads.queries + heads.keys
    out[:, : heads.queries * heads.head_dim] = turned[:, : heads.queries].flatten(1)
    given = struct(Batch, terms.table)
    used = max(0, min(rows, given.n - terms.first_row))
    slots = {i: given.row[terms.first_row + i].slot for i in range(used)}
    writing = [i for i, slot in slots.items() if slot >= 0]
    written = [slots[i] for i in writing]
    terms.k[:, written] = turned[writing, heads.queries : last].transpose(0, 1)
    terms.v[:, written] = x[writing, last:].transpose(0, 1)


def check_heads(heads: Heads | None, terms: HeadTerms | None, out: torch.Tensor) -> None:
    """Raise ValueError unless `terms` has the tensors that `heads` needs."""
    if (heads is None) != (terms is None):
        raise ValueError(f"heads: expected {'none' if heads is None else 'some'} by the plan")
    if heads is None or terms is None:
        return
    check_words("table", terms.table, Batch)
    angles = (2, MAX_ROWS, heads.head_dim // 2)
    if tuple(terms.angles.shape) != angles or terms.angles.dtype != torch.float32:
        raise ValueError(
            f"angles: expected float32 {angles} but got {terms.angles.dtype} "
            f"{tuple(terms.angles.shape)}"
        )
    for name, t in (("k", terms.k), ("v", terms.v)):
        shape = (heads.keys, terms.k.shape[1], heads.head_dim)
        if tuple(t.shape) != shape or t.dtype != out.dtype or t.stride(-1) != 1:
            raise ValueError(
                f"{name}: expected {out.dtype} {shape} with contiguous heads but got {t.dtype} "
                f"{tuple(t.shape)}, strides {t.stride()}"
            )
