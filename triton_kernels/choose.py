"""The sampling pass on the device: turns each row of logits into a token or a draft's distribution.

The public op is `choose`. Its twin in plain torch is `choose_torch`. The order of operations and
the formulas are those of csrc/ops/choose.h, and so are the random bits (noise.py).

Each program reads one chunk of a row's vocabulary. It picks the few tokens with the best float32
scores, and computes their scores in float64. The last program of a row to finish takes the best of
all picks; ties go to the lowest id.

If a request may change logits (shaping.py), there is one more pass over the vocabulary. If a
request may filter tokens (cut.py), there are several more for the target's tokens. A draft's
distribution is filtered among the picks alone, except for rejection sampling (draw.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .choose_plan import PICKS, STATS, ChoosePlan, ChooseWork
from .choose_torch import Asked, choose_row
from .cut import find_cut, find_cut_torch
from .dist import thinned, write_dist
from .draw import DRAFT_ITEM, Scores, draws_of, node_of, place_of, prefix_of
from .noise import exp32, gumbel32, noise_words
from .picks import order_of, score_of, take_best, take_first, word_of
from .rate import rate
from .shaping import Shaping, check_ids, shape_logits, shape_logits_torch
from .state import CANDIDATES, Batch, Dist, Sequence, check_words, of_seat, size, struct
from .words import (
    ROW_WORDS,
    TABLE_N,
    TABLE_ROWS,
    TWO_PROGRAMS,
    arrived_last,
    load_int64,
    sequence_of,
)

_DIST_WORDS = tl.constexpr(size(Dist))
_CANDIDATES = tl.constexpr(CANDIDATES)
_STATS = tl.constexpr(STATS)


@triton.jit
def _choose_kernel(
    Logits,  # [rows, vocab] before shaping
    logits_stride,
    Shaped,  # [rows, vocab] logits to sample from; without HAS_SHAPED the same as Logits
    shaped_stride,
    Cut,  # [rows, 4] result of find_cut; read only with HAS_CUT
    Ids,  # [vocab] the token of each column; read only with HAS_IDS
    Block,  # [seats, words] the sequences
    Table,  # [words] Batch
    Score,  # [rows, splits, KEEP] float64 scratch
    Token,  # [rows, splits, KEEP] scratch
    Stat,  # [rows, splits, 6] scratch
    Counters,  # [rows] programs that arrived; 0 before and after a launch
    Scores,  # [seats, score_rows, vocab] written only with KEEPS
    Out,  # [rows, words] written: a Dist with DISTS, otherwise a Choice
    first_row,
    vocab,
    score_rows,
    tail_slots,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_UP: tl.constexpr,  # SPLITS, rounded up to a power of two
    KEEP: tl.constexpr,
    PICKS: tl.constexpr,
    DISTS: tl.constexpr,
    HAS_SHAPED: tl.constexpr,
    HAS_CUT: tl.constexpr,
    THINS: tl.constexpr,  # filter the Dist with `thinned`
    HAS_IDS: tl.constexpr,
    KEEPS: tl.constexpr,  # keep scores for rejection sampling (draw.py)
):
    """One program per row and CHUNK tokens.  argmax of logit / temperature + g.  g: the noise
    of (seed, position, id).

    bytes = rows * vocab * size (once; twice with HAS_SHAPED)
    """
    i_row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    if first_row + i_row >= tl.load(Table + TABLE_N):
        return
    o = split * CHUNK + tl.arange(0, CHUNK)
    m = o < vocab
    raw = tl.load(Logits + i_row * logits_stride + o, mask=m, other=float("-inf")).to(tl.float32)
    x = raw
    if HAS_SHAPED:
        x = tl.load(Shaped + i_row * shaped_stride + o, mask=m, other=float("-inf"))
    fine = (raw < float("inf")) & (x < float("inf"))  # false for NaN and +inf
    bad = tl.max((fine == 0).to(tl.int32), axis=0)

    # Compute float32 scores. They are accurate enough to select the few tokens that can win.
    Block = sequence_of(Block, Table, first_row + i_row)
    temperature = tl.load(Block).to(tl.float32, bitcast=True)
    seed = load_int64(Block + 4, True)
    completion = tl.load(Block + 6).to(tl.uint32, bitcast=True)
    p_row = Table + TABLE_ROWS + (first_row + i_row) * ROW_WORDS
    where = load_int64(p_row, True) + 1  # position of the token to be chosen
    use = tl.zeros((), tl.uint32)
    draws = temperature < 0
    if KEEPS:
        draws = draws_of(Block, temperature)
        if DISTS:
            bad = tl.maximum(bad, (draws & (node_of(p_row) < 0)).to(tl.int32))
            if draws:
                where = prefix_of(Block, Table, p_row)
                use += DRAFT_ITEM
    score = tl.where(fine, x, float("-inf"))
    if temperature > 0:
        scaled = tl.div_rn(score, temperature + tl.zeros_like(score))
        top = tl.max(scaled, axis=0)
        top = tl.where(top == float("-inf"), 0.0, top)
        if HAS_CUT:
            p_cut = Cut + i_row * 4
            most = tl.load(p_cut).to(tl.float32, bitcast=True)
            last = tl.load(p_cut + 1).to(tl.float32, bitcast=True)
            last_id = tl.load(p_cut + 2)
            min_p = tl.load(Block + 1).to(tl.float32, bitcast=True)
            most = tl.where(most > float("-inf"), most, 0.0)
            weight = exp32(tl.div_rn(score - most, temperature + tl.zeros_like(score)))
            left = (weight >= min_p) & ((score > last) | ((score == last) & (o <= last_id)))
            scaled = tl.where(left, scaled, float("-inf"))
        if KEEPS:
            keeps = draws & (bad == 0) & (node_of(p_row) >= 0)
            p_kept = Scores + place_of(Block, p_row, score_rows, tail_slots, DISTS) * vocab
            tl.store(p_kept + o, scaled, mask=m & keeps)
        if THINS:
            most = tl.max(score, axis=0)
            near = score - tl.where(most > float("-inf"), most, 0.0)
            weight = exp32(tl.div_rn(near, temperature + tl.zeros_like(score)))
            p_stat = Stat + (i_row * SPLITS + split).to(tl.int64) * _STATS
            tl.store(p_stat + 4, most)
            tl.store(p_stat + 5, tl.sum(weight, axis=0))
        if HAS_IDS:
            word = word_of(seed, completion, where, use, tl.load(Ids + o, mask=m, other=0))
        else:
            group = (split * (CHUNK // 4) + tl.arange(0, CHUNK // 4)).to(tl.uint32)
            w0, w1, w2, w3 = noise_words(seed, completion, where, group | use)
            word = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (CHUNK,))
        score = (scaled - top) + gumbel32(word)

    # Compute float64 scores of the few tokens that can win.
    o_pick = tl.arange(0, KEEP)
    picked = tl.full((KEEP,), -1, tl.int32)
    order = order_of(score, o)
    for pick in range(0, PICKS):
        order, picked = take_first(order, o_pick, pick, picked)
    is_pick = picked >= 0
    if HAS_SHAPED:
        p_x = Shaped + i_row * shaped_stride
    else:
        p_x = Logits + i_row * logits_stride
    picked_x = tl.load(p_x + picked, mask=is_pick, other=0.0).to(tl.float32)
    picked_id = picked
    if HAS_IDS:
        picked_id = tl.load(Ids + picked, mask=is_pick, other=0)
    picked_word = word_of(seed, completion, where, use, picked_id)
    exact = tl.where(is_pick, score_of(picked_x, picked_word, temperature), float("-inf"))

    at = (i_row * SPLITS + split).to(tl.int64)
    tl.store(Score + at * KEEP + o_pick, exact)
    tl.store(Token + at * KEEP + o_pick, picked)
    tl.store(Stat + at * _STATS + 3, bad.to(tl.float32))
    if DISTS:
        if KEEPS:  # load the logits again, because registers cannot hold them so long
            raw = tl.load(Logits + i_row * logits_stride + o, mask=m, other=float("-inf"))
            raw = raw.to(tl.float32)
            fine = raw < float("inf")
        top = tl.max(tl.where(fine, raw, float("-inf")), axis=0)
        below = tl.where(
            fine & (raw > float("-inf")), raw - tl.where(top > float("-inf"), top, 0.0), -100.0
        )
        e = exp32(below)
        tl.store(Stat + at * _STATS, top)
        tl.store(Stat + at * _STATS + 1, tl.sum(e, axis=0))
        tl.store(Stat + at * _STATS + 2, tl.sum(e * below, axis=0))
    if arrived_last(Counters + i_row, SPLITS):
        _merge(
            Logits + i_row * logits_stride, p_x, Ids, Block, Score + i_row * SPLITS * KEEP,
            Token + i_row * SPLITS * KEEP, Stat + i_row * SPLITS * _STATS,
            draws, Out, i_row,
            SPLITS, SPLITS_UP, KEEP, DISTS, THINS, HAS_IDS,
        )  # fmt: skip


@triton.jit
def _merge(
    P, P_shaped, Ids, Block, Score, Token, Stat, draws, Out, i_row, SPLITS: tl.constexpr,
    SPLITS_UP: tl.constexpr, KEEP: tl.constexpr, DISTS: tl.constexpr, THINS: tl.constexpr,
    HAS_IDS: tl.constexpr,
):  # fmt: skip
    """Writes the result of a row from the picks of all its chunks. Other programs wrote the picks,
    so loads bypass L1."""
    o = tl.arange(0, SPLITS_UP * KEEP)
    m = o < SPLITS * KEEP
    score = tl.load(Score + o, mask=m, other=float("-inf"), cache_modifier=".cg")
    token = tl.load(Token + o, mask=m, other=-1, cache_modifier=".cg")
    o_split = tl.arange(0, SPLITS_UP)
    m_split = o_split < SPLITS
    p_stat = Stat + o_split * _STATS
    bad = tl.load(p_stat + 3, mask=m_split, other=0.0, cache_modifier=".cg")
    is_bad = tl.max((bad > 0).to(tl.int32), axis=0) != 0
    score = tl.where(is_bad, float("-inf"), tl.where(token < 0, float("-inf"), score))
    o_pick = tl.arange(0, _CANDIDATES)
    best = tl.full((_CANDIDATES,), -1, tl.int32)
    best_score = tl.full((_CANDIDATES,), float("-inf"), tl.float64)
    for pick in range(0, _CANDIDATES if DISTS else 1):
        score, best, best_score = take_best(score, token, o_pick, pick, best, best_score)
    if DISTS:
        if THINS:
            best, best_score = thinned(P_shaped, Block, token, p_stat, m_split, best, best_score)
        top = tl.load(p_stat, mask=m_split, other=float("-inf"), cache_modifier=".cg")
        total = tl.load(p_stat + 1, mask=m_split, other=0.0, cache_modifier=".cg")
        moment = tl.load(p_stat + 2, mask=m_split, other=0.0, cache_modifier=".cg")
        most = tl.max(top, axis=0)
        below = tl.where(
            top > float("-inf"), top - tl.where(most > float("-inf"), most, 0.0), -100.0
        )
        shrink = exp32(below)
        moment = tl.sum(shrink * (moment + below * total), axis=0)
        total = tl.sum(shrink * total, axis=0)
        p_out = Out + i_row * _DIST_WORDS
        write_dist(p_out, P, Ids, Block, best, best_score, most, total, moment, draws, HAS_IDS)
    else:
        first = tl.max(best, axis=0)
        tl.store(Out + i_row * 2, first)
        tl.store(Out + i_row * 2 + 1, tl.where(is_bad, 1, tl.where(first < 0, 2, 0)))


def choose(
    logits: torch.Tensor,
    sequence: torch.Tensor,
    table: torch.Tensor,
    *,
    plan: ChoosePlan,
    work: ChooseWork,
    out: torch.Tensor,
    shaping: Shaping | None = None,
    ids: torch.Tensor | None = None,
    scores: Scores | None = None,
) -> torch.Tensor:
    """Sample a token from every row (Choice words), or with plan.dists write a Dist (Dist words).

    logits    [rows, vocab]  float16, bfloat16 or float32; rows may be strided, columns may not
    sequence  int32 words of the sequences, one for each seat: sampling, shaping, tokens of the
              ancestors, sharpness
    table     int32 words of the Batch; rows from index `n` on are not written. Each row uses the
              sampling parameters of its sequence, and the noise of the position after its own
    out       int32 [rows, plan.out_words], contiguous, written; may be a view of the field `choice`
              or `row_dist` of an engine's memory
    shaping   dense lists of every seat, if plan.shaped. A captured launch always reads these
              tensors. Rows whose sequence does not change logits do not read them
    ids       int32 [vocab], ascending, if plan.trimmed: the token of each column. Noise, shaping
              and the candidates of a Dist use the token, not the column
    scores    if plan.keeps: memory for the scores of rows that use rejection sampling

    Returns `out`. Allocates nothing. It makes one launch, plus one for shaping, one for bad words,
    and those of `find_cut` if tokens are filtered. Raises ValueError on invalid tensors.
    """
    _check(logits, sequence, table, plan, out, shaping, ids)
    _check_scores(scores, plan)
    shaped = logits
    if shaping is not None:
        shaped = shape_logits(
            logits, sequence, table, shaping, out=work.shaped, first_row=plan.first_row, ids=ids
        )
    if plan.cuts:
        find_cut(
            shaped, sequence, table, work=work.of_cut, out=work.cut, first_row=plan.first_row,
            chunk=plan.chunk,
        )  # fmt: skip
    _choose_kernel[(plan.rows, plan.splits)](
        *(logits, logits.stride(0), shaped, shaped.stride(0), work.cut),
        *(work.token if ids is None else ids, sequence, table),
        *(work.score, work.token, work.stat, work.counters),
        *(work.stat if scores is None else scores.rows, out, plan.first_row, plan.vocab),
        *((0, 0) if scores is None else (scores.rows.shape[1], scores.tail_slots)),
        **constants(plan),
        num_warps=plan.num_warps,
        enable_fp_fusion=False,
        maxnreg=TWO_PROGRAMS,
    )
    if scores is not None and plan.dists:
        rate(sequence, table, scores, plan=plan, work=work, out=out)
    return out


def constants(plan: ChoosePlan) -> dict[str, object]:
    """Return the kernel's compile-time arguments for a plan."""
    return plan.sizes() | {
        "PICKS": PICKS[plan.dists],
        "DISTS": plan.dists,
        "HAS_SHAPED": plan.shaped,
        "HAS_CUT": plan.cuts,
        "THINS": plan.filtered and plan.dists and not plan.keeps,
        "HAS_IDS": plan.trimmed,
        "KEEPS": plan.keeps,
    }


