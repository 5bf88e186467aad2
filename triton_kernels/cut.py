"""Finds which tokens of a row min-p, top-k and top-p keep, without sorting.

The public op is `find_cut`. Its twin in plain torch is `find_cut_torch`. The result is called a
cut: the last token (logit, id) that is kept, in the order (logit descending, id ascending). Order
and formulas are those of csrc/ops/choose.h.

The kernels find the cut by radix selection. Each logit becomes a 32-bit key of the same order. A
key has three digits of 11, 11 and 10 bits (radix.py). For each digit, every program adds its chunk
to two histograms of the row: numbers of tokens, and sums of weights. The last program of the row to
finish finds the bin in which the running sum reaches the wanted value.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from .noise import exp32_torch
from .radix import (
    ABOVE,
    BAD_KEY,
    BAR,
    DONE,
    MODE,
    MOST,
    NO_KEY,
    PREFIX,
    ROW_BINS,
    ROW_STATE,
    SHIFTS,
    TIES,
    TOP_K,
    TOP_P,
    WANTED,
    CutWork,
    _digit_kernel,
    bin_after,
    bins_of,
    chunk_of,
    clear,
    key_of,
    least_key,
    logit_of,
    reaching,
)
from .state import Batch, Sampling, check_words, of_seat, size, struct
from .words import TABLE_N, arrived_last, sequence_of

# Words per row: largest logit, last kept logit (both as float32 bits), last kept id, unused.
CUT_WORDS = 4
ALL_IDS = 2**31 - 1  # the last id of a cut that keeps all tokens with the last logit
# The digits in the order of the passes. With top-k or top-p alone the first three passes suffice.
# With both, top-p follows top-k. The first digit's histogram serves both, so top-p needs only two
# more passes.
DIGITS = (0, 1, 2, 1, 2)
LAUNCHES = len(DIGITS) + 2

_ALL_IDS = tl.constexpr(ALL_IDS)
_GROUP = tl.constexpr(64)  # the first pass reduces this many tokens to their largest logit


@triton.jit
def _begin_cut_kernel(
    Logits,  # [rows, vocab]
    logits_stride,
    Dist,  # [seats, words] the sequences, or [words] one Sampling
    Table,  # [words] Batch
    State,  # [rows, 8] written
    Tokens,  # [rows, 2, 2048] histograms
    Parts,  # [rows, SPLITS] scratch
    Counters,  # [rows] counts of programs that arrived; 0 before and after a launch
    Cut,  # [rows, 4] written with a cut that keeps everything
    first_row,
    vocab,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_UP: tl.constexpr,  # SPLITS, rounded up to a power of two
):
    """One program per row and chunk: finds the largest logit, and a threshold that at least top_k
    tokens reach.

    The kernel counts only the largest logit of each GROUP of tokens, in the bins of the first
    digit. The threshold is the lower end of the bin in which the count, from the highest bin down,
    reaches top_k.
    bytes = rows * vocab * size
    """
    i_row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    if first_row + i_row >= tl.load(Table + TABLE_N):
        return
    Dist = sequence_of(Dist, Table, first_row + i_row)
    key = key_of(chunk_of(Logits + i_row * logits_stride, split * CHUNK, vocab, CHUNK))
    top_k = tl.load(Dist + 3)
    p_tokens = Tokens + (i_row * 2 + 1) * ROW_BINS
    largest = tl.max(tl.reshape(key, (CHUNK // _GROUP, _GROUP)), axis=1)
    if top_k > 0:
        p_bin = p_tokens + (largest >> 21).to(tl.int32)
        tl.atomic_add(p_bin, 1, mask=largest > NO_KEY, sem="relaxed")
    tl.store(Parts + i_row * SPLITS + split, tl.max(largest, axis=0).to(tl.int64))
    if arrived_last(Counters + i_row, SPLITS):
        o = tl.arange(0, SPLITS_UP)
        p_part = Parts + i_row * SPLITS + o
        part = tl.load(p_part, mask=o < SPLITS, other=0, cache_modifier=".cg")
        most = tl.max(part, axis=0)
        temperature = tl.load(Dist).to(tl.float32, bitcast=True)
        min_p = tl.load(Dist + 1).to(tl.float32, bitcast=True)
        top_p = tl.load(Dist + 2).to(tl.float32, bitcast=True)
        n = reaching(bins_of(p_tokens), top_k.to(tl.int64))
        tl.debug_barrier()  # all threads have read the histogram before it is cleared
        clear(p_tokens)
        bar = tl.where((top_k > 0) & (n < ROW_BINS), bin_after(n).to(tl.int64) << 21, 0)
        mode = tl.where(top_k > 0, TOP_K, tl.where(top_p < 1, TOP_P, DONE))
        sane = (temperature > 0) & (most > NO_KEY) & (most < BAD_KEY)
        if sane & (min_p > 0):
            bar = tl.maximum(bar, least_key(most, temperature, min_p))
        p_state = State + i_row * ROW_STATE
        tl.store(p_state + MODE, tl.where(sane, mode, DONE).to(tl.int64))
        tl.store(p_state + PREFIX, tl.zeros((), tl.int64))
        tl.store(p_state + ABOVE, tl.zeros((), tl.int64))
        tl.store(p_state + MOST, most)
        tl.store(p_state + BAR, bar)
        p_cut = Cut + i_row * 4
        tl.store(p_cut, logit_of(most.to(tl.uint32)).to(tl.int32, bitcast=True))
        tl.store(p_cut + 1, tl.full((), float("-inf"), tl.float32).to(tl.int32, bitcast=True))
        tl.store(p_cut + 2, tl.zeros((), tl.int32) + _ALL_IDS)


@triton.jit
def _end_cut_kernel(
    Logits,  # [rows, vocab]
    logits_stride,
    Table,  # [words] Batch
    State,  # [rows, 8] read
    Tokens,  # [rows, 2, 2048] histograms; the kernel clears those of the first digit
    Units,  # [rows, 2, 2048]
    Parts,  # [rows, SPLITS] scratch
    Counters,  # [rows] programs that arrived; 0 before and after a launch
    Cut,  # [rows, 4] the last id is written, unless all ties are kept
    first_row,
    vocab,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_UP: tl.constexpr,
):
    """One program per row and chunk. Several tokens may have the last logit that is kept (ties).
    The kernel finds the largest id of these tokens that is kept.

    Tokens with the same logit have the same weight, so min-p keeps all of them or none.
    bytes = rows * vocab * size, 0 for rows that keep all ties
    """
    i_row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    if first_row + i_row >= tl.load(Table + TABLE_N):
        return
    if split == 0:
        clear(Tokens + i_row * 2 * ROW_BINS)
        clear(Units + i_row * 2 * ROW_BINS)
    p_state = State + i_row * ROW_STATE
    if tl.load(p_state + MODE) != TIES:
        return
    p_logits = Logits + i_row * logits_stride
    of_ties = tl.load(p_state + PREFIX).to(tl.uint32)
    wanted = tl.load(p_state + WANTED)
    key = key_of(chunk_of(p_logits, split * CHUNK, vocab, CHUNK))
    ties = tl.sum((key == of_ties).to(tl.int64), axis=0)
    tl.store(Parts + i_row * SPLITS + split, ties)
    if arrived_last(Counters + i_row, SPLITS):
        o = tl.arange(0, SPLITS_UP)
        p_part = Parts + i_row * SPLITS + o
        part = tl.load(p_part, mask=o < SPLITS, other=0, cache_modifier=".cg")
        before = tl.sum((tl.cumsum(part, axis=0) < wanted).to(tl.int32), axis=0)
        wanted -= tl.sum(tl.where(o < before, part, 0), axis=0)
        key = key_of(chunk_of(p_logits, before * CHUNK, vocab, CHUNK))
        ids = before * CHUNK + tl.arange(0, CHUNK)
        is_tie = (key == of_ties).to(tl.int32)
        found = (is_tie != 0) & (tl.cumsum(is_tie, axis=0) == wanted)
        tl.store(Cut + i_row * 4 + 2, tl.max(tl.where(found, ids, 0), axis=0))


def find_cut(
    logits: torch.Tensor,
    sampling: torch.Tensor,
    table: torch.Tensor,
    *,
    work: CutWork,
    out: torch.Tensor,
    first_row: int = 0,
    chunk: int = 4096,
) -> torch.Tensor:
    """Write for every row its largest logit and the last token that its filters keep.

    logits    [rows, vocab]  float16, bfloat16 or float32, after shaping
    sampling  int32 words of the sequences, one for each seat. A sequence begins with its Sampling.
              If all rows belong to the first seat, the words of one Sampling are enough
    table     int32 words of the Batch; rows from index `n` on are not written
    work      memory for at least this number of rows and chunks
    out       [rows, 4] int32, written: the largest logit and the last kept logit, both as float32
              bits, and the last kept id. At temperature 0, and for a row with NaN or +inf, the cut
              keeps everything

    Returns `out`. Allocates nothing. It makes LAUNCHES launches; programs with nothing to find end
    immediately. Raises ValueError on invalid tensors.
    """
    _check(logits, sampling, table, out)
    rows, vocab = logits.shape
    splits = triton.cdiv(vocab, chunk)
    sizes = constants(chunk, splits)
    how = {"num_warps": num_warps(chunk), "enable_fp_fusion": False}
    grid, read = (rows, splits), (logits, logits.stride(0))
    last = (work.parts, work.counters, out, first_row, vocab)
    _begin_cut_kernel[grid](*read, sampling, table, work.state, work.tokens, *last, **sizes, **how)
    for digit in DIGITS:
        _digit_kernel[grid](
            *(*read, sampling, table, work.state, work.tokens, work.units, *last),
            DIGIT=digit,
            SHIFT=SHIFTS[digit],
            **sizes,
            **how,
        )
    work_of_end = (work.state, work.tokens, work.units)
    _end_cut_kernel[grid](*read, table, *work_of_end, *last, **sizes, **how)
    return out


def constants(chunk: int, splits: int) -> dict[str, object]:
    """Return the compile-time arguments that all the kernels share."""
    return {"CHUNK": chunk, "SPLITS": splits, "SPLITS_UP": triton.next_power_of_2(splits)}


def num_warps(chunk: int) -> int:
    """Warps of a program."""
    return min(8, max(1, chunk // 512))


def find_cut_torch(
    logits: torch.Tensor,
    sampling: torch.Tensor,
    table: torch.Tensor,
    *,
    out: torch.Tensor,
    work: CutWork | None = None,
    first_row: int = 0,
    chunk: int = 4096,
) -> torch.Tensor:
    """Plain-torch twin of `find_cut`: same effects and errors, any device. It sorts, and does not
    use `work`."""
    _check(logits, sampling, table, out)
    given = struct(Batch, table)
    for i in range(min(logits.shape[0], given.n - first_row)):
        s = struct(Sampling, of_seat(sampling, given.row[first_row + i].seat)[: size(Sampling)])
        x = logits[i].float()
        most, last, last_id = x.max(), torch.tensor(float("-inf")), ALL_IDS
        if s.temperature > 0 and most.isfinite() and bool((x < float("inf")).all()):
            last, last_id = _last(x, most, s)
        bits = torch.stack([most.cpu(), last.cpu()]).view(torch.int32)
        out[i, :2] = bits.to(out.device)
        out[i, 2] = last_id
    return out


def _last(x: torch.Tensor, most: torch.Tensor, s: Sampling) -> tuple[torch.Tensor, int]:
    """Return the last token (logit, id) that is kept. The id is ALL_IDS if all tokens with this
    logit are kept."""
    weight = exp32_torch((x - most) / s.temperature)
    ids = torch.sort(x, descending=True, stable=True).indices
    ids = ids[(x[ids] > float("-inf")) & (weight[ids] >= s.min_p)]
    n = s.top_k if 0 < s.top_k <= len(ids) else len(ids)
    if s.top_p < 1:
        sums = torch.round(weight[ids[:n]].double() * 2**40).long().cumsum(0)
        n = int((sums < _enough_torch(s.top_p, int(sums[-1]))).sum()) + 1
    elif not 0 < s.top_k <= len(ids):
        return torch.tensor(float("-inf")), ALL_IDS
    has_more = n < len(ids) and x[ids[n]] == x[ids[n - 1]]
    return x[ids[n - 1]] + 0.0, int(ids[n - 1]) if has_more else ALL_IDS


def _enough_torch(top_p: float, total: int) -> int:
    """Return the sum of weights that top-p must reach: top_p * `total`, rounded up. Weights are
    integers in units of 2^-40. The result is at least 1, so at least one token is kept."""
    return max(1, math.ceil(top_p * float(total)))


def _check(
    logits: torch.Tensor, sampling: torch.Tensor, table: torch.Tensor, out: torch.Tensor
) -> None:
    check_words("sampling", sampling, Sampling)
    check_words("table", table, Batch)
    if logits.dim() != 2 or logits.stride(1) != 1:
        raise ValueError(f"logits: expected [rows, vocab], contiguous but got {logits.shape}")
    if tuple(out.shape) != (logits.shape[0], CUT_WORDS) or out.dtype != torch.int32:
        raise ValueError(
            f"out: expected int32 ({logits.shape[0]}, {CUT_WORDS}) but got {out.dtype} "
            f"{tuple(out.shape)}"
        )
