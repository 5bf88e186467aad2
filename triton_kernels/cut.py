"""Which tokens min-p, top-k and top-p leave of a row, as a cut: no sort, no list.

The public op is `find_cut`, its plain-torch twin `find_cut_torch`. In the order (logit
descending, id ascending) the tokens that are left are those of min-p down to a last one, (logit,
id). It is found by halving: of the logits' order as 32-bit keys, WAYS thresholds a pass, then of
the ids of a tie. Order and formulas are those of csrc/ops/choose.h; sums are in float64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .control import RowTable, Sampling, check_words, struct
from .noise import exp32, exp32_torch
from .words import TABLE_N

CUT_WORDS = 4  # of a row: largest logit, last logit (both float32 bits), last id, unused
WAYS = 8  # thresholds of a pass


@triton.jit
def _sortable(x):
    """A float32 as uint32 in the same order; both zeros alike."""
    bits = (x + 0.0).to(tl.uint32, bitcast=True)
    return bits ^ tl.where(bits >= 0x80000000, 0xFFFFFFFF, 0x80000000).to(tl.uint32)


@triton.jit
def _unsortable(key):
    """The float32 of a key."""
    bits = key ^ tl.where(key >= 0x80000000, 0x80000000, 0xFFFFFFFF).to(tl.uint32)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _candidates(
    p_logits, start, vocab, most, temperature, min_p, last_key, last_id, CHUNK: tl.constexpr
):
    """(key, weight, is left) of a chunk: by min_p, and not behind the last one so far."""
    o = start + tl.arange(0, CHUNK)
    x = tl.load(p_logits + o, mask=o < vocab, other=float("-inf")).to(tl.float32)
    x = tl.where(x < float("inf"), x, float("-inf"))  # a NaN is an error: `choose` says so
    weight = exp32(tl.div_rn(x - most, temperature + tl.zeros_like(x)))
    key = _sortable(x)
    left = (x > float("-inf")) & (weight >= min_p)
    left = left & ((key > last_key) | ((key == last_key) & (o <= last_id)))
    return o, key, weight, left


@triton.jit
def _sums(
    p_logits, vocab, most, temperature, min_p, last_key, last_id, thresholds,
    BY_WEIGHT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Of every threshold: the number, or the weight, of what is left with key >= threshold."""
    sums = tl.zeros(thresholds.shape, tl.float64)
    for start in range(0, vocab, CHUNK):
        _, key, weight, left = _candidates(
            p_logits, start, vocab, most, temperature, min_p, last_key, last_id, CHUNK
        )
        value = tl.where(left, weight, 0.0) if BY_WEIGHT else left.to(tl.float32)
        above = key.to(tl.int64)[:, None] >= thresholds[None, :]
        sums += tl.sum(tl.where(above, value[:, None], 0.0).to(tl.float64), axis=0)
    return sums


@triton.jit
def _last_key(
    p_logits, vocab, most, temperature, min_p, last_key, last_id, enough,
    BY_WEIGHT: tl.constexpr, CHUNK: tl.constexpr, WAYS: tl.constexpr,
):  # fmt: skip
    """The largest key from which up there is enough, and the sum from the next key up."""
    o_way = tl.arange(0, WAYS)
    low = tl.zeros((), tl.int64)  # from here up there is enough
    high = _sortable(most).to(tl.int64) + 1  # from here up there is not
    above = tl.zeros((), tl.float64)  # the sum from `high` up
    while high - low > 1:
        thresholds = low + (high - low) * (o_way + 1) // (WAYS + 1)
        sums = _sums(
            p_logits, vocab, most, temperature, min_p, last_key, last_id, thresholds,
            BY_WEIGHT, CHUNK,
        )  # fmt: skip
        reaches = sums >= enough
        low = tl.maximum(low, tl.max(tl.where(reaches, thresholds, 0), axis=0))
        first = tl.min(tl.where(reaches, high, thresholds), axis=0)
        above = tl.where(
            first < high, tl.max(tl.where(thresholds == first, sums, 0.0), axis=0), above
        )
        high = tl.minimum(high, first)
    return low, above