def choose_torch(
    logits: torch.Tensor,
    sequence: torch.Tensor,
    table: torch.Tensor,
    *,
    plan: ChoosePlan,
    work: ChooseWork,
    out: torch.Tensor,
    shaping: Shaping | None = None,
    ids: torch.Tensor | None = None,
    scores: Scores | None = None,
) -> torch.Tensor:
    """Plain-torch twin of `choose`: same arguments, effects and errors, any device."""
    _check(logits, sequence, table, plan, out, shaping, ids)
    _check_scores(scores, plan)
    first, shaped = plan.first_row, logits
    if shaping is not None:
        shaped = shape_logits_torch(
            logits, sequence, table, shaping, out=work.shaped, first_row=first, ids=ids
        )
    tokens = torch.arange(plan.vocab, device=logits.device) if ids is None else ids.long()
    if plan.cuts:
        find_cut_torch(shaped, sequence, table, out=work.cut, first_row=first)
    given = struct(Batch, table)
    for i in range(min(plan.rows, given.n - first)):
        row = given.row[first + i]
        asked = Asked(plan, row, given.head[row.seat], of_seat(sequence, row.seat), tokens, scores)
        choose_row(asked, logits[i].float(), shaped[i].float(), work.cut[i : i + 1], out[i])
    return out


