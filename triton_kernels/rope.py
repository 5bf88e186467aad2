"""Norm of heads, rope, and the write of keys and values to a row's slot, in one kernel.

The public op is `rope_kv_write`. Its twin in plain torch is `rope_kv_write_torch`. Both round at
the same places: after the norm, after the product with its weight, and once after the rotation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .early import is_early, start_next, wait_for_previous
from .norm import check_norm, normed_torch
from .plan import DTYPES
from .state import Batch, check_words, struct
from .words import ROW_SLOT, ROW_WORDS, TABLE_N, TABLE_ROWS, load_int64

EXACT_FLOAT = 2**24  # float32 represents all positions below this exactly


@dataclass(frozen=True)
class Rope:
    """The parameters of the norm and the rotation of a model's heads.

    inv_freq   float32 [head_dim / 2]; pair i is elements i and i + head_dim / 2
    amplitude  factor of the cosines and sines (yarn's attention factor)
    q_weight, k_weight  [head_dim] weights of the RMSNorm of each head before rope (Qwen3), or None.
                        If they are float32, only the norm's result is rounded (Gemma 3)
    eps        eps of that norm
    """

    inv_freq: torch.Tensor
    amplitude: float = 1.0
    q_weight: torch.Tensor | None = None
    k_weight: torch.Tensor | None = None
    eps: float = 1e-6


@triton.jit
def angles_of(position, inv_freq, amplitude):
    """Returns cosines and sines of a position's angles. If float32 represents the position exactly,
    angles are float32 as in transformers, otherwise float64."""
    if position < 16777216:
        angle = position.to(tl.float32) * inv_freq
        cosines = tl.cos(angle) * amplitude
        sines = tl.sin(angle) * amplitude
    else:
        wide = position.to(tl.float64) * inv_freq.to(tl.float64)
        cosines = tl.cos(wide).to(tl.float32) * amplitude
        sines = tl.sin(wide).to(tl.float32) * amplitude
    return cosines, sines


@triton.jit
def _rope_kv_write_kernel(
    QKV,  # [rows, heads + 2 kv_heads, 2 HALF] read; the queries in it are written
    qkv_row_stride,
    qkv_head_stride,
    K,  # [kv_heads, slots, 2 HALF] storage of one layer, written at each row's slot
    k_head_stride,
    k_slot_stride,
    V,  # [kv_heads, slots, 2 HALF] written
    v_head_stride,
    v_slot_stride,
    Table,  # [words] Batch
    InvFreq,  # [HALF] float32
    QWeight,  # [2 HALF] dtype of QKV or float32; never touched without HAS_NORM, nor is KWeight
    KWeight,
    first_row,  # row of the table that row 0 of QKV belongs to
    heads,
    kv_heads,
    amplitude,
    eps,
    HALF: tl.constexpr,
    HAS_NORM: tl.constexpr,
    EARLY: tl.constexpr,  # launched early (early.py)
):
    """One program per row and head.  q, k <- rotate(norm(x)); v <- x.

    bytes = rows * (2 heads + 4 kv_heads) * head_dim * size
    """
    if EARLY:
        start_next()
        wait_for_previous()
    i_row = tl.program_id(0).to(tl.int64)
    i_head = tl.program_id(1)
    o = tl.arange(0, HALF)
    p_row = Table + TABLE_ROWS + (first_row + i_row) * ROW_WORDS
    in_use = first_row + i_row < tl.load(Table + TABLE_N)
    slot = tl.load(p_row + ROW_SLOT, mask=in_use, other=-1).to(tl.int64)
    position = load_int64(p_row, in_use)
    is_query = i_head < heads
    is_key = (i_head >= heads) & (i_head < heads + kv_heads)
    writes = in_use & (is_query | (slot >= 0))

    p_in = QKV + i_row * qkv_row_stride + i_head.to(tl.int64) * qkv_head_stride
    m = writes & (o >= 0)
    a = tl.load(p_in + o, mask=m, other=0.0)
    b = tl.load(p_in + HALF + o, mask=m, other=0.0)
    if is_query | is_key:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
        if HAS_NORM:
            mean = (tl.sum(a * a, axis=0) + tl.sum(b * b, axis=0)) / (2 * HALF)
            scale = tl.rsqrt(mean + eps)
            a_weight = tl.load(QWeight + o, mask=is_query & (o >= 0), other=0.0)
            b_weight = tl.load(QWeight + HALF + o, mask=is_query & (o >= 0), other=0.0)
            if is_key:
                a_weight = tl.load(KWeight + o)
                b_weight = tl.load(KWeight + HALF + o)
            a = (a * scale).to(QWeight.dtype.element_ty).to(tl.float32) * a_weight.to(tl.float32)
            b = (b * scale).to(QWeight.dtype.element_ty).to(tl.float32) * b_weight.to(tl.float32)
            a = a.to(QKV.dtype.element_ty).to(tl.float32)
            b = b.to(QKV.dtype.element_ty).to(tl.float32)
        cosines, sines = angles_of(position, tl.load(InvFreq + o), amplitude)
        turned = a * cosines - b * sines
        b = (b * cosines + a * sines).to(QKV.dtype.element_ty)
        a = turned.to(QKV.dtype.element_ty)
    if is_query:
        tl.store(p_in + o, a, mask=m)
        tl.store(p_in + HALF + o, b, mask=m)
    elif is_key:
        p_k = K + (i_head - heads).to(tl.int64) * k_head_stride + slot * k_slot_stride
        tl.store(p_k + o, a, mask=m)
        tl.store(p_k + HALF + o, b, mask=m)
    else:
        p_v = V + (i_head - heads - kv_heads).to(tl.int64) * v_head_stride + slot * v_slot_stride
        tl.store(p_v + o, a, mask=m)
        tl.store(p_v + HALF + o, b, mask=m)


def rope_kv_write(
    qkv: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    table: torch.Tensor,
    rope: Rope,
    *,
    first_row: int = 0,
    early: bool = False,
) -> None:
    """Normalise and rotate queries in place. Write the normalised, rotated keys and the values to
    the slots of the rows.

    qkv    [rows, heads + 2 kv_heads, head_dim]  float16, bfloat16 or float32; heads contiguous
    k, v   [kv_heads, slots, head_dim]           same dtype; one layer's storage
    table  int32 words of a Batch; row i of qkv is row first_row + i of the table. Nothing is
           written to the ring for slot -1. Rows from index `n` on are neither read nor written
    early  start before the previous kernel has ended (early.py). It changes no bit

    Allocates nothing. Raises ValueError on any other shape, dtype or stride.
    """
    heads = _check(qkv, k, v, table, rope)
    if qkv.shape[0] == 0:
        return
    half = qkv.shape[2] // 2
    weights = (rope.q_weight, rope.k_weight)
    early = is_early(early, qkv.device)
    _rope_kv_write_kernel[(qkv.shape[0], qkv.shape[1])](
        *(qkv, qkv.stride(0), qkv.stride(1)),
        *(k, k.stride(0), k.stride(1)),
        *(v, v.stride(0), v.stride(1)),
        *(table, rope.inv_freq),
        *(rope.inv_freq if w is None else w for w in weights),
        *(first_row, heads, k.shape[0], rope.amplitude, rope.eps),
        HALF=half,
        HAS_NORM=rope.q_weight is not None,
        EARLY=early,
        num_warps=num_warps(half),
        enable_fp_fusion=False,
        launch_pdl=early,
    )


def num_warps(half: int) -> int:
    """Warps of a program."""
    return 1 if half <= 64 else 2


def rope_kv_write_torch(
    qkv: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    table: torch.Tensor,
    rope: Rope,
    *,
    first_row: int = 0,
) -> None:
    """Plain-torch twin of `rope_kv_write`: same arguments, effects and errors."""
    heads = _check(qkv, k, v, table, rope)
    given, kv_heads = struct(Batch, table), k.shape[0]
    used = max(0, min(qkv.shape[0], given.n - first_row))
    rows = [given.row[first_row + i] for i in range(used)]
    turn = angles_torch([row.position for row in rows], rope)
    q = _turned(_normed(qkv[:used, :heads], rope.q_weight, rope.eps), turn)
    key = _turned(_normed(qkv[:used, heads : heads + kv_heads], rope.k_weight, rope.eps), turn)
    writing = [i for i, row in enumerate(rows) if row.slot >= 0]
    written = [rows[i].slot for i in writing]
    qkv[:used, :heads] = q
    k[:, written] = key[writing].transpose(0, 1)
    v[:, written] = qkv[writing, heads + kv_heads :].transpose(0, 1)


def _normed(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """Return the RMSNorm of heads [n, head_dim], or the heads themselves without a weight."""
    if weight is None:
        return x
    return normed_torch(x, weight, eps).to(x.dtype)


def angles_torch(positions: list[int], rope: Rope) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines, each [positions, head_dim / 2], of the angles at positions."""
    at = torch.tensor(positions, dtype=torch.int64, device=rope.inv_freq.device)[:, None]
    angle = at.float() * rope.inv_freq
    cosines, sines = torch.cos(angle), torch.sin(angle)
    if any(position >= EXACT_FLOAT for position in positions):
        exact = at.double() * rope.inv_freq.double()
        cosines = torch.where(at < EXACT_FLOAT, cosines, torch.cos(exact).float())
        sines = torch.where(at < EXACT_FLOAT, sines, torch.sin(exact).float())
    return cosines * rope.amplitude, sines * rope.amplitude


def _turned(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return heads [rows, n, head_dim], rotated by the rows' cosines and sines."""
    cosines, sines = (t[:, None] for t in turn)
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cosines - b * sines, b * cosines + a * sines], -1).to(x.dtype)


