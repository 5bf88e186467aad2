"""Shapes a row of logits for a request, before the temperature: mask, bias, penalties.

The public op is `shape_logits`. Its twin in plain torch is `shape_logits_torch`. Order and formulas
are those of csrc/ops/shaping.h. Lists of tokens are dense tensors here, with one value per token. A
separate launch masks bad words of several tokens at the end (ban.py). Bad words may come last,
because no step restores a masked token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from .ban import (
    ACTIVE,
    BRANCH_TOKEN,
    BRANCH_WORDS,
    CHAIN_SIZE,
    CHAIN_TOKEN,
    ban_words,
    ban_words_torch,
    check_words_of,
    root_of,
)
from .state import (
    MAX_TAIL,
    SLOTS,
    Batch,
    Row,
    Sequence,
    check_words,
    mask_bits,
    of_seat,
    offset,
    struct,
)
from .words import (
    ROW_BRANCH,
    ROW_CHAIN,
    ROW_TAIL,
    ROW_WORDS,
    TABLE_N,
    TABLE_ROWS,
    has_bit,
    load_int64,
    load_unsigned,
    seat_of,
    sequence_of,
)

NO_TOKEN, ENDS = 1, 2  # bits of Shaping.mask: never sampled; ends the sequence
_SHAPING = offset(Sequence, "shaping")
_PENALISES = tl.constexpr(_SHAPING + 1)
_REPETITION = tl.constexpr(_SHAPING + 3)
_PRESENCE = tl.constexpr(_SHAPING + 4)
_FREQUENCY = tl.constexpr(_SHAPING + 5)
_ENDS_FROM = tl.constexpr(_SHAPING + 6)


@dataclass(frozen=True)
class Shaping:
    """Dense lists of requests, [seats, vocab] each. The scalars of requests are in the sequences.

    mask    uint8    1: the id is no token, or not an allowed one; 2: it ends the sequence
    bias    float32  logit_bias
    counts  int32    how often the token occurs in the trunk after the prompt
    seen    uint8    1: the token occurs in the trunk
    The next two fields have other shapes. They are None if no bad word has several tokens:
    words   int32 [seats, room]       bad words as `flat_words` makes them
    trunk   int32 [seats, positions]  tokens of the trunks; only those up to the head are read
    """

    mask: torch.Tensor
    bias: torch.Tensor
    counts: torch.Tensor
    seen: torch.Tensor
    words: torch.Tensor | None = None
    trunk: torch.Tensor | None = None

    def of(self, seat: int) -> Shaping:
        """Return the lists of one seat, without their first dimension."""
        return Shaping(*(x if x is None else x[seat] for x in vars(self).values()))


@triton.jit
def _float_word(p_word):
    return tl.load(p_word).to(tl.float32, bitcast=True)


@triton.jit
def _shape_kernel(
    Logits,  # [rows, vocab] read
    logits_stride,
    Block,  # [seats, words] the sequences
    Table,  # [words] Batch
    TokenMask,  # [seats, vocab]
    Bias,  # [seats, vocab]
    Counts,  # [seats, vocab]
    Seen,  # [seats, vocab]
    Ids,  # [vocab] the token of each column; read only with HAS_IDS
    Out,  # [rows, vocab] float32, written
    out_stride,
    seat_stride,  # elements from one seat to the next in the four tensors above
    first_row,
    vocab,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    HAS_IDS: tl.constexpr,  # False: column and token are the same
):
    """One program per row and CHUNK tokens.  Steps: mask; + bias; repetition; frequency; presence.

    If the row's sequence does not shape logits, the logits are only copied.
    Penalties count the trunk and the row's own ancestors, which its masks name. So no count has to
    be undone after a rejection.
    bytes = rows * vocab * (size + 4 + 10)
    """
    i_row = tl.program_id(0).to(tl.int64)
    if first_row + i_row >= tl.load(Table + TABLE_N):
        return
    o = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    m = o < vocab
    p_row = Table + TABLE_ROWS + (first_row + i_row) * ROW_WORDS
    position = load_int64(p_row, True) + 1  # position of the token to be sampled
    x = tl.load(Logits + i_row * logits_stride + o, mask=m, other=0.0).to(tl.float32)
    Block = sequence_of(Block, Table, first_row + i_row)
    o_token = o
    if HAS_IDS:
        o_token = tl.load(Ids + o, mask=m, other=0)
    if tl.load(Block + ACTIVE) != 0:
        at = seat_of(p_row, True).to(tl.int64) * seat_stride + o_token
        kinds = tl.load(TokenMask + at, mask=m, other=1)
        too_early = position < load_int64(Block + _ENDS_FROM, True)
        x = tl.where(((kinds & 1) != 0) | (((kinds & 2) != 0) & too_early), float("-inf"), x)
        x += tl.load(Bias + at, mask=m, other=0.0)
        if tl.load(Block + _PENALISES) != 0:
            count = tl.load(Counts + at, mask=m, other=0)
            seen = tl.load(Seen + at, mask=m, other=0) != 0
            extra = tl.zeros((CHUNK,), tl.int32)
            # The root's bit may be above bit 0, because a draft's KV may lag the trunk. Higher bits
            # are nodes.
            root = root_of(Block, Table, p_row)
            chain_low = load_unsigned(p_row + ROW_CHAIN, True)
            chain_high = load_unsigned(p_row + ROW_CHAIN + 1, True)
            hung = tl.load(Block + CHAIN_SIZE)
            o_bit = tl.arange(0, SLOTS)
            in_chain = has_bit(chain_low, chain_high, o_bit) != 0
            if (chain_low | chain_high) != 0:
                for bit in range(root + 1, tl.max(tl.where(in_chain, o_bit, 0), axis=0) + 1):
                    if has_bit(chain_low, chain_high, bit + tl.zeros((), tl.int32)) != 0:
                        node = bit - root
                        p_token = Block + tl.where(node <= hung, CHAIN_TOKEN, BRANCH_TOKEN) + node
                        extra += (o_token == tl.load(p_token)).to(tl.int32)
            tail_low = load_unsigned(p_row + ROW_TAIL, True)
            tail_high = load_unsigned(p_row + ROW_TAIL + 1, True)
            if (tail_low | tail_high) != 0:
                p_tail = Block + BRANCH_TOKEN + tl.load(p_row + ROW_BRANCH) * BRANCH_WORDS
                in_tail = has_bit(tail_low, tail_high, o_bit) != 0
                for bit in range(0, tl.max(tl.where(in_tail, o_bit, 0), axis=0) + 1):
                    if has_bit(tail_low, tail_high, bit + tl.zeros((), tl.int32)) != 0:
                        extra += (o_token == tl.load(p_tail + bit)).to(tl.int32)
            count += extra
            repetition = _float_word(Block + _REPETITION)
            y = tl.where(x > 0, tl.div_rn(x, repetition + tl.zeros_like(x)), x * repetition)
            y = y - _float_word(Block + _FREQUENCY) * count.to(tl.float32)
            y = tl.where(count > 0, y - _float_word(Block + _PRESENCE), y)
            x = tl.where(seen | (extra > 0), y, x)
    tl.store(Out + i_row * out_stride + o, x, mask=m)


def shape_logits(
    logits: torch.Tensor,
    sequence: torch.Tensor,
    table: torch.Tensor,
    shaping: Shaping,
    *,
    out: torch.Tensor,
    first_row: int = 0,
    ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Set `out` to the logits as each row's request shapes them.

    logits   [rows, vocab]  float16, bfloat16 or float32; row i is row first_row + i of the table
    sequence  int32 words of the sequences, one for each seat
    table    int32 words of the Batch of this forward
    out      [rows, vocab]  float32, written, except rows from index `n` of the Batch on
    ids      int32 [vocab]: the token of each column. A request's bias and mask name tokens
    Penalties of a row also count the row's own ancestors. A row whose sequence does not shape
    logits is copied.

    Returns `out`. Allocates nothing. Raises ValueError on invalid tensors.
    """
    _check(logits, sequence, table, shaping, out, ids)
    rows, vocab = logits.shape
    _shape_kernel[(rows, triton.cdiv(vocab, 1024))](
        *(logits, logits.stride(0), sequence, table),
        *(shaping.mask, shaping.bias, shaping.counts, shaping.seen),
        *(shaping.counts if ids is None else ids,),
        *(out, out.stride(0), shaping.mask.stride(0), first_row, vocab),
        CHUNK=1024,
        SLOTS=SLOTS,
        HAS_IDS=ids is not None,
        num_warps=4,
        enable_fp_fusion=False,
    )
    if shaping.words is not None and shaping.trunk is not None:
        ban_words(
            sequence, table, shaping.words, shaping.trunk, out=out, first_row=first_row, ids=ids
        )
    return out


