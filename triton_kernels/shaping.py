"""Shapes a row of logits for a request, before the temperature: mask, bias, penalties.

The public op is `shape_logits`, its plain-torch twin `shape_logits_torch`. Order and formulas are
those of csrc/ops/shaping.h. Lists of tokens are dense here, one value per token. A separate launch
masks bad words last. That is safe, because nothing after a mask restores a token.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from .state import (
    MAX_TAIL,
    SLOTS,
    Batch,
    Branch,
    Row,
    Sequence,
    check_words,
    mask_bits,
    of_seat,
    offset,
    size,
    struct,
)
from .words import (
    ROW_BRANCH,
    ROW_CHAIN,
    ROW_TAIL,
    ROW_WORDS,
    SEQUENCE_WORDS,
    TABLE_N,
    TABLE_ROWS,
    has_bit,
    head_of,
    load_int64,
    load_unsigned,
    seat_of,
    sequence_of,
)

NO_TOKEN, ENDS = 1, 2  # bits of Shaping.mask
WORDS = 32  # bad words of a program
_SHAPING = offset(Sequence, "shaping")
_ACTIVE = tl.constexpr(_SHAPING)
_PENALISES = tl.constexpr(_SHAPING + 1)
_REPETITION = tl.constexpr(_SHAPING + 3)
_PRESENCE = tl.constexpr(_SHAPING + 4)
_FREQUENCY = tl.constexpr(_SHAPING + 5)
_ENDS_FROM = tl.constexpr(_SHAPING + 6)
_HEAD = tl.constexpr(offset(Sequence, "head"))
_CHAIN_SIZE = tl.constexpr(offset(Sequence, "chain", "size"))
_CHAIN_TOKEN = tl.constexpr(offset(Sequence, "chain", "token"))
_BRANCH_TOKEN = tl.constexpr(offset(Sequence, "branches") + offset(Branch, "token"))
_BRANCH_WORDS = tl.constexpr(size(Branch))


@dataclass(frozen=True)
class Shaping:
    """The dense lists of requests, [seats, vocab] each; their scalars are in the sequences.

    mask    uint8    1: no token, or not among the allowed ones; 2: ends the sequence
    bias    float32  logit_bias
    counts  int32    how often a token occurs in the trunk after the prompt
    seen    uint8    1: somewhere in the trunk
    Not over the vocabulary, and None without bad words:
    words   int32 [seats, words, tokens]  as `dense_words` makes them
    trunk   int32 [seats, positions]      the trunks' tokens; those up to the head are read
    """

    mask: torch.Tensor
    bias: torch.Tensor
    counts: torch.Tensor
    seen: torch.Tensor
    words: torch.Tensor | None = None
    trunk: torch.Tensor | None = None

    def of(self, seat: int) -> Shaping:
        """The lists of one seat, without their first dimension."""
        return Shaping(*(x if x is None else x[seat] for x in vars(self).values()))


def dense_words(words: abc.Sequence[Sequence[int]], room: tuple[int, int]) -> torch.Tensor:
    """Bad words as int32 of shape `room`, (words, tokens): each at the end of its row, padded with
    -1 in front.

    Raises ValueError if there are more, or longer ones, and on a word of no token.
    """
    longest = max(map(len, words), default=1)
    if len(words) > room[0] or longest > room[1] or not all(words):
        raise ValueError(
            f"words: expected at most {room[0]} of 1 to {room[1]} tokens but got {len(words)}, the "
            f"longest of {longest}, the shortest of {min(map(len, words), default=0)}"
        )
    dense = torch.full(room, -1, dtype=torch.int32)
    for row, word in zip(dense, words, strict=False):
        row[room[1] - len(word) :] = torch.tensor(word, dtype=torch.int32)
    return dense


@triton.jit
def _float_word(p_word):
    return tl.load(p_word).to(tl.float32, bitcast=True)


@triton.jit
def _root_of(p_sequence, Table, p_row):
    """The bit of a row's chain mask that is the root's."""
    first = head_of(Table, seat_of(p_row, True), True)
    return (load_int64(p_sequence + _HEAD, True) - first).to(tl.int32)


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
    Ids,  # [vocab] the token of a column; never touched without HAS_IDS
    Out,  # [rows, vocab] float32, written
    out_stride,
    seat_stride,  # stride of the four lists above
    first_row,
    vocab,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    HAS_IDS: tl.constexpr,  # else columns are tokens; the four above are over the tokens
):
    """One program per row and CHUNK tokens.  x <- masked; + bias; repetition; frequency; presence.

    x stays what it is if the row's sequence does not shape.
    A row's ancestors, from its masks, are counted in addition to the trunk, so nothing has to be
    undone.
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
    if tl.load(Block + _ACTIVE) != 0:
        at = seat_of(p_row, True).to(tl.int64) * seat_stride + o_token
        kinds = tl.load(TokenMask + at, mask=m, other=1)
        too_early = position < load_int64(Block + _ENDS_FROM, True)
        x = tl.where(((kinds & 1) != 0) | (((kinds & 2) != 0) & too_early), float("-inf"), x)
        x += tl.load(Bias + at, mask=m, other=0.0)
        if tl.load(Block + _PENALISES) != 0:
            count = tl.load(Counts + at, mask=m, other=0)
            seen = tl.load(Seen + at, mask=m, other=0) != 0
            extra = tl.zeros((CHUNK,), tl.int32)
            # The root's bit need not be bit 0, because a draft's KV may lag the trunk. Later bits
            # are nodes.
            root = _root_of(Block, Table, p_row)
            chain_low = load_unsigned(p_row + ROW_CHAIN, True)
            chain_high = load_unsigned(p_row + ROW_CHAIN + 1, True)
            hung = tl.load(Block + _CHAIN_SIZE)
            o_bit = tl.arange(0, SLOTS)
            in_chain = has_bit(chain_low, chain_high, o_bit) != 0
            if (chain_low | chain_high) != 0:
                for bit in range(root + 1, tl.max(tl.where(in_chain, o_bit, 0), axis=0) + 1):
                    if has_bit(chain_low, chain_high, bit + tl.zeros((), tl.int32)) != 0:
                        node = bit - root
                        p_token = Block + tl.where(node <= hung, _CHAIN_TOKEN, _BRANCH_TOKEN) + node
                        extra += (o_token == tl.load(p_token)).to(tl.int32)
            tail_low = load_unsigned(p_row + ROW_TAIL, True)
            tail_high = load_unsigned(p_row + ROW_TAIL + 1, True)
            if (tail_low | tail_high) != 0:
                p_tail = Block + _BRANCH_TOKEN + tl.load(p_row + ROW_BRANCH) * _BRANCH_WORDS
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