def _check_scores(scores: Scores | None, plan: ChoosePlan) -> None:
    if (scores is not None) != plan.keeps:
        raise ValueError(f"scores: expected them with plan.keeps alone, which is {plan.keeps}")
    if scores is None:
        return
    rows = scores.rows
    fits = rows.dim() == 3 and rows.shape[2] == plan.vocab and rows.is_contiguous()
    if not fits or rows.dtype != torch.float32:
        raise ValueError(
            f"scores: expected contiguous float32 [seats, rows, {plan.vocab}] but got "
            f"{rows.dtype} {tuple(rows.shape)}"
        )


def _check(
    logits: torch.Tensor,
    sequence: torch.Tensor,
    table: torch.Tensor,
    plan: ChoosePlan,
    out: torch.Tensor,
    shaping: Shaping | None,
    ids: torch.Tensor | None,
) -> None:
    check_words("sequence", sequence, Sequence)
    check_words("table", table, Batch)
    if tuple(logits.shape) != (plan.rows, plan.vocab) or logits.stride(1) != 1:
        raise ValueError(
            f"logits: expected contiguous rows ({plan.rows}, {plan.vocab}) but got "
            f"{tuple(logits.shape)}, stride {logits.stride(-1)}"
        )
    expected = (plan.rows, plan.out_words)
    if tuple(out.shape) != expected or out.dtype != torch.int32 or not out.is_contiguous():
        raise ValueError(
            f"out: expected contiguous int32 {expected} but got {out.dtype} {tuple(out.shape)}"
        )
    if (shaping is not None) != plan.shaped:
        raise ValueError(f"shaping: expected it with plan.shaped alone, which is {plan.shaped}")
    if (ids is not None) != plan.trimmed:
        raise ValueError(f"ids: expected them with plan.trimmed alone, which is {plan.trimmed}")
    check_ids(ids, plan.vocab)
