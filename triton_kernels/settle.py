"""The only kernel that moves KV bytes: it moves an accepted path and an adopted branch's tail.

The public op is `ring_settle`. Its twin in plain torch is `ring_settle_torch`. Both move the KV of
all layers in place. They read the fields of the sequences that `settle` (csrc/round/settle.cc)
wrote: head, outcome, chain, source, the adopted branch. The fields `draft_have` and `draft_nodes`
tell which slots may be filled with NaN.

An accepted path of a chain without siblings needs no move. The KV of a seat that is not in the
round does not move. After a serial burst, only the KV of seats moves that waited for the burst.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
import triton
import triton.language as tl

from .state import (
    RECORDS,
    SLOTS,
    Branch,
    OnMiss,
    Sequence,
    check_words,
    mask_bits,
    of_seat,
    offset,
    size,
    struct,
)
from .words import SEQUENCE_WORDS, has_bit, load_int64, load_unsigned

MOVES = 16  # number of slots that are moved together


class Settle(Enum):
    """The kind of moves that a launch makes."""

    TARGET = 0  # the accepted path
    DRAFT = 1  # the accepted path, then the adopted branch's tail
    BURST = 2  # the tail of branch 0, after a serial burst


@dataclass(frozen=True)
class Seats:
    """The seats of an engine, and which of them take part in the current round (csrc/state/roll.h).

    count  number of seats
    slots  number of slots from the storage of one seat to that of the next
    roll   int32 [16]: eight words of 64 bits, one per round, with a bit for each seat
    ended  int32 [2]: number of the last round that ended, as 64 bits
    """

    count: int
    slots: int
    roll: torch.Tensor
    ended: torch.Tensor

    def members(self) -> list[int]:
        """Return the seats that take part. Only the twin calls this, on the host."""
        ended = int(self.ended.view(torch.int64))
        word = int(self.roll.view(torch.int64)[(ended + 1) % RECORDS])
        return [seat for seat in range(self.count) if word >> seat & 1]


_HEAD = tl.constexpr(offset(Sequence, "head"))
_CHAIN_SIZE = tl.constexpr(offset(Sequence, "chain", "size"))
_OUTCOME_N = tl.constexpr(offset(Sequence, "outcome", "n"))
_OUTCOME_BRANCH = tl.constexpr(offset(Sequence, "outcome", "branch"))
_PATH = tl.constexpr(offset(Sequence, "outcome", "path"))
_SOURCE = tl.constexpr(offset(Sequence, "source"))
_DRAFT_COMPACTS = tl.constexpr(offset(Sequence, "draft_compacts"))
_DRAFT_HAVE = tl.constexpr(offset(Sequence, "draft_have"))
_DRAFT_NODES = tl.constexpr(offset(Sequence, "draft_nodes"))
_DRAFT_IDLE = tl.constexpr(offset(Sequence, "draft_idle"))
_FILLED = tl.constexpr(offset(Sequence, "filled"))
_ON_MISS = tl.constexpr(offset(Sequence, "policy", "on_miss"))
_STEPS = tl.constexpr(offset(Sequence, "policy", "burst"))
_BURSTS = tl.constexpr(int(OnMiss.BURST))
_ROUNDS = tl.constexpr(RECORDS)
_BRANCHES = tl.constexpr(offset(Sequence, "branches"))
_BRANCH_WORDS = tl.constexpr(size(Branch))
_IN_PLACE = tl.constexpr(offset(Branch, "in_place"))
_HAS_DIST = tl.constexpr(offset(Branch, "has_dist"))


@triton.jit
def _ring_slot(base, o, capacity):
    """Returns the slot of position base + o, where 0 <= o < capacity."""
    slot = base % capacity + o
    return tl.where(slot >= capacity, slot - capacity, slot)


@triton.jit
def _takes_part(Roll, Ended, seat):
    """Returns True if a seat takes part in the current round, which follows the last one that
    ended."""
    p_word = Roll + 2 * ((load_int64(Ended, True) + 1) % _ROUNDS).to(tl.int32)
    return has_bit(load_unsigned(p_word, True), load_unsigned(p_word + 1, True), seat) != 0


@triton.jit
def _awaited_burst(Block):
    """Returns True if a serial burst of this round drafted the chain (csrc/round/chain.h)."""
    bursts = (tl.load(Block + _ON_MISS) == _BURSTS) & (tl.load(Block + _STEPS) > 0)
    return bursts & (tl.load(Block + _OUTCOME_BRANCH) < 0) & (tl.load(Block + _FILLED) == 0)


@triton.jit
def _ring_settle_kernel(
    Block,  # [seats, words] the sequences
    Roll,  # [16]; Roll and Ended are read only with HAS_ROLL
    Ended,  # [2]
    KV,  # [layers, kv_heads, slots, head_dim] keys; the values begin v_offset elements later
    v_offset,
    layer_stride,
    head_stride,
    slot_stride,
    kv_heads,
    slots,  # slots of a seat
    capacity,
    tail_slots,
    seat_slots,  # slots from one seat's storage to the next seat's storage
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    COMPACT: tl.constexpr,
    TAIL: tl.constexpr,  # tail to move; 0: none, 1: the adopted branch's, 2: branch 0's
    POISON: tl.constexpr,
    MOVES: tl.constexpr,
    HAS_ROLL: tl.constexpr,  # False: there is one seat, which takes part
):
    """One program per seat, layer and KV head, for keys or for values. It moves KV in order of
    depth.

    A node's index is never below its depth, so no move overwrites a slot that a later move reads.
    The kernel reads MOVES slots, waits at a barrier and writes them. Then it continues with the
    next MOVES slots.
    bytes = layers * kv_heads * moved slots * head_dim * size * 4
    """
    i = tl.program_id(0)
    seat = tl.program_id(2)
    Block += seat.to(tl.int64) * SEQUENCE_WORDS
    KV += seat.to(tl.int64) * seat_slots * slot_stride
    if HAS_ROLL:  # noqa: SIM102 (the outer condition is a compile-time constant)
        if not _takes_part(Roll, Ended, seat):
            return
    if TAIL == 2:  # noqa: SIM102
        if not _awaited_burst(Block):
            return
    layer = (i // kv_heads).to(tl.int64)
    p_slots = KV + layer * layer_stride + (i % kv_heads).to(tl.int64) * head_stride
    p_slots += tl.program_id(1).to(tl.int64) * v_offset
    o = tl.arange(0, MOVES)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < HEAD_DIM
    head = load_int64(Block + _HEAD, True)
    n = tl.load(Block + _OUTCOME_N)
    last = tl.load(Block + _CHAIN_SIZE)
    if COMPACT:
        old_head = head - n - 1
        deepest = n  # if the chain is a path, each node is in its place already
        if TAIL == 1:
            deepest = tl.where(tl.load(Block + _DRAFT_COMPACTS) != 0, n, 0)
        for start in range(0, deepest + 1, MOVES):
            depth = start + o
            m_move = (depth >= 1) & (depth <= deepest)
            node = tl.load(Block + _PATH + depth, mask=m_move, other=0)
            source = _ring_slot(old_head, node, capacity)
            target = _ring_slot(old_head, depth, capacity)
            m = (m_move & (source != target))[:, None] & m_d[None, :]
            x = tl.load(p_slots + source[:, None] * slot_stride + o_d[None, :], mask=m, other=0.0)
            tl.debug_barrier()
            tl.store(p_slots + target[:, None] * slot_stride + o_d[None, :], x, mask=m)
            tl.debug_barrier()
    branch = tl.load(Block + _OUTCOME_BRANCH)
    if TAIL == 2:
        branch = -tl.load(Block + _DRAFT_IDLE)  # branch 0, unless nothing was drafted
    if TAIL > 0 and branch >= 0:
        p_branch = Block + _BRANCHES + branch * _BRANCH_WORDS
        in_place = tl.load(p_branch + _IN_PLACE)
        for start in range(0, last + 1, MOVES):
            node = start + o
            # j: index of the tail's node that becomes chain node `node`; -1 if the node's token
            # does not come from the tail.
            j = tl.load(Block + _SOURCE + node, mask=node <= last, other=-1)
            has_dist = tl.load(p_branch + _HAS_DIST + j, mask=j >= 0, other=0)
            own = capacity + branch * tail_slots + j + tl.zeros((MOVES,), tl.int64)
            source = tl.where(in_place != 0, _ring_slot(head, j, capacity), own)
            target = _ring_slot(head, node, capacity)
            m = ((has_dist != 0) & (source != target))[:, None] & m_d[None, :]
            x = tl.load(p_slots + source[:, None] * slot_stride + o_d[None, :], mask=m, other=0.0)
            tl.debug_barrier()
            tl.store(p_slots + target[:, None] * slot_stride + o_d[None, :], x, mask=m)
            tl.debug_barrier()
    if POISON:
        nan = tl.full((MOVES, BLOCK_D), float("nan"), tl.float32).to(KV.dtype.element_ty)
        lowest = head
        kept_low = load_unsigned(Block + _DRAFT_NODES, TAIL > 0)
        kept_high = load_unsigned(Block + _DRAFT_NODES + 1, TAIL > 0)
        if TAIL > 0:
            lowest = tl.minimum(load_int64(Block + _DRAFT_HAVE, True), head)
        for start in range(0, 64, MOVES):
            slot = _ring_slot(lowest, start + o, capacity)
            node = lowest - head + start + o
            kept = (node >= 0) & (has_bit(kept_low, kept_high, tl.maximum(node, 0)) != 0)
            m = (~kept)[:, None] & m_d[None, :]
            tl.store(p_slots + slot[:, None] * slot_stride + o_d[None, :], nan, mask=m)
        if TAIL == 1:
            for start in range(capacity, slots, MOVES):
                slot = start + o + tl.zeros((MOVES,), tl.int64)
                m = (slot < slots)[:, None] & m_d[None, :]
                tl.store(p_slots + slot[:, None] * slot_stride + o_d[None, :], nan, mask=m)


def ring_settle(
    sequence: torch.Tensor,
    kv: torch.Tensor,
    *,
    capacity: int,
    tail_slots: int,
    what: Settle,
    poison: bool = False,
    seats: Seats | None = None,
) -> None:
    """Move a lane's KV to match the last outcome, in place, all layers and heads in one launch.

    sequence    int32 words of the sequences, one for each seat, as `settle` left them
    kv          [2, layers, kv_heads, slots, head_dim]  keys and values; the last stride must be 1
    capacity    positions of a ring; the tails follow the ring, with tail_slots slots per branch
    what        the kind of moves
    poison      for debugging: fill the slots that were dropped with NaN
    seats       None: there is one seat, which takes part

    Allocates nothing. Raises ValueError on invalid tensors.
    """
    _check(sequence, kv, capacity)
    layers, kv_heads, slots, head_dim = kv.shape[1:]
    count, each = (1, slots) if seats is None else (seats.count, seats.slots)
    roll = (sequence, sequence) if seats is None else (seats.roll, seats.ended)
    _ring_settle_kernel[(layers * kv_heads, 2, count)](
        sequence,
        *roll,
        kv,
        *kv.stride()[:4],
        *(kv_heads, each, capacity, tail_slots, each),
        **constants(head_dim, what, poison, seats is not None),
        num_warps=4,
    )


def constants(head_dim: int, what: Settle, poison: bool, has_roll: bool) -> dict[str, object]:
    """The kernel's compile-time arguments."""
    return {
        "HEAD_DIM": head_dim,
        "BLOCK_D": triton.next_power_of_2(head_dim),
        "COMPACT": what is not Settle.BURST,
        "TAIL": what.value,
        "POISON": poison,
        "MOVES": MOVES,
        "HAS_ROLL": has_roll,
    }


