"""The sampling pass on the device: turns a row of logits into a token or a draft's distribution.

The public op is `choose`. Its twin in plain torch is `choose_torch`. Order, formulas and random
bits (noise.py) are those of csrc/ops/choose.h. Several programs process a row, one chunk of the
vocabulary each. A program picks the few best tokens of its chunk by float32 scores, and computes
their scores again in float64. The last program to finish a row takes the best of all picks; the
lowest id wins ties. Shaping logits (shaping.py) takes another pass over the vocabulary. Filtering
the target's tokens (cut.py) takes several; the plan says if requests may filter. A draft's
distribution is filtered only among the picks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .choose_plan import PICKS, STATS, ChoosePlan, ChooseWork
from .cut import find_cut, find_cut_torch
from .dist import SHAPES, SHARPNESS, thinned, thinned_torch, write_dist, write_dist_torch
from .noise import (
    exp32,
    exp32_torch,
    gumbel32,
    gumbel64,
    gumbel_torch,
    noise_words,
    noise_words_torch,
)
from .shaping import Shaping, check_ids, shape_logits, shape_logits_torch
from .state import (
    CANDIDATES,
    Batch,
    Dist,
    Sampling,
    Sequence,
    check_words,
    of_seat,
    size,
    struct,
)
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
_ALL_IDS = tl.constexpr(0x7FFFFFFF)
_NOTHING = tl.constexpr(-0x7F800000 << 32)  # scores above -inf have at least this value in `order`
_TAKEN = tl.constexpr(-1 << 63)


@triton.jit
def _take_first(order, o_pick, pick, picked):
    """Moves the id with the best score in `order` to picked[pick]. The lowest id wins ties.

    One reduction suffices. The high word of `order` is an int32 that sorts like the float32 score.
    The low word is the inverted id."""
    best = tl.max(order, axis=0)
    token = ((best & _ALL_IDS) ^ _ALL_IDS).to(tl.int32)
    here = (o_pick == pick) & (best >= _NOTHING)
    return tl.where(order == best, _TAKEN, order), tl.where(here, token, picked)


@triton.jit
def _take_best(score, ids, o_pick, pick, picked, picked_score):
    """Moves the best remaining score and its id to place `pick`. The lowest id wins ties."""
    best = tl.max(score, axis=0)
    none = best == float("-inf")
    token = tl.min(tl.where(score == best, ids, 2147483647), axis=0)
    here = (o_pick == pick) & (none == 0)
    picked = tl.where(here, token, picked)
    picked_score = tl.where(here, best, picked_score)
    return tl.where(ids == token, float("-inf"), score), picked, picked_score


@triton.jit
def _score_of(x, word, temperature):
    """Returns the score in float64, which decides: the logit, or logit / temperature + noise."""
    greedy = x.to(tl.float64)
    if temperature > 0:
        scaled = tl.div_rn(x, temperature + tl.zeros_like(x))
        greedy = scaled.to(tl.float64) + gumbel64(word)
    return greedy


@triton.jit
def _word_of(seed, completion, position, token):
    """Returns the random 32-bit word of each token."""
    w0, w1, w2, w3 = noise_words(seed, completion, position, (token >> 2).to(tl.uint32))
    lane = token & 3
    return tl.where(lane < 2, tl.where(lane == 0, w0, w1), tl.where(lane == 2, w2, w3))


@triton.jit
def _choose_kernel(
    Logits,  # [rows, vocab] before shaping
    logits_stride,
    Shaped,  # [rows, vocab] shaped logits, from which tokens are sampled; Logits without HAS_SHAPED
    shaped_stride,
    Cut,  # [rows, 4] written by find_cut; never touched without HAS_CUT
    Ids,  # [vocab] the token of a column; never touched without HAS_IDS
    Block,  # [seats, words] the sequences
    Table,  # [words] Batch
    Score,  # [rows, splits, KEEP] float64 scratch: this and the next two as in ChooseWork
    Token,  # [rows, splits, KEEP]
    Stat,  # [rows, splits, 6]
    Counters,  # [rows] programs that arrived; 0 before and after a launch
    Out,  # [rows, words] Choice or, with DISTS, Dist
    first_row,
    vocab,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_UP: tl.constexpr,  # SPLITS, rounded up to a power of two
    KEEP: tl.constexpr,
    PICKS: tl.constexpr,
    DISTS: tl.constexpr,
    HAS_SHAPED: tl.constexpr,
    HAS_CUT: tl.constexpr,
    THINS: tl.constexpr,  # the Dist is filtered by `thinned`
    HAS_IDS: tl.constexpr,
):
    """One program per row and CHUNK tokens.  argmax of logit / temperature + g(seed, position, id).

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
    position = load_int64(p_row, True) + 1  # position of the token to be sampled
    score = tl.where(fine, x, float("-inf"))
    if temperature > 0:
        if HAS_IDS:
            word = _word_of(seed, completion, position, tl.load(Ids + o, mask=m, other=0))
        else:
            group = (split * (CHUNK // 4) + tl.arange(0, CHUNK // 4)).to(tl.uint32)
            w0, w1, w2, w3 = noise_words(seed, completion, position, group)
            word = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (CHUNK,))
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
        if THINS:
            most = tl.max(score, axis=0)
            near = score - tl.where(most > float("-inf"), most, 0.0)
            weight = exp32(tl.div_rn(near, temperature + tl.zeros_like(score)))
            p_stat = Stat + (i_row * SPLITS + split).to(tl.int64) * _STATS
            tl.store(p_stat + 4, most)
            tl.store(p_stat + 5, tl.sum(weight, axis=0))
        score = (scaled - top) + gumbel32(word)

    # Compute float64 scores of the few tokens that can win.
    o_pick = tl.arange(0, KEEP)
    picked = tl.full((KEEP,), -1, tl.int32)
    bits = (score + 0.0).to(tl.int32, bitcast=True)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) << 32 | (o ^ _ALL_IDS)
    for pick in range(0, PICKS):
        order, picked = _take_first(order, o_pick, pick, picked)
    is_pick = picked >= 0
    if HAS_SHAPED:
        p_x = Shaped + i_row * shaped_stride
    else:
        p_x = Logits + i_row * logits_stride
    picked_x = tl.load(p_x + picked, mask=is_pick, other=0.0).to(tl.float32)
    picked_id = picked
    if HAS_IDS:
        picked_id = tl.load(Ids + picked, mask=is_pick, other=0)
    picked_word = _word_of(seed, completion, position, picked_id)
    exact = tl.where(is_pick, _score_of(picked_x, picked_word, temperature), float("-inf"))

    at = (i_row * SPLITS + split).to(tl.int64)
    tl.store(Score + at * KEEP + o_pick, exact)
    tl.store(Token + at * KEEP + o_pick, picked)
    tl.store(Stat + at * _STATS + 3, bad.to(tl.float32))
    if DISTS:
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
            Token + i_row * SPLITS * KEEP, Stat + i_row * SPLITS * _STATS, Out, i_row,
            SPLITS, SPLITS_UP, KEEP, DISTS, THINS, HAS_IDS,
        )  # fmt: skip


