"""Parts of the sampling pass for rejection sampling (csrc/round/accept_op.h).

The pass keeps the scores of each row: logit / temperature of the tokens that the filters leave. The
acceptance test compares the scores of target and draft. A draft draws its candidates with noise
that depends on their prefix, which is all tokens before them. The confidence of a candidate does
not depend on the draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .ban import BRANCH_TOKEN, BRANCH_WORDS, CHAIN_SIZE, CHAIN_TOKEN, root_of
from .state import MAX_TAIL, SLOTS, Branch, Row, Sequence, offset
from .words import (
    ROW_BRANCH,
    ROW_CHAIN,
    ROW_SEAT,
    ROW_TAIL,
    has_bit,
    load_int64,
    load_unsigned,
    seat_of,
)

DRAFT = 1  # kDraft of Use in csrc/ops/philox.h
STEP, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of mix64
DRAFT_ITEM = tl.constexpr(DRAFT << 30)
_STEP, _FIRST, _SECOND = (tl.constexpr(c) for c in (STEP, FIRST, SECOND))
_REJECTION = tl.constexpr(offset(Sequence, "policy", "rejection"))
_TRUNK_HASH = tl.constexpr(offset(Sequence, "trunk_hash"))
_IN_PLACE = tl.constexpr(offset(Sequence, "branches") + offset(Branch, "in_place"))
_SLOTS, _MAX_TAIL = tl.constexpr(SLOTS), tl.constexpr(MAX_TAIL)


@dataclass(frozen=True)
class Scores:
    """The memory in which the sampling pass keeps scores.

    rows        float32 [seats, rows, columns], contiguous. A target has a row for each node. A
                draft has rows for the chain, then for a certain branch, then for all tails
    tail_slots  number of nodes of a tail; 0 for a target
    """

    rows: torch.Tensor
    tail_slots: int = 0


@triton.jit
def draws_of(Block, temperature):
    """Return true if the sequence uses rejection sampling."""
    return (tl.load(Block + _REJECTION) != 0) & (temperature > 0)


@triton.jit
def _extended(hash, token):
    """Return the hash of a prefix that is extended by a token (csrc/ops/philox.h)."""
    z = hash ^ ((token + 1).to(tl.uint64) * _STEP)
    z = (z ^ (z >> 30)) * _FIRST
    z = (z ^ (z >> 27)) * _SECOND
    return z ^ (z >> 31)


@triton.jit
def prefix_of(Block, Table, p_row):
    """Return the hash of all tokens up to and including the row's own token, as int64."""
    hash = load_int64(Block + _TRUNK_HASH, True).to(tl.uint64)
    root = root_of(Block, Table, p_row)
    hung = tl.load(Block + CHAIN_SIZE)
    low = load_unsigned(p_row + ROW_CHAIN, True)
    high = load_unsigned(p_row + ROW_CHAIN + 1, True)
    o_bit = tl.arange(0, _SLOTS)
    last = tl.max(tl.where(has_bit(low, high, o_bit) != 0, o_bit, 0), axis=0)
    for bit in range(root + 1, last + 1):
        if has_bit(low, high, bit + tl.zeros((), tl.int32)) != 0:
            node = bit - root
            p_token = Block + tl.where(node <= hung, CHAIN_TOKEN, BRANCH_TOKEN) + node
            hash = _extended(hash, tl.load(p_token))
    low = load_unsigned(p_row + ROW_TAIL, True)
    high = load_unsigned(p_row + ROW_TAIL + 1, True)
    if (low | high) != 0:
        p_tail = Block + BRANCH_TOKEN + tl.load(p_row + ROW_BRANCH) * BRANCH_WORDS
        last = tl.max(tl.where(has_bit(low, high, o_bit) != 0, o_bit, 0), axis=0)
        for bit in range(0, last + 1):
            if has_bit(low, high, bit + tl.zeros((), tl.int32)) != 0:
                hash = _extended(hash, tl.load(p_tail + bit))
    return hash.to(tl.int64)


@triton.jit
def node_of(p_row):
    """Return the index of a row's node. It is below 0 if no token is drawn for the row."""
    return (tl.load(p_row + ROW_SEAT) << 16) >> 16


@triton.jit
def place_of(Block, p_row, score_rows, tail_slots, DISTS: tl.constexpr):
    """Return the index of a row's scores in the score rows of all seats."""
    row = node_of(p_row)
    if DISTS:
        branch = tl.load(p_row + ROW_BRANCH)
        if branch >= 0:
            in_place = tl.load(Block + _IN_PLACE + branch * BRANCH_WORDS) != 0
            of_tails = _SLOTS + _MAX_TAIL + branch * tail_slots
            row += tl.where(in_place, _SLOTS, of_tails)
    return seat_of(p_row, True).to(tl.int64) * score_rows + row


def draws_torch(c: Sequence) -> bool:
    """The twin of `draws_of`."""
    return bool(c.policy.rejection and c.sampling.temperature > 0)


def prefix_torch(c: Sequence, path: list[int]) -> int:
    """Return the same hash as `prefix_of`. path: the tokens after the root, up to the row's own."""
    found, word = int(c.trunk_hash), 2**64 - 1
    for token in path:
        z = found ^ ((token + 1) * STEP & word)
        z = (z ^ z >> 30) * FIRST & word
        z = (z ^ z >> 27) * SECOND & word
        found = z ^ z >> 31
    return found


def place_torch(c: Sequence, row: Row, tail_slots: int, dists: bool) -> int:
    """Return the same as `place_of`, but among the rows of one seat."""
    if not dists or row.branch < 0:
        return int(row.node)
    if c.branches[row.branch].in_place:
        return SLOTS + int(row.node)
    return SLOTS + MAX_TAIL + row.branch * tail_slots + int(row.node)
