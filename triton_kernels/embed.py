"""Looks up the embeddings of a forward's tokens.

The public op is `embed`. Its twin in plain torch is `embed_torch`. Both copy the embeddings without
rounding, or multiply them by a factor (Gemma 3). They also store what the layers need for each row:
sums of squares for the first norm, and the angles of rope.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .norm import PART, squares_torch
from .plan import DTYPES
from .rope import Rope, angles_of, angles_torch
from .state import MAX_ROWS, Batch, check_words, struct
from .words import ROW_TOKEN, ROW_WORDS, TABLE_N, TABLE_ROWS, load_int64

BLOCK = 1024  # columns per program


@triton.jit
def _embed_kernel(
    Table,  # [words] Batch
    Weight,  # [vocab, columns]
    weight_stride,
    Out,  # [rows, columns] written
    out_stride,
    Squares,  # [parts, rows] sums of squares, written with HAS_SQUARES
    squares_stride,
    Angles,  # [2, ROWS, HALF] cosines and sines, written if HALF is not 0
    InvFreq,  # [HALF]; read there
    amplitude,
    first_row,  # row of the table that row 0 of Out belongs to
    columns,
    FACTOR: tl.constexpr,  # of the embedding; 1: its bits are copied
    HAS_SQUARES: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per row and BLOCK columns.  out = FACTOR * weight[token], or 0 for padding.

    bytes = rows * columns * size * 2
    """
    i_row = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m = o < columns
    in_use = first_row + i_row < tl.load(Table + TABLE_N)
    p_row = Table + TABLE_ROWS + (first_row + i_row) * ROW_WORDS
    token = tl.load(p_row + ROW_TOKEN, mask=in_use, other=0).to(tl.int64)
    x = tl.load(Weight + token * weight_stride + o, mask=m & in_use, other=0.0)
    if FACTOR != 1.0:
        x = (x.to(tl.float32) * FACTOR).to(Out.dtype.element_ty)
    tl.store(Out + i_row * out_stride + o, x, mask=m)
    if HAS_SQUARES:
        parts = tl.reshape(x.to(tl.float32), (BLOCK // PART, PART))
        part = (tl.program_id(1) * (BLOCK // PART) + tl.arange(0, BLOCK // PART)).to(tl.int64)
        p_squares = Squares + part * squares_stride + i_row
        tl.store(p_squares, tl.sum(parts * parts, axis=1), mask=part < tl.cdiv(columns, PART))
    if HALF != 0:  # noqa: SIM102 (the outer condition is a compile-time constant)
        if tl.program_id(1) == 0:
            position = load_int64(p_row, in_use)
            o_half = tl.arange(0, HALF)
            cosines, sines = angles_of(position, tl.load(InvFreq + o_half), amplitude)
            p_angle = Angles + i_row * HALF + o_half
            tl.store(p_angle, cosines)
            tl.store(p_angle + ROWS * HALF, sines)


def embed(
    table: torch.Tensor,
    weight: torch.Tensor,
    *,
    out: torch.Tensor,
    first_row: int = 0,
    squares: torch.Tensor | None = None,
    rope: Rope | None = None,
    angles: torch.Tensor | None = None,
    factor: float = 1.0,
) -> torch.Tensor:
    """Set out[i] = factor * weight[token of row first_row + i], or 0 if the table has no such row.

    table    int32 words of a Batch; rows from index `n` on are not read
    weight   [vocab, columns]  float16, bfloat16 or float32; contiguous columns
    out      [rows, columns]   same dtype, written
    squares  float32 [parts, at least rows]  None, or written: sums of squares over PART columns
             each (norm.py)
    factor   factor of the embedding, representable in its dtype; the product is rounded. With 1 the
             bits are copied
    angles   float32 [2, 64, head_dim / 2]   None, or written (needs `rope`): cosines and sines of
             the rows' positions; of position 0 for a row that the table does not have

    Returns `out`. Allocates nothing. Raises ValueError on any other shape, dtype or stride.
    """
    _check(table, weight, out, squares)
    _check_angles(rope, angles, out)
    rows, columns = out.shape
    if rows and columns:
        grid = (rows, triton.cdiv(columns, BLOCK))
        _embed_kernel[grid](
            *(table, weight, weight.stride(0), out, out.stride(0)),
            *((out, 0) if squares is None else (squares, squares.stride(0))),
            *((out, out, 0.0) if rope is None else (angles, rope.inv_freq, rope.amplitude)),
            *(first_row, columns),
            FACTOR=factor,
            HAS_SQUARES=squares is not None,
            HALF=0 if rope is None else rope.inv_freq.shape[0],
            ROWS=MAX_ROWS,
            PART=PART,
            BLOCK=BLOCK,
            num_warps=4,
        )
    return out


def embed_torch(
    table: torch.Tensor,
    weight: torch.Tensor,
    *,
    out: torch.Tensor,
    first_row: int = 0,
    squares: torch.Tensor | None = None,
    rope: Rope | None = None,
    angles: torch.Tensor | None = None,
    factor: float = 1.0,
) -> torch.Tensor:
    """Plain-torch twin of `embed`: same arguments, effects and errors, any device."""
    _check(table, weight, out, squares)
    _check_angles(rope, angles, out)
    given = struct(Batch, table)
    used = min(out.shape[0], max(0, given.n - first_row))
    tokens = [given.row[first_row + i].token for i in range(used)]
    out[:used] = weight[tokens] if factor == 1 else weight[tokens].float() * factor
    out[used:] = 0
    if squares is not None:
        squares[:, : out.shape[0]] = squares_torch(out)
    if rope is not None and angles is not None:
        positions = [given.row[first_row + i].position for i in range(used)]
        positions += [0] * (out.shape[0] - used)
        angles[0, : len(out)], angles[1, : len(out)] = angles_torch(positions, rope)
    return out


def _check_angles(rope: Rope | None, angles: torch.Tensor | None, out: torch.Tensor) -> None:
    if (rope is None) != (angles is None):
        raise ValueError("angles: expected them with a rope but got one of both")
    if rope is None or angles is None:
        return
    shape = (2, MAX_ROWS, rope.inv_freq.shape[0])
    if tuple(angles.shape) != shape or angles.dtype != torch.float32 or len(out) > MAX_ROWS:
        raise ValueError(
            f"angles: expected float32 {shape} for up to {MAX_ROWS} rows but got {angles.dtype} "
            f"{tuple(angles.shape)} for {len(out)}"
        )


def _check(
    table: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, squares: torch.Tensor | None
) -> None:
    check_words("table", table, Batch)
    if weight.dim() != 2 or weight.dtype not in DTYPES:
        raise ValueError(
            f"weight: expected [vocab, columns] of one of {DTYPES} but got {weight.dtype} "
            f"{tuple(weight.shape)}"
        )
    if out.dim() != 2 or out.shape[1] != weight.shape[1]:
        raise ValueError(
            f"out.shape: expected [rows, {weight.shape[1]}] but got {tuple(out.shape)}"
        )
    if out.dtype != weight.dtype or out.device != weight.device:
        raise ValueError(
            f"out: expected {weight.dtype} on {weight.device} as weight but got {out.dtype} on "
            f"{out.device}"
        )
    for name, tensor in (("weight", weight), ("out", out)):
        if tensor.shape[1] > 1 and tensor.stride(1) != 1:
            raise ValueError(
                f"{name}: expected contiguous columns but got stride {tensor.stride(1)}"
            )
    if squares is None:
        return
    parts = triton.cdiv(out.shape[1], PART)
    if squares.dtype != torch.float32 or squares.shape[0] != parts or squares.stride(1) != 1:
        raise ValueError(
            f"squares: expected contiguous float32 [{parts}, rows] but got {squares.dtype} "
            f"{tuple(squares.shape)}"
        )
    if squares.shape[1] < out.shape[0]:
        raise ValueError(
            f"squares: expected {out.shape[0]} rows at least but got {squares.shape[1]}"
        )