@triton.jit
def _merge(
    P, P_shaped, Ids, Block, Score, Token, Stat, Out, i_row, SPLITS: tl.constexpr,
    SPLITS_UP: tl.constexpr, KEEP: tl.constexpr, DISTS: tl.constexpr, THINS: tl.constexpr,
    HAS_IDS: tl.constexpr,
):  # fmt: skip
    """Writes the result of a row from the picks of its chunks. Other programs wrote the picks, so
    loads bypass L1."""
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
        score, best, best_score = _take_best(score, token, o_pick, pick, best, best_score)
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
        write_dist(p_out, P, Ids, Block, best, best_score, most, total, moment, HAS_IDS)
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
) -> torch.Tensor:
    """Sample a token from every row (Choice words), or with plan.dists write a Dist (Dist words).

    logits   [rows, vocab]  float16, bfloat16 or float32; rows may be strided, columns may not
    sequence  int32 words of the sequences, one for each seat: sampling, shaping, the ancestors'
             tokens, sharpness
    table    int32 words of the Batch; rows from index `n` on are not written. A row is sampled by
             the parameters of its sequence. Its noise belongs to the position after the row's
             position
    out      int32 [rows, plan.out_words], contiguous, written; may be a view of the block's
             `choice` or `row_dist`
    shaping  dense lists of every seat, if plan.shaped. A captured choice keeps reading these
             tensors, but only for rows whose sequence shapes logits
    ids      int32 [vocab], ascending, if plan.trimmed: the token of each column. Noise, shaping
             and the candidates of a Dist then refer to tokens, not to columns

    Returns `out`. Allocates nothing. It takes one launch, plus one for shaping, one for bad words,
    and those of `find_cut` if tokens are filtered. Raises ValueError on invalid tensors.
    """
    _check(logits, sequence, table, plan, out, shaping, ids)
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
        *(work.score, work.token, work.stat, work.counters, out),
        *(plan.first_row, plan.vocab),
        **constants(plan),
        num_warps=num_warps(plan),
        enable_fp_fusion=False,
        maxnreg=TWO_PROGRAMS,
    )
    return out