def shape_logits_torch(
    logits: torch.Tensor,
    sequence: torch.Tensor,
    table: torch.Tensor,
    shaping: Shaping,
    *,
    out: torch.Tensor,
    first_row: int = 0,
    ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Plain-torch twin of `shape_logits`: same arguments, effects and errors, any device."""
    _check(logits, sequence, table, shaping, out, ids)
    given, sequences = struct(Batch, table), cache(lambda s: struct(Sequence, of_seat(sequence, s)))
    tokens = torch.arange(logits.shape[1], device=logits.device) if ids is None else ids.long()
    for i in range(min(logits.shape[0], given.n - first_row)):
        row = given.row[first_row + i]
        c, own = sequences(row.seat), shaping.of(row.seat)
        if not c.shaping.active:
            out[i] = logits[i].float()
            continue
        masked = (own.mask & NO_TOKEN).bool()
        if row.position + 1 < c.shaping.ends_from:
            masked |= (own.mask & ENDS).bool()
        x = logits[i].float().masked_fill(masked[tokens], float("-inf")) + own.bias[tokens]
        path = path_of(c, given.head[row.seat], row)
        out[i] = _penalised(x, tokens, c, path, own) if c.shaping.penalises else x
        if own.words is not None and own.trunk is not None:
            ban_words_torch(out[i], own.words, own.trunk[: c.head + 1], path, tokens)
    return out


def path_of(c: Sequence, table_head: int, row: Row) -> list[int]:
    """Return the tokens after the root up to the row's own token."""
    root, chain, tail = c.head - table_head, mask_bits(row.chain), mask_bits(row.tail)
    nodes = [bit - root for bit in range(root + 1, SLOTS) if chain >> bit & 1]
    hung, certain = c.chain.token, c.branches[0].token
    tokens = [hung[node] if node <= c.chain.size else certain[node] for node in nodes]
    return tokens + [c.branches[row.branch].token[j] for j in range(MAX_TAIL) if tail >> j & 1]


def _penalised(
    x: torch.Tensor, tokens: torch.Tensor, c: Sequence, path: list[int], shaping: Shaping
) -> torch.Tensor:
    s, extra = c.shaping, torch.zeros_like(shaping.counts)
    for token in path:
        if token < len(extra):  # a chain from look-up may have tokens beyond the draft's vocabulary
            extra[token] += 1
    extra = extra[tokens]
    count = shaping.counts[tokens] + extra
    y = torch.where(x > 0, x / s.repetition, x * s.repetition) - s.frequency * count.float()
    y = torch.where(count > 0, y - s.presence, y)
    return torch.where(shaping.seen[tokens].bool() | (extra > 0), y, x)


def check_ids(ids: torch.Tensor | None, columns: int) -> None:
    """Raise ValueError unless `ids` is None or has one int32 id for each column."""
    if ids is not None and (ids.dtype != torch.int32 or tuple(ids.shape) != (columns,)):
        raise ValueError(
            f"ids: expected torch.int32 ({columns},) but got {ids.dtype} {tuple(ids.shape)}"
        )


def _check(
    logits: torch.Tensor,
    sequence: torch.Tensor,
    table: torch.Tensor,
    shaping: Shaping,
    out: torch.Tensor,
    ids: torch.Tensor | None,
) -> None:
    check_words("sequence", sequence, Sequence)
    check_words("table", table, Batch)
    if logits.dim() != 2 or logits.stride(1) != 1:
        raise ValueError(f"logits: expected [rows, vocab], contiguous but got {logits.shape}")
    if out.shape != logits.shape or out.dtype != torch.float32 or out.stride(1) != 1:
        raise ValueError(
            f"out: expected float32 {tuple(logits.shape)} but got {out.dtype} {tuple(out.shape)}"
        )
    check_ids(ids, logits.shape[1])
    tokens = logits.shape[1] if ids is None else shaping.mask.shape[-1]
    seats = len(shaping.mask)
    kinds = {"mask": torch.uint8, "bias": torch.float32, "counts": torch.int32, "seen": torch.uint8}
    for name, kind in kinds.items():
        given = getattr(shaping, name)
        if given.dtype != kind or tuple(given.shape) != (seats, tokens):
            raise ValueError(
                f"{name}: expected {kind} ({seats}, {tokens}) but got {given.dtype} "
                f"{tuple(given.shape)}"
            )
        if given.stride() != shaping.mask.stride() or given.stride(1) != 1:
            raise ValueError(f"{name}: expected the strides of mask but got {given.stride()}")
    check_words_of(shaping.words, shaping.trunk)