def _check(
    qkv: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, rope: Rope
) -> int:
    """Return the number of query heads in qkv. Raises ValueError on invalid tensors."""
    check_words("table", table, Batch)
    if qkv.dim() != 3 or k.dim() != 3:
        raise ValueError(f"qkv, k: expected 3 dimensions but got {qkv.dim()} and {k.dim()}")
    if qkv.dtype not in DTYPES:
        raise ValueError(f"qkv.dtype: expected one of {DTYPES} but got {qkv.dtype}")
    head_dim, heads = qkv.shape[2], qkv.shape[1] - 2 * k.shape[0]
    if head_dim < 2 or head_dim & (head_dim - 1) or heads < 1:
        raise ValueError(
            "qkv.shape: expected [rows, heads + 2 kv_heads, head_dim], a power of two, "
            f"with {k.shape[0]} kv_heads but got {tuple(qkv.shape)}"
        )
    storage = (*k.shape[:2], head_dim)
    for name, tensor, shape in (
        ("qkv", qkv, tuple(qkv.shape)),
        ("k", k, storage),
        ("v", v, storage),
    ):
        _check_like(name, tensor, qkv, shape)
    if (rope.q_weight is None) != (rope.k_weight is None):
        raise ValueError("rope: expected both head norm weights or none but got one")
    for name, weight in (("q_weight", rope.q_weight), ("k_weight", rope.k_weight)):
        if weight is not None:
            check_norm(name, weight, qkv[:, 0])
    if rope.inv_freq.dtype != torch.float32 or tuple(rope.inv_freq.shape) != (head_dim // 2,):
        raise ValueError(
            f"inv_freq: expected float32 ({head_dim // 2},) but got {rope.inv_freq.dtype}, "
            f"{tuple(rope.inv_freq.shape)}"
        )
    return heads


def _check_like(name: str, tensor: torch.Tensor, qkv: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}.shape: expected {shape} but got {tuple(tensor.shape)}")
    if tensor.dtype != qkv.dtype or tensor.device != qkv.device:
        raise ValueError(
            f"{name}: expected {qkv.dtype} on {qkv.device} as qkv but got {tensor.dtype} "
            f"on {tensor.device}"
        )
    if tensor.stride(-1) != 1:
        raise ValueError(f"{name}: expected a contiguous head but got stride {tensor.stride(-1)}")