def num_warps(plan: ChoosePlan) -> int:
    """Warps of a program."""
    return min(8, max(1, plan.chunk // 512))


def constants(plan: ChoosePlan) -> dict[str, object]:
    """Return the kernel's compile-time arguments for a plan."""
    return {
        "CHUNK": plan.chunk,
        "SPLITS": plan.splits,
        "SPLITS_UP": triton.next_power_of_2(plan.splits),
        "KEEP": plan.keep,
        "PICKS": PICKS[plan.dists],
        "DISTS": plan.dists,
        "HAS_SHAPED": plan.shaped,
        "HAS_CUT": plan.cuts,
        "THINS": plan.filtered and plan.dists,
        "HAS_IDS": plan.trimmed,
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
) -> torch.Tensor:
    """Plain-torch twin of `choose`: same arguments, effects and errors, any device."""
    _check(logits, sequence, table, plan, out, shaping, ids)
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
        own = of_seat(sequence, given.row[first + i].seat)
        dist, raw, x = struct(Sampling, own[:8]), logits[i].float(), shaped[i].float()
        is_bad = not bool((raw < float("inf")).all() and (x < float("inf")).all())
        cut = work.cut[i] if plan.cuts and dist.temperature > 0 else None
        score = _scores_torch(x, tokens, dist, given.row[first + i].position + 1, cut)
        best = [] if is_bad else _best_torch(score)
        if plan.dists:
            if plan.filtered and dist.temperature > 0 and best:
                best = thinned_torch(x, dist, score, best, plan.chunk, PICKS[True])
            is_plain = dist.temperature == 0 and own[SHAPES.value] == 0
            sharpness = float(own[SHARPNESS.value].view(torch.float32))
            write_dist_torch(out[i], raw, best, None if is_plain else score, sharpness, tokens)
        else:
            error = 1 if is_bad else 2 if not best else 0
            out[i] = torch.tensor([best[0] if best else -1, error], dtype=torch.int32)
    return out


def _best_torch(score: torch.Tensor) -> list[int]:
    """Return the columns with the highest scores, best first, without those that are cut off."""
    found = torch.sort(score, descending=True, stable=True)
    values, order = found.values[:CANDIDATES].tolist(), found.indices[:CANDIDATES].tolist()
    return [t for s, t in zip(values, order, strict=True) if s > -torch.inf]


def _scores_torch(
    x: torch.Tensor, ids: torch.Tensor, dist: Sampling, position: int, cut: torch.Tensor | None
) -> torch.Tensor:
    """Return the float64 scores [vocab] that decide; -inf for tokens that are cut off."""
    if dist.temperature == 0:
        return x.double()
    words = noise_words_torch(dist.seed, dist.completion, position, ids)
    score = (x / dist.temperature).double() + gumbel_torch(words)
    if cut is None:
        return score
    most, last = cut[:2].view(torch.float32)
    left = exp32_torch((x - most) / dist.temperature) >= dist.min_p
    return torch.where(left & ((x > last) | ((x == last) & (ids <= cut[2]))), score, -torch.inf)


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
