"""Masks bad words of several tokens on the device (csrc/ops/shaping.h).

If the text up to a row ends with all tokens of a bad word but the last, the last token is masked.
The public op is `ban_words`. Its twin in plain torch, for one row, is `ban_words_torch`. Bad words
are a flat list, because a captured launch must handle any number of words of any length.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import triton
import triton.language as tl

from .state import SLOTS, Branch, Sequence, offset, size
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
)

WORDS = 32  # number of bad words that a program checks together
SPLITS = 4  # programs per row
SEARCH = 20  # steps of a binary search in up to 2^20 columns
ACTIVE = tl.constexpr(offset(Sequence, "shaping"))
HEAD = tl.constexpr(offset(Sequence, "head"))
CHAIN_SIZE = tl.constexpr(offset(Sequence, "chain", "size"))
CHAIN_TOKEN = tl.constexpr(offset(Sequence, "chain", "token"))
BRANCH_TOKEN = tl.constexpr(offset(Sequence, "branches") + offset(Branch, "token"))
BRANCH_WORDS = tl.constexpr(size(Branch))


def flat_words(words: Iterable[list[int]], room: int) -> torch.Tensor:
    """Return bad words as one int32 [room] tensor (csrc/ops/choose.h, DenseShaping::words).

    The tensor begins with the number n of words and the length of the longest word. Then come n + 1
    offsets into the tokens, and the tokens of all words. Raises ValueError if the words need more
    room, or if a word has no token.
    """
    tokens: list[int] = []
    begins, longest = [0], 0
    for word in words:
        if not word:
            raise ValueError("words: expected at least one token but got none")
        tokens += word
        begins.append(len(tokens))
        longest = max(longest, len(word))
    flat = [len(begins) - 1, longest, *begins, *tokens]
    if len(flat) > room:
        raise ValueError(f"words: expected at most {room} numbers but got {len(flat)}")
    return torch.tensor(flat + [-1] * (room - len(flat)), dtype=torch.int32)


@triton.jit
def root_of(p_sequence, Table, p_row):
    """Returns the index of the root's bit in the chain mask of a row."""
    first = head_of(Table, seat_of(p_row, True), True)
    return (load_int64(p_sequence + HEAD, True) - first).to(tl.int32)


@triton.jit
def _still_like(match, p_last, length, back, token):
    """Returns the mask `match` without the words whose token `back` places before the last one is
    not `token`. Words that are too short to have such a token stay in the mask."""
    inside = match & (back < length)
    expected = tl.load(p_last - back, mask=inside, other=-1)
    return match & ((back >= length) | (expected == token))


@triton.jit
def _column_of(Ids, columns, token, SEARCH: tl.constexpr):
    """Returns the column of each token, found by binary search in Ids; -1 for a token without a
    column. Ids must ascend."""
    low = token * 0
    high = low + columns
    for _ in range(SEARCH + 1):
        middle = (low + high) // 2
        is_open = low < high
        is_less = tl.load(Ids + middle, mask=is_open, other=0) < token
        high = tl.where(is_open & (is_less == 0), middle, high)
        low = tl.where(is_open & is_less, middle + 1, low)
    found = tl.load(Ids + low, mask=low < columns, other=-1)
    return tl.where(found == token, low, -1)


