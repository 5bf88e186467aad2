"""Computes the confidence of the candidates that a draft draws for rejection sampling
(csrc/ops/choose.cc).

The confidence follows from the largest scores of the row, so it does not depend on the draw.
`choose` launches this kernel after its own kernel. `choose_torch` computes the confidence together
with the row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .choose_plan import PICKS, ChoosePlan, ChooseWork
from .dist import DIST_LP, among, calibrated
from .draw import Scores, draws_of, node_of, place_of
from .picks import order_of, take_best, take_first
from .state import CANDIDATES, Dist, size
from .words import ROW_WORDS, TABLE_N, TABLE_ROWS, arrived_last, sequence_of

_DIST_WORDS = tl.constexpr(size(Dist))
_CANDIDATES = tl.constexpr(CANDIDATES)


@triton.jit
def _rate_kernel(
    Block,  # [seats, words] the sequences
    Table,  # [words] Batch
    Scores,  # [seats, score_rows, vocab]
    Blind,  # [rows, splits, KEEP] scratch
    Counters,  # [rows] programs that arrived; 0 before and after a launch
    Out,  # [rows, words] Dist; the confidence is written for rows with rejection sampling
    first_row,
    vocab,
    score_rows,
    tail_slots,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_UP: tl.constexpr,  # SPLITS, rounded up to a power of two
    KEEP: tl.constexpr,
    PICKS: tl.constexpr,
):
    """One program per row and CHUNK tokens.  bytes = rows * vocab * 4, of rows with rejection
    sampling"""
    i_row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    if first_row + i_row >= tl.load(Table + TABLE_N):
        return
    Block = sequence_of(Block, Table, first_row + i_row)
    p_row = Table + TABLE_ROWS + (first_row + i_row) * ROW_WORDS
    p_out = Out + i_row * _DIST_WORDS
    n = tl.load(p_out)
    draws = draws_of(Block, tl.load(Block).to(tl.float32, bitcast=True))
    if (draws == 0) | (node_of(p_row) < 0) | (n == 0):
        return
    o = split * CHUNK + tl.arange(0, CHUNK)
    p_kept = Scores + place_of(Block, p_row, score_rows, tail_slots, True) * vocab
    order = order_of(tl.load(p_kept + o, mask=o < vocab, other=float("-inf")), o)
    o_pick = tl.arange(0, KEEP)
    picked = tl.full((KEEP,), -1, tl.int32)
    for pick in range(0, PICKS):
        order, picked = take_first(order, o_pick, pick, picked)
    largest = tl.load(p_kept + picked, mask=picked >= 0, other=float("-inf"))
    tl.store(Blind + (i_row * SPLITS + split).to(tl.int64) * KEEP + o_pick, largest)
    if arrived_last(Counters + i_row, SPLITS):
        o_all = tl.arange(0, SPLITS_UP * KEEP)
        p_all = Blind + i_row * SPLITS * KEEP + o_all
        score = tl.load(
            p_all, mask=o_all < SPLITS * KEEP, other=float("-inf"), cache_modifier=".cg"
        )
        o_best = tl.arange(0, _CANDIDATES)
        unread = tl.full((_CANDIDATES,), -1, tl.int32)
        best = tl.full((_CANDIDATES,), float("-inf"), tl.float32)
        for pick in range(0, _CANDIDATES):
            score, unread, best = take_best(score, o_all, o_best, pick, unread, best)
        m = o_best < n
        lp = among(tl.where(m, best - tl.max(best, axis=0), 0.0), m)
        lp = calibrated(lp, m, Block)
        tl.store(p_out + DIST_LP + o_best, lp.to(tl.int32, bitcast=True), mask=m)


def rate(
    sequence: torch.Tensor,
    table: torch.Tensor,
    scores: Scores,
    *,
    plan: ChoosePlan,
    work: ChooseWork,
    out: torch.Tensor,
) -> None:
    """Write the confidence to the rows of `out` that use rejection sampling. See `choose` for the
    arguments."""
    _rate_kernel[(plan.rows, plan.splits)](
        *(sequence, table, scores.rows, work.blind, work.counters, out),
        *(plan.first_row, plan.vocab, scores.rows.shape[1], scores.tail_slots),
        **constants(plan),
        num_warps=plan.num_warps,
        enable_fp_fusion=False,
    )


def constants(plan: ChoosePlan) -> dict[str, object]:
    """Return the kernel's compile-time arguments for a plan."""
    return plan.sizes() | {"PICKS": PICKS[True]}