@triton.jit
def _last_of_tie(
    p_logits, vocab, most, temperature, min_p, last_key, last_id, key_of_tie, wanted,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Id of the `wanted`-th token that is left among those of a key."""
    found = tl.zeros((), tl.int32)
    before = tl.zeros((), tl.int32)
    for start in range(0, vocab, CHUNK):
        if before < wanted:
            o, key, _, left = _candidates(
                p_logits, start, vocab, most, temperature, min_p, last_key, last_id, CHUNK
            )
            ties = (left & (key.to(tl.int64) == key_of_tie)).to(tl.int32)
            count = tl.cumsum(ties, axis=0) + before
            inside = (ties != 0) & (count <= wanted)
            found = tl.maximum(found, tl.max(tl.where(inside, o, 0), axis=0))
            before += tl.sum(ties, axis=0)
    return found


@triton.jit
def _find_cut_kernel(
    Logits,  # [rows, vocab]
    logits_stride,
    Law,  # [words] Sampling
    Table,  # [words] RowTable
    Cut,  # [rows, 4] written: what is left is behind min_p and not behind (last logit, last id)
    first_row,
    vocab,
    CHUNK: tl.constexpr,
    WAYS: tl.constexpr,
):
    """One program per row.  bytes = rows * vocab * size * (1 + 11 passes a filter)"""
    i_row = tl.program_id(0).to(tl.int64)
    if first_row + i_row >= tl.load(Table + TABLE_N):
        return
    p_logits = Logits + i_row * logits_stride
    most = tl.full((CHUNK,), float("-inf"), tl.float32)
    for start in range(0, vocab, CHUNK):
        o = start + tl.arange(0, CHUNK)
        x = tl.load(p_logits + o, mask=o < vocab, other=float("-inf")).to(tl.float32)
        most = tl.maximum(most, x)
    most = tl.max(most, axis=0)
    temperature = tl.load(Law).to(tl.float32, bitcast=True)
    min_p = tl.load(Law + 1).to(tl.float32, bitcast=True)
    top_p = tl.load(Law + 2).to(tl.float32, bitcast=True)
    top_k = tl.load(Law + 3)
    last_key = tl.zeros((), tl.int64)
    last_id = tl.zeros((), tl.int32) + 2147483647
    sane = (temperature > 0) & (most > float("-inf")) & (most < float("inf"))
    if sane:
        o_all = tl.zeros((WAYS,), tl.int64)
        left = tl.max(
            _sums(
                p_logits, vocab, most, temperature, min_p, last_key, last_id, o_all, False, CHUNK
            ),
            axis=0,
        )  # fmt: skip
        if (top_k > 0) & (top_k < left):
            key, above = _last_key(
                p_logits, vocab, most, temperature, min_p, last_key, last_id,
                top_k.to(tl.float64), False, CHUNK, WAYS,
            )  # fmt: skip
            wanted = (top_k.to(tl.float64) - above).to(tl.int32)
            last_id = _last_of_tie(
                p_logits, vocab, most, temperature, min_p, last_key, last_id, key, wanted, CHUNK
            )
            last_key = key
        if top_p < 1:
            total = tl.max(
                _sums(
                    p_logits, vocab, most, temperature, min_p, last_key, last_id, o_all,
                    True, CHUNK,
                ),
                axis=0,
            )  # fmt: skip
            enough = top_p.to(tl.float64) * total
            key, above = _last_key(
                p_logits, vocab, most, temperature, min_p, last_key, last_id, enough,
                True, CHUNK, WAYS,
            )  # fmt: skip
            logit = _unsortable(key.to(tl.uint32))
            weight = exp32(tl.div_rn(logit - most, temperature)).to(tl.float64)
            wanted = tl.maximum(tl.ceil((enough - above) / weight), 1.0).to(tl.int32)
            last_id = _last_of_tie(
                p_logits, vocab, most, temperature, min_p, last_key, last_id, key, wanted, CHUNK
            )
            last_key = key
    last = _unsortable(last_key.to(tl.uint32))
    last = tl.where(last_key == 0, float("-inf"), last)
    p_cut = Cut + i_row * 4
    tl.store(p_cut, most.to(tl.int32, bitcast=True))
    tl.store(p_cut + 1, last.to(tl.int32, bitcast=True))
    tl.store(p_cut + 2, last_id)


def find_cut(
    logits: torch.Tensor,
    sampling: torch.Tensor,
    table: torch.Tensor,
    *,
    out: torch.Tensor,
    first_row: int = 0,
    chunk: int = 4096,
) -> torch.Tensor:
    """Write of every row its largest logit and the last token that its filters leave.

    logits    [rows, vocab]  float16, bfloat16 or float32, after shaping
    sampling  int32 words of a Sampling, or of a control block, which begins with one
    table     int32 words of the RowTable; rows from its n on are not written
    out       [rows, 4] int32, written: float32 bits of the largest and of the last logit, last id;
              at temperature 0, and for a row of NaN, everything is left

    Returns `out`. Allocates nothing. Raises ValueError on tensors that cannot be.
    """
    _check(logits, sampling, table, out)
    _find_cut_kernel[(logits.shape[0],)](
        *(logits, logits.stride(0), sampling, table, out, first_row, logits.shape[1]),
        CHUNK=chunk,
        WAYS=WAYS,
        num_warps=16,
        enable_fp_fusion=False,
    )
    return out


def find_cut_torch(
    logits: torch.Tensor,
    sampling: torch.Tensor,
    table: torch.Tensor,
    *,
    out: torch.Tensor,
    first_row: int = 0,
) -> torch.Tensor:
    """The twin of `find_cut` in plain torch, by sorting: same effects and errors, any device."""
    _check(logits, sampling, table, out)
    s = struct(Sampling, sampling[:8])
    for i in range(min(logits.shape[0], struct(RowTable, table).n - first_row)):
        x = logits[i].float()
        most, last, last_id = x.max(), torch.tensor(float("-inf")), 2**31 - 1
        if s.temperature > 0 and most.isfinite():
            ids = _left(x, most, s)
            if len(ids) < len(x):
                last, last_id = x[ids[-1]], int(ids[-1])
        bits = torch.stack([most.cpu(), last.cpu()]).view(torch.int32)
        out[i, :2] = bits.to(out.device)
        out[i, 2] = last_id
    return out


def _left(x: torch.Tensor, most: torch.Tensor, s: Sampling) -> torch.Tensor:
    """Ids that are left, best first."""
    weight = exp32_torch((x - most) / s.temperature)
    ids = torch.sort(x, descending=True, stable=True).indices
    ids = ids[(x[ids] > float("-inf")) & (weight[ids] >= s.min_p)]
    if 0 < s.top_k < len(ids):
        ids = ids[: s.top_k]
    if s.top_p >= 1:
        return ids
    enough = s.top_p * weight[ids.sort().values].double().sum()
    reached = torch.nonzero(weight[ids].double().cumsum(0) >= enough)
    return ids[: int(reached[0]) + 1] if len(reached) else ids


def _check(
    logits: torch.Tensor, sampling: torch.Tensor, table: torch.Tensor, out: torch.Tensor
) -> None:
    check_words("sampling", sampling, Sampling)
    check_words("table", table, RowTable)
    if logits.dim() != 2 or logits.stride(1) != 1:
        raise ValueError(f"logits: expected [rows, vocab], contiguous but got {logits.shape}")
    if tuple(out.shape) != (logits.shape[0], CUT_WORDS) or out.dtype != torch.int32:
        raise ValueError(
            f"out: expected int32 ({logits.shape[0]}, {CUT_WORDS}) but got {out.dtype} "
            f"{tuple(out.shape)}"
        )