@triton.jit
def _ban_kernel(
    Block,  # [seats, words] the sequences
    Table,  # [words] Batch
    Words,  # [seats, room] bad words as `flat_words` makes them
    Trunk,  # [seats, positions] tokens
    Ids,  # [columns] the token of each column; read only with HAS_IDS
    Out,  # [rows, columns] float32; -inf is written for each masked token
    out_stride,
    first_row,
    room,
    positions,
    columns,
    WORDS: tl.constexpr,
    SPLITS: tl.constexpr,
    SLOTS: tl.constexpr,
    SEARCH: tl.constexpr,
    HAS_IDS: tl.constexpr,
):
    """SPLITS programs per row. Each program compares WORDS bad words at once with the tokens of the
    row, from the last token backwards: tail, then chain, then trunk."""
    i_row = tl.program_id(0).to(tl.int64)
    if first_row + i_row >= tl.load(Table + TABLE_N):
        return
    p_row = Table + TABLE_ROWS + (first_row + i_row) * ROW_WORDS
    seat = seat_of(p_row, True).to(tl.int64)
    Block += seat * SEQUENCE_WORDS
    if tl.load(Block + ACTIVE) == 0:
        return
    Words += seat * room
    Trunk += seat * positions
    n_words = tl.load(Words)
    longest = tl.load(Words + 1)
    head = load_int64(Block + HEAD, True)
    root = root_of(Block, Table, p_row)
    hung = tl.load(Block + CHAIN_SIZE)
    chain_low = load_unsigned(p_row + ROW_CHAIN, True)
    chain_high = load_unsigned(p_row + ROW_CHAIN + 1, True)
    tail_low = load_unsigned(p_row + ROW_TAIL, True)
    tail_high = load_unsigned(p_row + ROW_TAIL + 1, True)
    p_tail = Block + BRANCH_TOKEN + tl.maximum(tl.load(p_row + ROW_BRANCH), 0) * BRANCH_WORDS
    for first in range(tl.program_id(1) * WORDS, n_words, SPLITS * WORDS):
        o_word = first + tl.arange(0, WORDS)
        match = o_word < n_words
        begin = tl.load(Words + 2 + o_word, mask=match, other=0)
        end = tl.load(Words + 3 + o_word, mask=match, other=0)
        length = end - begin
        p_last = Words + 2 + n_words + end
        back = 1
        for i in range(0, SLOTS):
            bit = SLOTS - 1 - i
            if has_bit(tail_low, tail_high, bit + tl.zeros((), tl.int32)) != 0:
                token = tl.load(p_tail + bit)
                match = _still_like(match, p_last, length, back, token)
                back += 1
        for i in range(0, SLOTS - 1 - root):
            node = SLOTS - 1 - root - i
            if has_bit(chain_low, chain_high, root + node + tl.zeros((), tl.int32)) != 0:
                token = tl.load(Block + tl.where(node <= hung, CHAIN_TOKEN, BRANCH_TOKEN) + node)
                match = _still_like(match, p_last, length, back, token)
                back += 1
        for of_trunk in range(0, longest - back):
            at = head - of_trunk
            token = tl.load(Trunk + at, mask=(at >= 0) & (at < positions), other=-2)
            match = _still_like(match, p_last, length, back + of_trunk, token)
        last = tl.load(p_last, mask=match, other=-1)
        if HAS_IDS:
            last = tl.where(match, _column_of(Ids, columns, last, SEARCH), -1)
        p_out = Out + i_row * out_stride + tl.maximum(last, 0)
        tl.store(p_out, float("-inf"), mask=match & (last >= 0))


def ban_words(
    sequence: torch.Tensor,
    table: torch.Tensor,
    words: torch.Tensor,
    trunk: torch.Tensor,
    *,
    out: torch.Tensor,
    first_row: int = 0,
    ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mask the last tokens of bad words in `out`, float32 [rows, columns].

    `out` must hold the result of `shape_logits`. Shaping describes `words` and `trunk`. Returns
    `out`. Allocates nothing.
    """
    _ban_kernel[(len(out), SPLITS)](
        *(sequence, table, words, trunk, words if ids is None else ids, out, out.stride(0)),
        *(first_row, words.shape[1], trunk.shape[1], out.shape[1]),
        WORDS=WORDS,
        SPLITS=SPLITS,
        SLOTS=SLOTS,
        SEARCH=SEARCH,
        HAS_IDS=ids is not None,
        num_warps=1,
        enable_fp_fusion=False,
    )
    return out


def ban_words_torch(
    out: torch.Tensor,
    words: torch.Tensor,
    trunk: torch.Tensor,
    path: list[int],
    tokens: torch.Tensor,
) -> None:
    """Plain-torch twin of `ban_words` for one row of one seat.

    out [columns]; words [room]; trunk: the tokens up to the head; path: the row's tokens after the
    head; tokens: the token of each column.
    """
    n, longest = words[:2].tolist()
    begins = words[2 : 3 + n].tolist()
    seen = [*trunk[max(0, len(trunk) - longest) :].tolist(), *path]
    for begin, end in pairwise(begins):
        word = words[3 + n + begin : 3 + n + end].tolist()
        if seen[max(0, len(seen) - len(word) + 1) :] == word[:-1]:
            out[tokens == word[-1]] = float("-inf")


def check_words_of(words: torch.Tensor | None, trunk: torch.Tensor | None) -> None:
    """Raise ValueError unless both tensors are contiguous 2-dimensional int32, or both are None."""
    if (words is None) != (trunk is None):
        raise ValueError("words: expected them with the trunk, or neither")
    for name, given in (("words", words), ("trunk", trunk)):
        if given is None:
            continue
        if given.dtype != torch.int32 or given.dim() != 2 or not given.is_contiguous():
            raise ValueError(
                f"{name}: expected contiguous int32 of 2 dimensions but got {given.dtype} "
                f"{tuple(given.shape)}"
            )