def ring_settle_torch(
    sequence: torch.Tensor,
    kv: torch.Tensor,
    *,
    capacity: int,
    tail_slots: int,
    what: Settle,
    poison: bool = False,
    seats: Seats | None = None,
) -> None:
    """Plain-torch twin of `ring_settle`. It makes one move after the other, as settle.cc does."""
    _check(sequence, kv, capacity)
    for seat in [0] if seats is None else seats.members():
        c = struct(Sequence, of_seat(sequence, seat)[: size(Sequence)])
        each = kv.shape[3] if seats is None else seats.slots
        own = kv[..., seat * each : (seat + 1) * each, :]
        if what is not Settle.BURST or _awaited_burst_torch(c):
            _settle_seat(c, own, (capacity, tail_slots), what)
            if poison:
                _poison(c, own, capacity, what)


def _awaited_burst_torch(c: Sequence) -> bool:
    bursts = c.policy.on_miss == _BURSTS.value and c.policy.burst > 0
    return bursts and c.outcome.branch < 0 and not c.filled


def _settle_seat(c: Sequence, kv: torch.Tensor, sizes: tuple[int, int], what: Settle) -> None:
    """Make the moves of one seat. kv: the seat's own slots; sizes: (capacity, tail_slots)."""
    capacity, tail_slots = sizes
    old_head = c.head - c.outcome.n - 1
    if what is Settle.TARGET or (what is Settle.DRAFT and c.draft_compacts):
        for depth in range(1, c.outcome.n + 1):
            source = (old_head + c.outcome.path[depth]) % capacity
            kv[..., (old_head + depth) % capacity, :] = kv[..., source, :].clone()
    of_burst = -1 if c.draft_idle else 0
    adopted = {Settle.TARGET: -1, Settle.DRAFT: c.outcome.branch, Settle.BURST: of_burst}[what]
    if adopted >= 0:
        branch = c.branches[adopted]
        for i in range(c.chain.size + 1):
            j = c.source[i]
            if j >= 0 and branch.has_dist[j]:
                own = capacity + adopted * tail_slots + j
                source = (c.head + j) % capacity if branch.in_place else own
                kv[..., (c.head + i) % capacity, :] = kv[..., source, :].clone()


def _poison(c: Sequence, kv: torch.Tensor, capacity: int, what: Settle) -> None:
    """Write NaN to every unused slot after the trunk. In a draft's lane, also write NaN to all
    tails."""
    is_target = what is Settle.TARGET
    lowest = c.head if is_target else min(c.draft_have, c.head)
    kept = 0 if is_target else mask_bits(c.draft_nodes)
    for p in range(lowest, lowest + SLOTS):
        if p < c.head or not kept >> (p - c.head) & 1:
            kv[..., p % capacity, :] = float("nan")
    if what is Settle.DRAFT:
        kv[..., capacity:, :] = float("nan")


def _check(sequence: torch.Tensor, kv: torch.Tensor, capacity: int) -> None:
    check_words("sequence", sequence, Sequence)
    if kv.dim() != 5 or kv.shape[0] != 2 or kv.stride(-1) != 1:
        raise ValueError(
            "kv: expected [2, layers, kv_heads, slots, head_dim] with contiguous heads but got "
            f"{tuple(kv.shape)}, stride {kv.stride()[-1:]}"
        )
    if not SLOTS <= capacity <= kv.shape[3]:
        raise ValueError(f"capacity: expected {SLOTS} to {kv.shape[3]} slots but got {capacity}")