@triton.jit
def _still_like(match, Words, o_word, n_words, longest, back, token):
    """The words among `match` whose `back`-th token before the last is `token`, or that are
    shorter."""
    inside = (o_word < n_words) & (back < longest)
    expected = tl.load(Words + o_word * longest + longest - 1 - back, mask=inside, other=-1)
    return match & ((expected < 0) | (expected == token))


@triton.jit
def _ban_kernel(
    Block,  # [seats, words] the sequences
    Table,  # [words] Batch
    Words,  # [seats, n_words, longest] dense_words
    Trunk,  # [seats, positions]
    Out,  # [rows, vocab] float32: sets the last tokens of words that the rows have begun to -inf
    out_stride,
    first_row,
    n_words,
    longest,
    positions,
    WORDS: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """One program per row and WORDS words; it walks from the row back to the trunk."""
    i_row = tl.program_id(0).to(tl.int64)
    if first_row + i_row >= tl.load(Table + TABLE_N):
        return
    o_word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    p_row = Table + TABLE_ROWS + (first_row + i_row) * ROW_WORDS
    seat = seat_of(p_row, True).to(tl.int64)
    Block += seat * SEQUENCE_WORDS
    if tl.load(Block + _ACTIVE) == 0:
        return
    Words += seat * n_words * longest
    Trunk += seat * positions
    head = load_int64(Block + _HEAD, True)
    root = _root_of(Block, Table, p_row)
    hung = tl.load(Block + _CHAIN_SIZE)
    chain_low = load_unsigned(p_row + ROW_CHAIN, True)
    chain_high = load_unsigned(p_row + ROW_CHAIN + 1, True)
    tail_low = load_unsigned(p_row + ROW_TAIL, True)
    tail_high = load_unsigned(p_row + ROW_TAIL + 1, True)
    p_tail = Block + _BRANCH_TOKEN + tl.maximum(tl.load(p_row + ROW_BRANCH), 0) * _BRANCH_WORDS
    match = o_word < n_words
    back = 1
    for i in range(0, SLOTS):
        bit = SLOTS - 1 - i
        if has_bit(tail_low, tail_high, bit + tl.zeros((), tl.int32)) != 0:
            token = tl.load(p_tail + bit)
            match = _still_like(match, Words, o_word, n_words, longest, back, token)
            back += 1
    for i in range(0, SLOTS - 1 - root):
        node = SLOTS - 1 - root - i
        if has_bit(chain_low, chain_high, root + node + tl.zeros((), tl.int32)) != 0:
            token = tl.load(Block + tl.where(node <= hung, _CHAIN_TOKEN, _BRANCH_TOKEN) + node)
            match = _still_like(match, Words, o_word, n_words, longest, back, token)
            back += 1
    for of_trunk in range(0, longest - back):
        at = head - of_trunk
        token = tl.load(Trunk + at, mask=(at >= 0) & (at < positions), other=-2)
        match = _still_like(match, Words, o_word, n_words, longest, back + of_trunk, token)
    last = tl.load(Words + o_word * longest + longest - 1, mask=match, other=-1)
    p_out = Out + i_row * out_stride + tl.maximum(last, 0)
    tl.store(p_out, float("-inf"), mask=match & (last >= 0))


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
    """out = logits as the request wants them, each row with its own ancestors counted.

    logits   [rows, vocab]  float16, bfloat16 or float32; row i is row first_row + i of the table
    sequence  int32 words of the sequences, one for each seat; table those of the Batch of this
             forward
    out      [rows, vocab]  float32, written, except rows from the table's n on
    ids      int32 [vocab]: the tokens of the columns; `shaping` is over tokens then, without words
    A row whose sequence does not shape is copied.

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
        _, n_words, longest = shaping.words.shape
        _ban_kernel[(rows, triton.cdiv(n_words, WORDS))](
            *(sequence, table, shaping.words, shaping.trunk, out, out.stride(0)),
            *(first_row, n_words, longest, shaping.trunk.shape[1]),
            WORDS=WORDS,
            SLOTS=SLOTS,
            num_warps=1,
            enable_fp_fusion=False,
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
    """The twin of `shape_logits` in plain torch: same arguments, effects and errors, any device."""
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
        path = _path(c, given.head[row.seat], row)
        out[i] = _penalised(x, tokens, c, path, own) if c.shaping.penalises else x
        out[i, _banned(c.head, path, own)] = float("-inf")
    return out


def _banned(head: int, path: list[int], shaping: Shaping) -> list[int]:
    """Last tokens of the bad words that would be completed next, by the lists of one seat."""
    if shaping.words is None or shaping.trunk is None:
        return []
    before = shaping.words.shape[1] - 1
    tokens = shaping.trunk[max(0, head + 1 - before) : head + 1].tolist() + path
    words = ([t for t in word if t >= 0] for word in shaping.words.tolist())
    return [
        word[-1]
        for word in words
        if word and tokens[max(0, len(tokens) - len(word) + 1) :] == word[:-1]
    ]


def _path(c: Sequence, table_head: int, row: Row) -> list[int]:
    """Tokens after the root that a row sees."""
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
        if token < len(extra):  # a looked-up chain may have tokens that a draft does not know
            extra[token] += 1
    extra = extra[tokens]
    count = shaping.counts[tokens] + extra
    y = torch.where(x > 0, x / s.repetition, x * s.repetition) - s.frequency * count.float()
    y = torch.where(count > 0, y - s.presence, y)
    return torch.where(shaping.seen[tokens].bool() | (extra > 0), y, x)


def check_ids(ids: torch.Tensor | None, columns: int) -> None:
    """Raises ValueError unless `ids` is None or has one int32 id for each column."""
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
    if ids is not None and shaping.words is not None:
        raise ValueError("words: expected none with ids")
    _check_words(shaping)


def _check_words(shaping: Shaping) -> None:
    if (shaping.words is None) != (shaping.trunk is None):
        raise ValueError("words: expected them with the trunk, or neither")
    for name, dims in (("words", 3), ("trunk", 2)):
        given = getattr(shaping, name)
        if given is None:
            continue
        if given.dtype != torch.int32 or given.dim() != dims or not given.is_contiguous():
            raise ValueError(
                f"{name}: expected contiguous int32 of {dims} dimensions but got {given.dtype} "
                f"{tuple(given.shape)}"
            )
