"""Finds one digit of the key of a cut (cut.py). Many programs build the histograms of a row.

Keys are float32 logits as uint32 with the same order. The weight of a token is its unnormalised
probability, exp((logit - largest logit) / temperature). Weights are summed as int64 in units of
2^-40, so that atomics may add them in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .noise import exp32
from .words import TABLE_N, arrived_last, sequence_of

BINS = 2048  # bins per digit
STATE_WORDS = 8
SHIFTS = (21, 10, 0)  # number of bits below each of the three digits of a key

ROW_BINS = tl.constexpr(BINS)
ROW_STATE = tl.constexpr(STATE_WORDS)
# Indices of the words of a row in CutWork.state. The word MODE has one of four values: DONE, TOP_K,
# TOP_P, TIES.
MODE = tl.constexpr(0)  # what the next pass looks for
DONE = tl.constexpr(0)
TOP_K = tl.constexpr(1)
TOP_P = tl.constexpr(2)
TIES = tl.constexpr(3)
PREFIX = tl.constexpr(1)  # the digits found so far; if MODE is TIES, the whole key
# Number of tokens or of weight units that are still wanted from keys with this prefix.
WANTED = tl.constexpr(2)
ABOVE = tl.constexpr(3)  # sum of the units of all keys above the prefix
MOST = tl.constexpr(4)  # key of the largest logit
BAR = tl.constexpr(5)  # keys below it are dropped, by min_p or because top_k certainly drops them
BAD_KEY = tl.constexpr(0xFFFFFFFF)  # key of a NaN or +inf
NO_KEY = tl.constexpr(0x007FFFFF)  # key of -inf


@dataclass(frozen=True)
class CutWork:
    """Device memory of `find_cut`, allocated once. Launches that may overlap need separate memory.

    state     int64 [rows, 8]        what one launch passes to the next
    tokens    int32 [rows, 2, 2048]  histograms of tokens, by the first digit and by the current
                                     one; zero before and after a launch
    units     int64 [rows, 2, 2048]  the same histograms of weights, in units of 2^-40
    parts     int64 [rows, splits]   what each program of a row passes to the last one
    counters  int32 [rows]           programs that have arrived; zero before and after a launch
    """

    state: torch.Tensor
    tokens: torch.Tensor
    units: torch.Tensor
    parts: torch.Tensor
    counters: torch.Tensor


def cut_work(rows: int, splits: int, device: str | torch.device) -> CutWork:
    """Allocate the CutWork for `rows` rows of `splits` chunks on `device`."""
    return CutWork(
        state=torch.zeros((rows, STATE_WORDS), dtype=torch.int64, device=device),
        tokens=torch.zeros((rows, 2, BINS), dtype=torch.int32, device=device),
        units=torch.zeros((rows, 2, BINS), dtype=torch.int64, device=device),
        parts=torch.zeros((rows, splits), dtype=torch.int64, device=device),
        counters=torch.zeros(rows, dtype=torch.int32, device=device),
    )


@triton.jit
def key_of(x):
    """Returns the key of a float32: a uint32 with the same order. Both zeros have the same key. NaN
    and +inf have the largest key."""
    bits = (x + 0.0).to(tl.uint32, bitcast=True)
    key = bits ^ tl.where(bits >= 0x80000000, 0xFFFFFFFF, 0x80000000).to(tl.uint32)
    return tl.where(x < float("inf"), key, BAD_KEY).to(tl.uint32)


@triton.jit
def logit_of(key):
    """Returns the float32 that has this key."""
    bits = key ^ tl.where(key >= 0x80000000, 0x80000000, 0xFFFFFFFF).to(tl.uint32)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def units_of(weight):
    """Returns a weight from 0 to 1 as an int64 in units of 2^-40, rounded to nearest, ties to even.

    Adding 2^12 makes one unit the last bit of the float64.
    """
    return (weight.to(tl.float64) + 4096.0).to(tl.int64, bitcast=True) - 0x40B0000000000000


@triton.jit
def weight_of(x, most, temperature):
    """Returns exp((x - most) / temperature), rounded as on the CPU."""
    return exp32(tl.div_rn(x - most, temperature + tl.zeros_like(x)))


@triton.jit
def enough_of(top_p, total):
    """Returns the least sum of weights that reaches top_p of `total`, in units of 2^-40. It is at
    least 1, because the first token is always kept."""
    wanted = tl.ceil(top_p.to(tl.float64) * total.to(tl.float64)).to(tl.int64)
    return tl.maximum(wanted, 1)


@triton.jit
def chunk_of(p_logits, start, vocab, CHUNK: tl.constexpr):
    """Returns the logits [CHUNK] from token `start` on as float32; -inf beyond the vocabulary."""
    o = start + tl.arange(0, CHUNK)
    return tl.load(p_logits + o, mask=o < vocab, other=float("-inf")).to(tl.float32)


@triton.jit
def bin_after(n):
    """Returns the index of the bin below the n highest bins."""
    # With a constexpr on the left, the interpreter would return a constexpr.
    return n * -1 + (ROW_BINS - 1)


@triton.jit
def bins_of(p_bins):
    """Returns a histogram as int64, from the highest bin down. Other programs wrote the histogram,
    so loads bypass L1."""
    o = tl.arange(0, ROW_BINS)
    return tl.load(p_bins + ROW_BINS - 1 - o, cache_modifier=".cg").to(tl.int64)


@triton.jit
def reaching(bins, wanted):
    """Returns the number of highest bins whose sum stays below `wanted`."""
    return tl.sum((tl.cumsum(bins, axis=0) < wanted).to(tl.int32), axis=0)


@triton.jit
def sum_before(bins, n):
    """Returns the sum of the highest n bins."""
    return tl.sum(tl.where(tl.arange(0, ROW_BINS) < n, bins, 0), axis=0)


@triton.jit
def _next_digit(low, most_key, temperature, min_p, SHIFT: tl.constexpr):
    """Finds the least key that is at least `low` and has a weight of at least min_p. Returns this
    key with its lowest SHIFT bits set to 0.

    A bin of keys is kept if the weight of its greatest key is large enough. Keys above the key of
    the largest logit are always kept.
    """
    top = low + ((tl.arange(0, ROW_BINS).to(tl.int64) + 1) << SHIFT) - 1
    top = tl.minimum(tl.maximum(top, NO_KEY), most_key)
    most = logit_of(most_key.to(tl.uint32))
    weight = weight_of(logit_of(top.to(tl.uint32)), most, temperature)
    return low + (tl.sum((weight < min_p).to(tl.int64), axis=0) << SHIFT)


@triton.jit
def least_key(most_key, temperature, min_p):
    """Returns as int64 the least key whose weight is at least min_p > 0. A greater logit never has
    a smaller weight."""
    low = _next_digit(tl.zeros((), tl.int64), most_key, temperature, min_p, 21)
    low = _next_digit(low, most_key, temperature, min_p, 10)
    return _next_digit(low, most_key, temperature, min_p, 0)


@triton.jit
def clear(p_bins):
    """Sets a histogram to zero."""
    o = tl.arange(0, ROW_BINS)
    tl.store(p_bins + o, tl.zeros((ROW_BINS,), p_bins.dtype.element_ty))


@triton.jit
def _digit_kernel(
    Logits,  # [rows, vocab]
    logits_stride,
    Dist,  # [seats, words] the sequences, or [words] one Sampling
    Table,  # [words] Batch
    State,  # [rows, 8] read and written
    Tokens,  # [rows, 2, 2048] histograms
    Units,  # [rows, 2, 2048]
    Parts,  # [rows, SPLITS] scratch
    Counters,  # [rows] counts of programs that arrived; 0 before and after a launch
    Cut,  # [rows, 4] the last logit is written, once the last digit is known
    first_row,
    vocab,
    DIGIT: tl.constexpr,  # 0, 1, 2
    SHIFT: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_UP: tl.constexpr,
):
    """One program per row and chunk: finds one digit of the key of the last logit that is kept.

    bytes = rows * vocab * size, 0 for rows whose cut is known
    """
    i_row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    if first_row + i_row >= tl.load(Table + TABLE_N):
        return
    p_state = State + i_row * ROW_STATE
    mode = tl.load(p_state + MODE)
    if (mode == DONE) | (mode == TIES):
        return
    Dist = sequence_of(Dist, Table, first_row + i_row)
    x = chunk_of(Logits + i_row * logits_stride, split * CHUNK, vocab, CHUNK)
    key = key_of(x)
    top_p = tl.load(Dist + 2).to(tl.float32, bitcast=True)
    left = (key > NO_KEY) & (key >= tl.load(p_state + BAR).to(tl.uint32))
    if DIGIT == 0:
        digit = (key >> SHIFT).to(tl.int32)
    else:
        prefix = tl.load(p_state + PREFIX).to(tl.uint32)
        BITS: tl.constexpr = 11 if DIGIT == 1 else 10
        left = left & ((key >> (SHIFT + BITS)) == prefix)
        digit = ((key >> SHIFT) & ((1 << BITS) - 1)).to(tl.int32)
    page = (i_row * 2 + (DIGIT > 0)) * ROW_BINS
    p_bin = Tokens + page + digit
    p_unit_bin = Units + page + digit
    if DIGIT < 2:  # noqa: SIM102 (the outer condition is a compile-time constant)
        if top_p < 1:
            temperature = tl.load(Dist).to(tl.float32, bitcast=True)
            most = logit_of(tl.load(p_state + MOST).to(tl.uint32))
            weight = weight_of(x, most, temperature)
            units = tl.where(left, units_of(weight), 0)
            # Tokens below the weight `least` are never needed, because together they weigh less
            # than 1 - top_p. So the first digit sums them without atomics. Rounding to units may
            # double a weight; the factor 0.25 allows for this.
            least = tl.where(mode == TOP_P, 0.25 * (1.0 - top_p) / vocab, 0.0)
            if DIGIT == 0:
                rest = tl.sum(tl.where(weight < least, units, 0), axis=0)
                tl.store(Parts + i_row * SPLITS + split, rest)
            needed = (units > 0) & (weight >= least)
            tl.atomic_add(p_unit_bin, units.to(tl.int64), mask=needed, sem="relaxed")
    # A bin of the last digit has only one key. So its weight follows from the number of tokens.
    if (mode == TOP_K) | (DIGIT == 2):
        tl.atomic_add(p_bin, 1, mask=left, sem="relaxed")
    if arrived_last(Counters + i_row, SPLITS):
        _end_digit(
            Dist, p_state, Tokens + page, Units + page, Units + i_row * 2 * ROW_BINS,
            Parts + i_row * SPLITS, Cut + i_row * 4, DIGIT, SPLITS, SPLITS_UP,
        )  # fmt: skip


@triton.jit
def _end_digit(
    Dist, p_state, p_tokens, p_units, p_first_units, p_parts, p_cut,
    DIGIT: tl.constexpr, SPLITS: tl.constexpr, SPLITS_UP: tl.constexpr,
):  # fmt: skip
    """Finds the digit from the histograms of a row, and updates the state of the row. Other
    programs wrote the histograms."""
    temperature = tl.load(Dist).to(tl.float32, bitcast=True)
    top_p = tl.load(Dist + 2).to(tl.float32, bitcast=True)
    mode = tl.load(p_state + MODE)
    prefix = tl.load(p_state + PREFIX)
    wanted = tl.load(p_state + WANTED)
    most = logit_of(tl.load(p_state + MOST).to(tl.uint32))
    tokens = bins_of(p_tokens)
    BITS: tl.constexpr = 10 if DIGIT == 2 else 11
    if DIGIT == 2:
        keys = (prefix << BITS) + bin_after(tl.arange(0, ROW_BINS))
        # Clamp to keys that logits of this row can have.
        keys = tl.minimum(tl.maximum(keys, NO_KEY), tl.load(p_state + MOST))
        each = units_of(weight_of(logit_of(keys.to(tl.uint32)), most, temperature))
        units = tl.where(tokens > 0, tokens * each, 0)
    else:
        units = bins_of(p_units)
    if DIGIT == 0:
        if mode == TOP_K:
            wanted = tl.load(Dist + 3).to(tl.int64)
            if wanted > tl.sum(tokens, axis=0):
                mode = tl.where(top_p < 1, TOP_P, DONE).to(tl.int64)
                wanted = enough_of(top_p, tl.sum(units, axis=0))
        else:
            o = tl.arange(0, SPLITS_UP)
            rest = tl.load(p_parts + o, mask=o < SPLITS, other=0, cache_modifier=".cg")
            wanted = enough_of(top_p, tl.sum(units, axis=0) + tl.sum(rest, axis=0))
    bins = tl.where(mode == TOP_K, tokens, units)
    n = reaching(bins, wanted)
    wanted -= sum_before(bins, n)
    above = tl.load(p_state + ABOVE) + sum_before(units, n)
    prefix = (prefix << BITS) + bin_after(n)
    if DIGIT == 2:
        ties = tl.load(p_tokens + bin_after(n), cache_modifier=".cg")
        logit = logit_of(prefix.to(tl.uint32))
        unit = units_of(weight_of(logit, most, temperature))
        if (mode == TOP_K) & (top_p < 1):
            bins = bins_of(p_first_units)
            wanted = enough_of(top_p, above + wanted * unit)
            n = reaching(bins, wanted)
            wanted -= sum_before(bins, n)
            mode = tl.zeros((), tl.int64) + TOP_P
            prefix = bin_after(n).to(tl.int64)
        else:
            if mode == TOP_P:
                wanted = (wanted + unit - 1) // unit
            mode = tl.where(wanted < ties, TIES, DONE).to(tl.int64)
            tl.store(p_cut + 1, logit.to(tl.int32, bitcast=True))
    tl.debug_barrier()  # all threads have read the words that are overwritten below
    if DIGIT > 0:
        clear(p_tokens)
    if DIGIT == 1:
        clear(p_units)
    tl.store(p_state + MODE, mode)
    tl.store(p_state + PREFIX, prefix)
    tl.store(p_state + WANTED, wanted)
    tl.store(p_state + ABOVE, above)
